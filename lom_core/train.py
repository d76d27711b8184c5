"""Training: read this file downward and you have read a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lom_core import checkpoint
from lom_core.batch import Batch, Row
from lom_core.config import RunConfig
from lom_core.data import LaneState, Reader, Tally
from lom_core.device import autocast
from lom_core.distributed import Parallel, World, joined
from lom_core.errors import CheckpointError, ConfigError, TrainingError
from lom_core.evaluate import Metrics, evaluate, validation_readers
from lom_core.loader import Loader, sample_tokens
from lom_core.model import Lom
from lom_core.monitor import Monitor
from lom_core.optim import Update, learning_rate, make_optimizer
from lom_core.seeds import mix
from lom_core.signals import Signals, noted_signals


@dataclass
class Progress:
    """Where a run stands; with weights, optimiser and random state it is all of a checkpoint."""

    step: int = 0
    tokens: int = 0
    best: float | None = None
    lanes: list[LaneState] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    run_ids: dict[str, str] = field(default_factory=dict)
    bad_steps: int = 0  # whose gradient was not finite
    stale: int = 0  # evaluations since the best one
    scaler: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainResult:
    """What ``train`` returns: where it wrote, its last evaluation of each set, its records.

    ``stopped`` says why it ended before ``max_iters``: "", "patience" or "a signal".
    """

    out_dir: Path
    step: int
    metrics: dict[str, Metrics]
    tally: Tally
    stopped: str = ""


def train(config: RunConfig) -> TrainResult:
    """Train as the config says.

    Errors:
        ConfigError, DataError: before the first step, for what can be known before it.
        TooManyBadRecords, TrainingError, CheckpointError: on the way.
    """
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    with joined(config.system) as (world, device):
        return _train(config, world, device)


def _train(config: RunConfig, world: World, device: torch.device) -> TrainResult:
    torch.manual_seed(config.train.seed)  # every rank begins with the same weights
    out_dir = Path(config.system.out_dir)
    lanes = world.lanes(config.data)

    source, validation = validation_readers(config)
    block_size, leads = config.data.block_size, config.objective.leads
    reader = Reader(source, config.registry, block_size, config.data.shuf, leads)
    model, optimizer, progress = start(config, reader, device, out_dir, world)
    if config.system.compile:
        model.body.compile()
    loader = Loader(reader, config.data, config.train.seed, lanes, progress.lanes or None)
    loader.tally = progress.tally

    with Monitor(config, out_dir, progress.step, progress.run_ids, world.main) as monitor:
        monitor.introduce(model, source, validation)
        run = Run(config, model, optimizer, validation, progress, out_dir, monitor, world)
        if config.train.eval_only:
            run.evaluate()
        else:
            with noted_signals() as signals:
                run.steps(loader, signals)
        tally = Tally.of(world.gather(progress.tally))
        monitor.summarise(run.metrics, tally)
        if run.stopped:
            monitor.say(f"stopped at step {progress.step}: {run.stopped}; init_from=resume goes on")
    return TrainResult(out_dir, progress.step, run.metrics, tally, run.stopped)


def start(
    config: RunConfig,
    reader: Reader,
    device: torch.device,
    out_dir: Path,
    world: World = World(),  # noqa: B008  frozen
) -> tuple[Lom, torch.optim.Optimizer, Progress]:
    """Model, optimiser and progress: from scratch, resumed, or from another run's checkpoint."""
    model = Lom(config.registry, config.model)
    source = config.train.init_from
    if source == "resume":
        found = checkpoint.find(out_dir, prefer="latest")
        state = checkpoint.read_state(found)
        checkpoint.check_lock(state["lock"], config.registry)
        checkpoint.load_weights(model, found)
        model.to(device)
        optimizer = make_optimizer(model, config.optimizer)
        checkpoint.load_optimizer(model, optimizer, found)
        if not checkpoint.load_random(found, world.rank, device):  # fewer ranks wrote it
            torch.manual_seed(mix(config.train.seed, state["step"], world.rank))
        progress = read_progress(state, config)
        if not world.main:  # counted once
            progress.tally = Tally()
        return model, optimizer, progress
    if source == "scratch":
        if (out_dir / "checkpoints" / "latest").exists() and not config.train.eval_only:
            raise ConfigError(
                f"{out_dir} holds a run already: init_from=resume continues it, another out_dir= "
                "starts a new one, or delete the folder"
            )
        model.fit_scales(sample_tokens(reader, config.data.fit_records, config.train.seed))
    else:
        found = checkpoint.find(source)
        checkpoint.check_lock(checkpoint.read_state(found)["lock"], config.registry)
        checkpoint.load_weights(model, found)
    model.to(device)
    if not world.main:  # what dropout draws
        torch.manual_seed(mix(config.train.seed, world.rank))
    return model, make_optimizer(model, config.optimizer), Progress()


