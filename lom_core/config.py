"""RunConfig: everything a run needs, checked before anything starts.

A run file is YAML, or a Python file of plain literal assignments (read with ``ast``, never
executed). ``extends: base.yaml`` starts from another file. Leaf names are unique, so that
``batch_size=64``, ``--batch_size=64`` and ``data.batch_size=64`` all name the same thing; see
:mod:`lom_core.runfile` for how they are found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lom_core.errors import ConfigError
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Dataset, Objective, Tracker

Chance = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of the sections: frozen, no unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        polymorphic_serialization=True,
        protected_namespaces=(),
        ser_json_inf_nan="constants",
    )


class DataConfig(Section):
    """Where observations come from and how they are packed.

    Args:
        dataset: the training data.
        eval: named validation sets; without one, ``val_fraction`` of the training data is held
            out by a seeded draw of records and named ``val``.
        block_size: slots in a row; a longer observation is cropped to it.
        batch_size: rows in a batch, which one process takes at a time.
        gradient_accumulation_steps: batches a step, over all processes together.
        num_workers: loader processes; 0 reads in the main process.
        shuffle: a new seeded order each epoch.
        shuf: shuffle the order of the modalities within each observation.
        modality_dropout: the chance that a modality is left out of an observation that is trained
            on, for all modalities or by name; one always stays. Then a model can do without it.
        modality_dropout_ramp: that chance grows from 0 over the first so many records.
        max_bad_fraction: the run stops when more records than this cannot be used.
        fit_records: records on which scales are fitted.
        look_ahead: samples a lane may hold back to fill its rows.
    """

    dataset: Dataset
    eval: dict[str, Dataset] = {}
    val_fraction: float = Field(default=0.1, ge=0, lt=1)
    block_size: int = Field(default=1024, ge=2)
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    num_workers: int = Field(default=0, ge=0)
    shuffle: bool = True
    shuf: bool = False
    modality_dropout: Chance | dict[str, Chance] = 0.0
    modality_dropout_ramp: int = Field(default=0, ge=0)
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)
    fit_records: int = Field(default=1000, ge=1)
    look_ahead: int = Field(default=8, ge=1)

    @field_validator("eval")
    @classmethod
    def _not_train(cls, value: dict[str, Dataset]) -> dict[str, Dataset]:
        if "train" in value:
            raise ConfigError("a validation set cannot be named 'train'; metrics use that name")
        return value


class ModelConfig(Section):
    """The transformer.

    Args:
        n_layer, n_head, n_embd: depth, attention heads, width.
        norm: RMSNorm or LayerNorm, before each part of a block.
        mlp: ``swiglu`` (two thirds of the width, same size), ``gelu`` or ``relu2``.
        qk_norm: RMS-normalise queries and keys of each head.
        rotary: rotary embedding of a slot's place in its observation; off because positions come
            from the modality.
        bias: in linear layers and LayerNorm.
        dropout: on each block's outputs and on the embedding.
        lora_rank: above 0, the body's matrices stay as they are and learn a sum of so many outer
            products beside each (LoRA, Hu et al. 2021); ``lom checkpoint export`` adds them up.
    """

    n_layer: int = Field(default=6, ge=1)
    n_head: int = Field(default=6, ge=1)
    n_embd: int = Field(default=384, ge=2)
    norm: Literal["rms", "layer"] = "rms"
    mlp: Literal["swiglu", "gelu", "relu2"] = "swiglu"
    qk_norm: bool = False
    rotary: bool = False
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_rank: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _heads_divide(self) -> ModelConfig:
        if self.n_embd % self.n_head:
            raise ConfigError(
                f"n_embd={self.n_embd} is no multiple of n_head={self.n_head}; "
                f"nearest: {self.n_embd // self.n_head * self.n_head}"
            )
        if self.rotary and self.n_embd // self.n_head % 2:
            raise ConfigError(
                f"rotary needs an even n_embd / n_head, not {self.n_embd // self.n_head}"
            )
        return self


class OptimizerConfig(Section):
    """AdamW with decay on matrices only, and the learning rate's schedule.

    Args:
        algorithm: ``adamw``, or ``muon`` (Jordan et al. 2024) for the body's matrices.
        learning_rate: the highest one, after ``warmup_iters`` linear steps.
        weight_decay: of matrices; biases, norms and single vectors have none.
        beta1, beta2: AdamW's averaging of the gradient and of its square.
        schedule: after the warm-up, down to ``min_lr`` at step ``lr_decay_iters`` (None:
            ``max_iters``): ``cosine``, ``linear``, ``wsd`` (stable, then linear over the last
            ``decay_fraction``), ``constant``, or ``noam`` (1 / sqrt(step)).
        decay_lr: false is ``constant``, whatever the schedule.
        min_lr: None is a tenth of ``learning_rate``.
        grad_clip: largest norm of the whole gradient; 0 does not clip.
        layer_decay: each block learns at so much of the rate of the block above it; the heads at
            all of it.
        rates: factors of the learning rate by part: ``{parts.images: 0.1, "parts.*.head": 2}``.
        freeze: parts that do not learn: ``[body, parts.images]``.
    """

    algorithm: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(default=6e-4, gt=0)
    weight_decay: float = Field(default=0.1, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    grad_clip: float = Field(default=1.0, ge=0)
    schedule: Literal["cosine", "linear", "wsd", "constant", "noam"] = "cosine"
    decay_fraction: float = Field(default=0.2, gt=0, le=1)
    decay_lr: bool = True
    warmup_iters: int = Field(default=100, ge=0)
    lr_decay_iters: int | None = Field(default=None, ge=1)
    min_lr: float | None = Field(default=None, ge=0)
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    rates: dict[str, float] = {}
    freeze: tuple[str, ...] = ()

    @field_validator("rates")
    @classmethod
    def _not_negative(cls, value: dict[str, float]) -> dict[str, float]:
        for part, factor in value.items():
            if not 0 < factor < float("inf"):
                raise ConfigError(
                    f"rates.{part}={factor} must be above 0; freeze: [{part}] stops it"
                )
        return value


class TrainConfig(Section):
    """The loop.

    Args:
        max_iters: steps.
        epochs: instead of ``max_iters``: how often the data is read, in steps as they come out of
            packing ``fit_records`` records.
        eval_interval: steps between evaluations; the last step is always evaluated.
        eval_iters: batches of an evaluation; 0 evaluates every held-out record.
        eval_only: evaluate once and stop.
        log_interval: steps between lines of metrics.
        checkpoint_interval: steps between checkpoints, besides the best and the last.
        log_spaced: checkpoints also at steps 1, 2, 4, 8 ...
        keep: how many of those at intervals stay, the newest; 0 keeps all.
        best: the metric of the first named set (``rmse/images``), or of another
            (``bach/loss/midi``), by which the best checkpoint is chosen and ``patience`` counts.
        ledger: write the ids of each step's records to ``ledger.jsonl``.
        patience: stop after so many evaluations that are not the best; 0 never does.
        max_bad_steps: steps whose gradient is not finite are skipped and counted; more of them
            stop the run.
        always_save_checkpoint: also at evaluations that are not the best so far.
        init_from: ``scratch``, ``resume`` (the latest in ``out_dir``), or a checkpoint's path:
            its weights and scales start a new run; modalities that it lacks begin anew.
        origins: with the latter, modalities that begin as another one of the checkpoint did end:
            ``{answer: midi}``.
        requeue: go on with what ``out_dir`` holds; only where there is nothing yet, begin as
            ``init_from`` says. One command for the first start and for all later ones.
        seed: of weights, orders, masks, crops and held-out records.
    """

    max_iters: int = Field(default=1000, ge=0)
    eval_interval: int = Field(default=250, ge=1)
    eval_iters: int = Field(default=0, ge=0)
    eval_only: bool = False
    log_interval: int = Field(default=10, ge=1)
    epochs: float = Field(default=0, ge=0)
    checkpoint_interval: int = Field(default=1000, ge=1)
    log_spaced: bool = False
    keep: int = Field(default=0, ge=0)
    best: str = "loss"
    ledger: bool = False
    patience: int = Field(default=0, ge=0)
    max_bad_steps: int = Field(default=10, ge=0)
    always_save_checkpoint: bool = False
    init_from: str = "scratch"
    origins: dict[str, str] = {}
    requeue: bool = False
    seed: int = Field(default=1337, ge=0)

    def saves(self, step: int) -> bool:
        """Is there a checkpoint at this step, the best and the last aside?"""
        return step % self.checkpoint_interval == 0 or self._is_log_spaced(step)

    def staying(self, steps: Iterable[int]) -> set[int]:
        """Which checkpoints of these steps stay, though they are neither best nor latest."""
        steps = sorted(steps)
        at_intervals = [step for step in steps if step % self.checkpoint_interval == 0]
        return {*at_intervals[-self.keep :], *filter(self._is_log_spaced, steps)}

    def _is_log_spaced(self, step: int) -> bool:
        return self.log_spaced and step > 0 and step & (step - 1) == 0


class SystemConfig(Section):
    """Where and how it runs.

    Args:
        device: ``auto`` takes CUDA where there is one, else the CPU.
        dtype: of matrix products, by autocast; weights stay float32. ``float16`` scales the loss.
            ``pure_bfloat16`` keeps the body's weights and moments in bfloat16, too.
        strategy: what many processes share: ``ddp`` nothing, each has a whole model; ``zero1``
            the optimiser's moments, ``zero2`` gradients as well, ``fsdp`` weights as well.
        cpu_offload: weights, gradients and moments wait in the CPU's memory (CUDA, not ddp).
        activation_checkpointing: keep each block's input alone, and compute the rest again.
        compile: compile the transformer's body with torch.compile.
        num_threads: of the CPU; 0 leaves torch's choice.
        out_dir: everything the run writes.
    """

    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16", "pure_bfloat16"] = "bfloat16"
    strategy: Literal["ddp", "zero1", "zero2", "fsdp"] = "ddp"
    cpu_offload: bool = False
    activation_checkpointing: bool = False
    compile: bool = False
    num_threads: int = Field(default=0, ge=0)
    out_dir: str = "logs/lom"


class LoggingConfig(Section):
    """Where metrics go besides ``metrics.jsonl`` and the terminal.

    Args:
        log_via_wandb: shorthand for the tracker ``wandb`` with its defaults (offline).
        log_emissions: energy and CO2 by CodeCarbon (an extra), the tracker ``codecarbon``.
        trackers: tracker components, with their options.
        pictures: objects of each modality drawn beside their prediction at every evaluation.
    """

    log_via_wandb: bool = False
    log_emissions: bool = False
    trackers: list[Tracker] = []
    pictures: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _shorthands(self) -> LoggingConfig:
        for wanted, kind in ((self.log_via_wandb, "wandb"), (self.log_emissions, "codecarbon")):
            if wanted and not any(t.kind == kind for t in self.trackers):
                added = [*self.trackers, Tracker.model_validate(kind)]
                object.__setattr__(self, "trackers", added)
        return self


class RunConfig(Section):
    """A whole run: what ``lom train`` reads, and what a checkpoint keeps."""

    modalities: dict[str, ModalityConfig] = Field(min_length=1)
    data: DataConfig
    model: ModelConfig = ModelConfig()
    objective: Objective = Field(default_factory=lambda: Objective.model_validate("next_token"))
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    system: SystemConfig = SystemConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_sections(cls, value: Any) -> Any:
        """``train:`` with nothing below it is the section's defaults."""
        if not isinstance(value, Mapping):
            return value
        return {k: v for k, v in value.items() if v is not None}

    @field_validator("modalities", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A list of configs becomes a mapping by name; a mapping gives each config its name."""
        if isinstance(value, list | tuple):
            named = {}
            for config in value:
                name = config.get("name") if isinstance(config, Mapping) else None
                name = config.name if isinstance(config, ModalityConfig) else name
                if not isinstance(name, str):
                    raise ConfigError(
                        f"{repr(config)[:60]} has no name; a list holds {{name: ..., kind: ...}}, "
                        "a mapping is by name: {images: galaxy_images}"
                    )
                if name in named:
                    raise ConfigError(f"two modalities are named '{name}'; names must differ")
                named[name] = config
            value = named
        if isinstance(value, Mapping):
            return {name: _with_name(name, config) for name, config in value.items()}
        return value

    @model_validator(mode="after")
    def _known_dropout(self) -> RunConfig:
        dropout = self.data.modality_dropout
        for name in dropout if isinstance(dropout, dict) else ():
            self.registry.get_config(name)
        return self

    @property
    def registry(self) -> ModalityRegistry:
        return ModalityRegistry(self.modalities.values())


def _with_name(name: str, config: Any) -> Any:
    if isinstance(config, str):
        return {"kind": config, "name": name}
    if isinstance(config, Mapping):
        if config.get("name", name) != name:
            raise ConfigError(f"modality '{name}' calls itself '{config['name']}'; leave name out")
        return {**config, "name": name}
    return config
