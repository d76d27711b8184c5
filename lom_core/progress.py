"""Where a run stands, in a checkpoint and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lom_core.config import RunConfig
from lom_core.data import LaneState
from lom_core.errors import CheckpointError
from lom_core.tally import Tally


@dataclass
class Progress:
    """With weights, optimiser and random state it is all of a checkpoint."""

    step: int = 0
    max_iters: int = 0  # as the config says, or as its epochs come out
    tokens: int = 0
    best: float | None = None
    lanes: list[LaneState] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    run_ids: dict[str, str] = field(default_factory=dict)  # of trackers, by kind
    bad_steps: int = 0  # whose gradient was not finite
    stale: int = 0  # evaluations since the best one
    scaler: dict[str, Any] = field(default_factory=dict)


def read_progress(state: Mapping[str, Any], config: RunConfig) -> Progress:
    """Progress out of a checkpoint's state.

    Errors:
        CheckpointError: its lanes are not those of this run.
    """
    lanes = [LaneState(s["next"], tuple(s["carried"])) for s in state["lanes"]]
    share = config.data.batch_size * config.data.gradient_accumulation_steps
    if lanes and len(lanes) != share:
        raise CheckpointError(
            f"the checkpoint has {len(lanes)} rows a step, this run {share} (batch_size x "
            "gradient_accumulation_steps); keep their product"
        )
    kept = {f.name: state[f.name] for f in fields(Progress) if f.name in state}
    progress = Progress(**{**kept, "lanes": lanes, "tally": Tally(**state["tally"])})
    if not config.train.epochs:  # a resumed run may be made longer
        progress.max_iters = config.train.max_iters
    return progress