@dataclass
class Run:
    """The loop and all that it holds."""

    config: RunConfig
    model: Lom
    optimizer: torch.optim.Optimizer
    validation: Mapping[str, Reader]
    progress: Progress
    out_dir: Path
    monitor: Monitor
    world: World = field(default_factory=World)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    stopped: str = ""

    def __post_init__(self) -> None:
        dtype = self.config.system.dtype
        self.update = Update(self.optimizer, self.model.bos.device, dtype)
        if self.progress.scaler:
            self.update.scaler.load_state_dict(self.progress.scaler)

    def steps(self, loader: Loader, signals: Signals) -> None:
        """Until ``max_iters``: step, log, evaluate, save, each when it is its turn."""
        plan, progress = self.config.train, self.progress
        interval, parallel = Interval(), Parallel(self.model, self.world)
        if progress.step == 0:
            self.evaluate()
        rows_of = iter(loader)
        while progress.step < plan.max_iters and not self.stopped:
            rows = next(rows_of)
            rate = learning_rate(progress.step, self.config.optimizer, plan.max_iters)
            interval.add(train_step(parallel, self.update, rows, self.config, rate, signals.asked))
            progress.step += 1
            progress.lanes = loader.states

            # Who was asked to stop saves at once: an evaluation may outlast the time that is left.
            self.stopped = "a signal" if interval.stop else ""
            last = progress.step == plan.max_iters
            turn = [
                last or progress.step % n == 0
                for n in (plan.log_interval, plan.eval_interval, plan.checkpoint_interval)
            ]
            if any(turn) or self.stopped:
                self.log(interval, rate)
                interval = Interval()
            if turn[1]:
                self.evaluate()
                interval = Interval()
            better = turn[1] and self.is_best()
            if plan.patience and progress.stale >= plan.patience:
                self.stopped = self.stopped or "patience"
            if (
                last
                or self.stopped
                or better
                or turn[2]
                or (turn[1] and plan.always_save_checkpoint)
            ):
                self.save(better)
                interval = Interval()

    def log(self, interval: Interval, rate: float) -> None:
        metrics, tokens = interval.metrics(self.world)
        self.progress.tokens += tokens
        weights = {c.name: c.loss_weight for c in self.model.registry}
        metrics["loss"] = sum(w * metrics.get(f"loss/{name}", 0.0) for name, w in weights.items())
        metrics |= {"learning_rate": rate, "tokens": float(self.progress.tokens)}
        tally = self.progress.tally
        seen = {"records": float(tally.seen), "bad_records": float(tally.n_bad)}
        metrics |= self.world.sums(seen)
        bad = interval.bad_steps()
        self.progress.bad_steps += len(bad)
        metrics["bad_steps"] = float(self.progress.bad_steps)
        self.monitor.log("train", self.progress.step, metrics)
        if self.progress.bad_steps > self.config.train.max_bad_steps:
            records = [i for part in self.world.gather(bad[-1] if bad else []) for i in part]
            raise TrainingError(
                f"the loss or its gradient is not finite at step {self.progress.step}, in "
                f"{self.progress.bad_steps} steps in all (max_bad_steps), which were skipped; try "
                "a lower learning_rate or more warmup_iters. The last of them read the records "
                f"{', '.join(records[:20])}{' ...' if len(records) > 20 else ''}"
            )

    def evaluate(self) -> None:
        """Every named set; the training stream and the random state are left as they are."""
        for name, reader in self.validation.items():
            limit = self.config.train.eval_iters
            metrics, tally = evaluate(self.model, reader, self.config, limit, world=self.world)
            self.metrics[name] = metrics
            self.monitor.log(name, self.progress.step, metrics)
            self.monitor.note(name, tally)

    def is_best(self) -> bool:
        """Is the first named set's loss the lowest so far?"""
        if not self.metrics:
            return False
        loss = next(iter(self.metrics.values()))["loss"]
        if self.progress.best is not None and not loss < self.progress.best:
            self.progress.stale += 1
            return False
        self.progress.best, self.progress.stale = loss, 0
        return True

    def save(self, best: bool) -> None:
        world, progress = self.world, self.progress
        progress.run_ids = self.monitor.run_ids
        progress.scaler = self.update.scaler.state_dict()
        own = {k: progress.lanes[k] for k in world.lanes(self.config.data)}
        lanes = {k: state for part in world.gather(own) for k, state in part.items()}
        tally = Tally.of(world.gather(progress.tally))
        random = world.gather(checkpoint.random_state(self.model.bos.device))
        if not world.main:
            world.gather(None)  # wait until it is written
            return
        state = {
            **asdict(progress),
            "lanes": [asdict(lanes[k]) for k in sorted(lanes)],
            "tally": asdict(tally),
            "config": self.config.model_dump(mode="json"),
            "lock": checkpoint.lock(self.model.registry),
            "metrics": self.metrics,
        }
        path = checkpoint.save(self.out_dir, self.model, self.optimizer, state, random)
        if best:
            checkpoint.point(self.out_dir, "best", path.name)
        checkpoint.prune(self.out_dir, self.config.train.checkpoint_interval)
        world.gather(None)


