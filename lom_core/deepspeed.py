"""DeepSpeed's JSON configuration in the words of a run file.

Only what the file says is translated: the rest stays as the run has it. What has no counterpart
here is listed, and what cannot be meant is an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lom_core.config import (
    DataConfig,
    LoggingConfig,
    OptimizerConfig,
    Section,
    SystemConfig,
    TrainConfig,
)
from lom_core.errors import ConfigError

STRATEGIES = {0: "ddp", 1: "zero1", 2: "zero2", 3: "fsdp"}
ADAM = ("adam", "adamw", "fusedadam", "deepspeedcpuadam", "cpuadam")
SECTION_OF: dict[str, type[Section]] = {
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "train": TrainConfig,
    "system": SystemConfig,
    "logging": LoggingConfig,
}
BATCHES = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
AUTO = "auto"


@dataclass
class Translation:
    """What a DeepSpeed file comes to.

    Args:
        run: a part of a run file: section -> key -> value.
        notes: what differs, a line each. left: keys without a counterpart.
    """

    run: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def set(self, section: str, **values: Any) -> None:
        self.run.setdefault(section, {}).update(values)


def load(path: Path) -> dict[str, Any]:
    """The content of a DeepSpeed file; ConfigError if it is not JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds no JSON object ({{...}}), as a DeepSpeed file does")
    return found


def translate(config: Mapping[str, Any], processes: int | None = None) -> Translation:
    """A DeepSpeed configuration as a part of a run file.

    Args:
        processes: how many will run; needed where the batch sizes alone do not tell.

    Errors:
        ConfigError: batch sizes that contradict one another, both fp16 and bf16, a ZeRO stage that
            does not exist, an optimiser or schedule that is not here.
    """
    made = Translation()
    known = _without_auto(config, "", made)
    _batches({key: known.pop(key) for key in BATCHES if key in known}, processes, made)
    _precision(known, made)
    for key, take in SECTIONS.items():
        if key in known:
            take(known[key], made)
    made.left += [key for key in known if key not in SECTIONS]
    system = made.run.get("system", {})
    if system.get("cpu_offload") and system.get("strategy", "ddp") == "ddp":
        raise ConfigError("offloading needs zero_optimization.stage 1, 2 or 3")
    for section, values in made.run.items():
        _check(section, values)
    return made


def _check(section: str, values: Mapping[str, Any]) -> None:
    """Are these values that a run file may hold?"""
    given = {"dataset": "records", **values} if section == "data" else values
    try:
        SECTION_OF[section].model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            key = str(problem["loc"][0])
            if key in values:
                raise ConfigError(f"{section}.{key}={values[key]!r}: {problem['msg']}") from None


