"""Started trackers. Each library is imported by its own tracker alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lom_core.errors import ConfigError

if TYPE_CHECKING:
    from lom_core.builtin.training import Wandb


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

    def close(self) -> None:
        self.run.finish()