@dataclass(frozen=True)
class Step:
    """What a step leaves: this rank's batches and summed losses, and what all ranks share."""

    batches: list[Batch]
    sums: dict[str, Tensor]
    counts: Mapping[str, float]  # what the answers weigh, over all ranks
    norm: Tensor  # of the whole gradient, before clipping
    stop: bool  # a signal asked some rank to


def train_step(
    parallel: Parallel,
    update: Update,
    rows: Sequence[Row],
    config: RunConfig,
    rate: float,
    stop: bool = False,
) -> Step:
    """One step on this rank's rows of it, however many batches they make.

    Each modality's loss is its sum over all batches of the step and all ranks, over what its
    answers weigh together: accumulating over k batches, or sharing them among k ranks, equals one
    batch k times larger.
    """
    model, size = parallel.model, config.data.batch_size
    batches = [
        config.objective.prepare(rows[i : i + size], model.layouts)
        for i in range(0, len(rows), size)
    ]
    names = model.registry.names()
    own = [sum(batch.counts[name] for batch in batches) for name in names]
    # Whether a rank was asked to stop travels along: all of them do so after the same step.
    *total, n_asked = parallel.world.total([*own, float(stop)])
    counts = dict(zip(names, total, strict=True))
    totals: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        with parallel.collecting(last=i == len(batches) - 1):
            with autocast(config.system, model.bos.device):
                sums = parallel(batch.to(model.bos.device))
            loss = sum(
                c.loss_weight * sums[c.name] / max(counts[c.name], 1e-12) for c in model.registry
            )
            assert isinstance(loss, Tensor)  # a registry is never empty
            # Gradients are averaged over ranks, and wanted summed.
            update.backward(loss * parallel.world.size)
        totals = {name: totals.get(name, 0) + s.detach() for name, s in sums.items()}
    norm = update.apply(model, config.optimizer, rate)
    return Step(batches, totals, counts, norm, n_asked > 0)


class Interval:
    """Sums between two lines of metrics, kept on the device until they are read."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.norms: list[Tensor] = []
        self.ids: list[list[str]] = []
        self.tokens = self.slots = 0
        self.stop = False

    def add(self, step: Step) -> None:
        for name, value in step.sums.items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + step.counts[name]
        self.tokens += sum(batch.n_tokens for batch in step.batches)
        self.slots += sum(batch.n_slots for batch in step.batches)
        self.norms.append(step.norm)
        self.ids.append([i for batch in step.batches for i in batch.ids])
        self.stop = step.stop

    def bad_steps(self) -> list[list[str]]:
        """This rank's records of each step whose gradient was not finite."""
        finite = torch.stack(self.norms).isfinite().tolist()
        return [ids for ids, fine in zip(self.ids, finite, strict=True) if not fine]

    def metrics(self, world: World) -> tuple[Metrics, int]:
        """Mean losses, the last gradient norm, tokens a second, how full the rows were; tokens."""
        own = [float(value) for value in self.sums.values()]  # every rank runs every modality
        *sums, tokens, slots = world.total([*own, self.tokens, self.slots])
        found = {
            f"loss/{name}": value / self.counts[name]
            for name, value in zip(self.sums, sums, strict=True)
            if self.counts[name]
        }
        norm = float(self.norms[-1])  # waits for the device, so the clock is read after it
        seconds = time.perf_counter() - self.began
        metrics = {
            **found,
            "grad_norm": norm,
            "tokens_per_second": tokens / seconds,
            "fill": tokens / max(slots, 1),
        }
        return metrics, int(tokens)


def read_progress(state: Mapping[str, Any], config: RunConfig) -> Progress:
    """Progress out of a checkpoint's state; the lanes must be those of this run."""
    lanes = [LaneState(s["next"], tuple(s["carried"])) for s in state["lanes"]]
    share = config.data.batch_size * config.data.gradient_accumulation_steps
    if lanes and len(lanes) != share:
        raise CheckpointError(
            f"the checkpoint has {len(lanes)} rows a step, this run {share} (batch_size x "
            "gradient_accumulation_steps); keep their product"
        )
    kept = {f.name: state[f.name] for f in fields(Progress) if f.name in state}
    return Progress(**{**kept, "lanes": lanes, "tally": Tally(**state["tally"])})
