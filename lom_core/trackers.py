"""Started trackers. Each library is imported by its own tracker alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lom_core.errors import ConfigError

if TYPE_CHECKING:
    from lom_core.builtin.training import Codecarbon, Wandb


class WandbLogger:
    """A Weights & Biases run; resuming continues the run of the same id."""

    def __init__(
        self, config: Wandb, out_dir: str, settings: Mapping[str, Any], run_id: str | None
    ) -> None:
        try:
            import wandb
        except ImportError:
            raise ConfigError("tracker 'wandb' needs `pip install lom-core[wandb]`") from None
        self.run = wandb.init(
            project=config.project,
            name=config.name,
            entity=config.entity,
            mode=config.mode,
            dir=out_dir,
            config=dict(settings),
            id=run_id,
            resume="allow" if run_id else None,
        )
        self.run_id: str | None = self.run.id

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # Training and evaluation log at the same step; wandb's own step must only ever grow.
        self.run.log({"step": step, **metrics})

    def picture(self, step: int, name: str, path: str) -> None:
        import wandb

        self.run.log({"step": step, name: wandb.Image(path)})

    def close(self) -> None:
        self.run.finish()


class TensorboardLogger:
    """Event files in ``tensorboard`` below the run's folder; a resumed run goes on in the same."""

    run_id: str | None = None

    def __init__(self, out_dir: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "tracker 'tensorboard' needs `pip install lom-core[tensorboard]`"
            ) from None
        self.writer = SummaryWriter(str(Path(out_dir) / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: str) -> None:
        from matplotlib.image import imread

        pixels = imread(path)[..., :3]
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class CodecarbonLogger:
    """Energy of this machine, by CodeCarbon, in ``emissions.json``: over all parts of a run."""

    run_id: str | None = None

    def __init__(self, config: Codecarbon, out_dir: str) -> None:
        try:
            from codecarbon import OfflineEmissionsTracker
        except ImportError:
            raise ConfigError(
                "tracker 'codecarbon' needs `pip install lom-core[emissions]`"
            ) from None
        self.country, self.path = config.country, Path(out_dir) / "emissions.json"
        before = json.loads(self.path.read_text(encoding="utf8")) if self.path.exists() else {}
        self.before: dict[str, float] = before
        self.tracker = OfflineEmissionsTracker(
            country_iso_code=config.country or "USA",  # without one its CO2 is not told
            output_methods=[],
            log_level="error",
            allow_multiple_runs=True,
        )
        self.tracker.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """It measures by itself, every 15 seconds."""

    def close(self) -> None:
        self.tracker.stop()
        data = self.tracker.final_emissions_data
        found = {"energy_kwh": data.energy_consumed, "hours": data.duration / 3600}
        if self.country:
            found["co2_kg"] = data.emissions
        total = {key: value + self.before.get(key, 0.0) for key, value in found.items()}
        told = {**total, "country": self.country, "measured_by": "codecarbon"}
        self.path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf8")