def _without_auto(config: Mapping[str, Any], path: str, made: Translation) -> dict[str, Any]:
    """``auto`` is for a launcher to fill in: here the run file's own value stands."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        if value == AUTO:
            made.notes.append(f"{path}{key} is auto: the run file's own value stands")
        elif isinstance(value, Mapping):
            kept[key] = _without_auto(value, f"{path}{key}.", made)
        else:
            kept[key] = value
    return kept


# --------------------------------------------------------------------------------------- batches


def _batches(sizes: Mapping[str, Any], processes: int | None, made: Translation) -> None:
    """train_batch_size = micro batch x accumulation of a process x processes.

    Here ``gradient_accumulation_steps`` counts the batches of all processes together.
    """
    if not sizes:
        return
    for key, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{key}={value!r} is no whole number above 0")
    total, micro, steps = (sizes.get(key) for key in BATCHES)
    told = ", ".join(f"{key}={value}" for key, value in sizes.items())
    if total and micro:
        batches = total // micro
        share = (steps or 1) * (processes or 1)
        fits = batches == share if steps and processes else batches % share == 0
    elif not total and not micro:
        raise ConfigError(f"{told} does not say how large a batch is; give {BATCHES[1]}")
    elif processes is None:
        raise ConfigError(f"{told} depends on how many processes run; give --processes N")
    else:
        batches = (steps or 1) * processes
        micro = micro or (total or 0) // batches
        fits = True
    if not micro or not fits or total not in (None, micro * batches):
        among = f" on {processes} processes" if processes else ""
        raise ConfigError(
            f"{told}{among} contradict: train_batch_size must be {BATCHES[1]} x {BATCHES[2]} x "
            "processes"
        )
    made.set("data", batch_size=micro, gradient_accumulation_steps=batches)
    made.notes.append(
        f"a step has {batches} batches of {micro} rows over all processes, whatever their number; "
        "a row holds block_size slots, often several records"
    )


# ------------------------------------------------------------------------------------- precision


def _precision(known: dict[str, Any], made: Translation) -> None:
    """``fp16`` and ``bf16``: objects with ``enabled``, or plain booleans."""
    wanted = {}
    for key, dtype in (("fp16", "float16"), ("bf16", "bfloat16"), ("bfloat16", "bfloat16")):
        if key not in known:
            continue
        value = known.pop(key)
        settings = value if isinstance(value, Mapping) else {"enabled": value}
        if "enabled" in settings:
            wanted[dtype] = bool(settings["enabled"])
        # The loss is scaled as torch.amp.GradScaler does.
        made.left += [f"{key}.{name}" for name in settings if name != "enabled"]
    asked = [dtype for dtype, enabled in wanted.items() if enabled]
    if len(asked) > 1:
        raise ConfigError("fp16 and bf16 are both enabled; only one can be")
    if wanted:
        made.set("system", dtype=asked[0] if asked else "float32")


# --------------------------------------------------------------------------------- the other keys


def _object(value: Any, key: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={value!r} is no object ({{...}}), as DeepSpeed has it")
    return dict(value)


def _zero(value: Any, made: Translation) -> None:
    for key, setting in _object(value, "zero_optimization").items():
        if key == "stage":
            _stage(setting, made)
        elif key in ("offload_optimizer", "offload_param"):
            device = _object(setting or {}, key).get("device", "none")
            if device not in ("cpu", "none"):
                raise ConfigError(
                    f"zero_optimization.{key}.device={device} is not here; possible: cpu, none"
                )
            if device == "cpu":
                made.set("system", cpu_offload=True)
        elif key == "cpu_offload":
            _offload(setting, made)
        else:
            made.left.append(f"zero_optimization.{key}")


def _stage(value: Any, made: Translation) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value not in STRATEGIES:
        raise ConfigError(f"zero_optimization.stage={value!r}; possible: 0, 1, 2, 3")
    made.set("system", strategy=STRATEGIES[value])


def _offload(value: Any, made: Translation) -> None:
    if value:
        made.set("system", cpu_offload=True)
        made.notes.append("cpu_offload moves weights and gradients to the CPU, too, and needs CUDA")


def _checkpointing(value: Any, made: Translation) -> None:
    made.set("system", activation_checkpointing=bool(value) or value == {})
    if isinstance(value, Mapping):
        made.left += [f"activation_checkpointing.{key}" for key in value]


def _typed(value: Any, key: str) -> tuple[str, dict[str, Any]]:
    found = _object(value, key)
    return str(found.get("type", "")), _object(found.get("params", {}), f"{key}.params")


def _optimizer(value: Any, made: Translation) -> None:
    kind, params = _typed(value, "optimizer")
    if kind.lower() == "muon":
        made.set("optimizer", algorithm="muon")
    elif kind.lower() not in ADAM:
        raise ConfigError(f"optimizer.type={kind} is not here; possible: AdamW, Muon")
    elif params.pop("adam_w_mode", True) is False:
        raise ConfigError("optimizer.params.adam_w_mode=false (decay as a penalty) is not here")
    if "lr" in params:
        made.set("optimizer", learning_rate=params.pop("lr"))
    if "weight_decay" in params:
        made.set("optimizer", weight_decay=params.pop("weight_decay"))
        made.notes.append("weight_decay is on matrices only: not on biases, norms and vectors")
    if "betas" in params:
        betas = params.pop("betas")
        if not isinstance(betas, list) or len(betas) != 2:
            raise ConfigError(f"optimizer.params.betas={betas!r} are not two numbers")
        made.set("optimizer", beta1=betas[0], beta2=betas[1])
    if params.get("eps") == 1e-8:  # as here
        params.pop("eps")
    made.left += [f"optimizer.params.{key}" for key in params]


def _scheduler(value: Any, made: Translation) -> None:
    kind, params = _typed(value, "scheduler")
    schedules = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
    if kind not in schedules:
        raise ConfigError(f"scheduler.type={kind} is not here; possible: {', '.join(schedules)}")
    made.set("optimizer", schedule=schedules[kind])
    made.set("optimizer", warmup_iters=params.pop("warmup_num_steps", 1000))
    if "warmup_max_lr" in params:
        made.set("optimizer", learning_rate=params.pop("warmup_max_lr"))
    peak = made.run["optimizer"].get("learning_rate")
    if "total_num_steps" in params:
        made.set("optimizer", lr_decay_iters=params.pop("total_num_steps"))
        made.notes.append("total_num_steps is where the rate's decay ends; set max_iters yourself")
    if kind == "WarmupDecayLR":
        made.set("optimizer", min_lr=0.0)
    elif kind == "WarmupCosineLR":
        ratio = params.pop("cos_min_ratio", 1e-4)
        if not isinstance(peak, float | int) or not isinstance(ratio, float | int):
            raise ConfigError(
                "WarmupCosineLR needs optimizer.params.lr, of which it ends at a share"
            )
        made.set("optimizer", min_lr=peak * ratio)
    if kind != "WarmupCosineLR" and params.pop("warmup_type", "log") == "log":
        made.notes.append("the warm-up is linear here, not logarithmic")
    for key in ("warmup_min_lr", "warmup_min_ratio"):
        if params.pop(key, 0):
            made.notes.append(f"the warm-up begins near 0 here, not at scheduler.params.{key}")
    made.left += [f"scheduler.params.{key}" for key in params]


def _wandb(value: Any, made: Translation) -> None:
    value = _object(value, "wandb")
    made.set("logging", log_via_wandb=bool(value.get("enabled", False)))
    made.left += [f"wandb.{key}" for key in value if key != "enabled"]


SECTIONS: dict[str, Callable[[Any, Translation], None]] = {
    "zero_optimization": _zero,
    "zero_stage": _stage,
    "cpu_offload": _offload,
    "activation_checkpointing": _checkpointing,
    "gradient_checkpointing": _checkpointing,
    "gradient_clipping": lambda value, made: made.set("optimizer", grad_clip=value),
    # In this order, whatever the file's: a schedule reads the rate of the optimiser.
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "steps_per_print": lambda value, made: made.set("train", log_interval=value),
    "wandb": _wandb,
}
