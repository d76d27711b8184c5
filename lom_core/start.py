"""Where a run begins: model, optimisers and progress, from scratch, resumed, or from another's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lom_core import checkpoint
from lom_core.config import RunConfig
from lom_core.data import Lane, LanePlan, LaneState, Reader, Stream
from lom_core.distributed import World, place
from lom_core.errors import ConfigError
from lom_core.graft import transfer
from lom_core.loader import sample_tokens
from lom_core.model import Lom
from lom_core.optim import freeze, make_optimizers
from lom_core.progress import Progress, read_progress
from lom_core.seeds import mix
from lom_core.tally import Tally


@dataclass(frozen=True)
class Start:
    """What learns, what makes it learn, and where it stands."""

    model: Lom
    optimizers: list[torch.optim.Optimizer]
    progress: Progress
    told: list[str] = field(default_factory=list)  # what became of another run's weights


def start(
    config: RunConfig,
    reader: Reader,
    device: torch.device,
    out_dir: Path,
    world: World = World(),  # noqa: B008  frozen
) -> Start:
    """Begin as ``init_from`` and ``requeue`` say: every rank with the same weights.

    Errors:
        ConfigError: the folder holds a run already; ``freeze`` or ``rates`` name nothing.
        CheckpointError: there is none, or it does not fit this run.
    """
    torch.manual_seed(config.train.seed)
    model = Lom(config.registry, config.model)
    plan = config.train
    resuming = plan.init_from == "resume" or (plan.requeue and _holds_a_run(out_dir))
    begin = _resume if resuming else _anew
    return begin(config, model, reader, device, out_dir, world)


def _holds_a_run(out_dir: Path) -> bool:
    return (checkpoint.root_of(out_dir) / "latest").exists()


def _resume(
    config: RunConfig,
    model: Lom,
    reader: Reader,
    device: torch.device,
    out_dir: Path,
    world: World,
) -> Start:
    found = checkpoint.find(out_dir, prefer="latest")
    state = checkpoint.read_state(found)
    checkpoint.check_lock(state["lock"], config.registry)
    progress = read_progress(state, config)
    checkpoint.load_weights(model, found)
    optimizers = _placed(config, model, device, world)
    checkpoint.load_optimizers(model, optimizers, found)
    if not checkpoint.load_random(found, world.rank, device):  # fewer ranks wrote it
        torch.manual_seed(mix(config.train.seed, state["step"], world.rank))
    if not world.main:  # counted once
        progress.tally = Tally()
    return Start(model, optimizers, progress)


def _anew(
    config: RunConfig,
    model: Lom,
    reader: Reader,
    device: torch.device,
    out_dir: Path,
    world: World,
) -> Start:
    plan, told = config.train, []
    if _holds_a_run(out_dir) and not plan.eval_only:
        raise ConfigError(
            f"{out_dir} holds a run already: init_from=resume continues it, another out_dir= "
            "starts a new one, or delete the folder"
        )
    if plan.init_from == "scratch":
        if config.model.lora_rank:
            raise ConfigError("lora_rank adapts a trained body: name its checkpoint in init_from")
    else:
        moved = transfer(model, checkpoint.find(plan.init_from), plan.origins)
        told = list(moved.told())
    if new := [name for name in config.registry.names() if not model.part(name).seen]:
        samples = sample_tokens(reader, config.data.fit_records, plan.seed)
        model.fit_scales({name: samples[name] for name in new})
    optimizers = _placed(config, model, device, world)
    if not world.main:  # what dropout draws
        torch.manual_seed(mix(plan.seed, world.rank))
    steps = steps_of(plan.epochs, reader, config) if plan.epochs else plan.max_iters
    return Start(model, optimizers, Progress(max_iters=steps), told)


def _placed(
    config: RunConfig, model: Lom, device: torch.device, world: World
) -> list[torch.optim.Optimizer]:
    """The optimisers of the model where it computes: they hold the very weights that are there."""
    freeze(model, config.optimizer)
    place(model, config.system, world, device)
    return make_optimizers(model, config.optimizer)


def steps_of(epochs: float, reader: Reader, config: RunConfig) -> int:
    """How many steps read the data so often, as rows come out of packing ``fit_records`` records.

    Errors:
        ConfigError: the data set is a stream, whose length nobody knows.
    """
    if isinstance(reader.source, Stream):
        raise ConfigError("epochs needs a data set of known length, not a stream; give max_iters")
    data, n = config.data, len(reader.source)
    n_lanes = data.batch_size * data.gradient_accumulation_steps
    wanted = min(n, data.fit_records)
    plan = LanePlan(-(-n // wanted), data.block_size, data.look_ahead, 1.0, config.train.seed, True)
    n_rows = placed = 0
    for row in Lane(reader, plan, 0, LaneState()):
        n_rows, placed = n_rows + 1, row.state.next - len(row.state.carried)
        if placed >= wanted:
            break
    return max(1, math.ceil(epochs * n * n_rows / (placed * n_lanes)))
