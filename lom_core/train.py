"""Training: read this file downward and you have read a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce
from operator import add
from pathlib import Path

import torch
from torch import Tensor

from lom_core import checkpoint
from lom_core.batch import Row
from lom_core.config import RunConfig
from lom_core.data import Reader
from lom_core.device import autocast, products_dtype
from lom_core.distributed import Parallel, World, is_shared, joined
from lom_core.errors import ConfigError, TrainingError
from lom_core.evaluate import HIGHER, Metrics, evaluate, examples, validation_readers
from lom_core.flops import outline, peak_flops
from lom_core.interval import Interval, Step
from lom_core.loader import Loader
from lom_core.monitor import Monitor, length
from lom_core.optim import Update, learning_rate
from lom_core.ratios import is_error
from lom_core.saving import Saver
from lom_core.signals import Signals, noted_signals
from lom_core.start import Start, start
from lom_core.tally import Tally


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
    plan, out_dir = config.train, Path(config.system.out_dir)
    lanes = world.lanes(config.data)
    source, validation = validation_readers(config)
    block_size, leads = config.data.block_size, config.objective.leads
    reader = Reader(source, config.registry, block_size, config.data.shuf, leads)
    begun = start(config, reader, device, out_dir, world)
    progress = begun.progress
    sets = {"train": source, **{name: reader.source for name, reader in validation.items()}}
    world.agree(
        {"step": progress.step, "max_iters": progress.max_iters}
        | {f"records of {name}": length(source) for name, source in sets.items()}
    )
    loader = Loader(reader, config.data, plan.seed, lanes, progress.lanes or None)
    loader.tally = progress.tally

    with (
        Monitor(config, out_dir, progress, world.main) as monitor,
        Saver(out_dir, world, is_shared(config.system, world), plan.staying) as saver,
    ):
        monitor.introduce(begun.model, source, validation)
        for line in begun.told:
            monitor.say(line)
        run = Run(config, begun, validation, monitor, saver, world)
        if plan.eval_only:
            run.evaluate()
        else:
            with noted_signals() as signals:
                run.steps(loader, signals)
        saver.wait()
        tally = Tally.of(world.gather(progress.tally))
        monitor.summarise(run.metrics, tally)
        if run.stopped:
            monitor.say(f"stopped at step {progress.step}: {run.stopped}; init_from=resume goes on")
    return TrainResult(out_dir, progress.step, run.metrics, tally, run.stopped)


@dataclass
class Run:
    """The loop and all that it holds."""

    config: RunConfig
    begun: Start
    validation: Mapping[str, Reader]
    monitor: Monitor
    saver: Saver
    world: World = field(default_factory=World)
    metrics: dict[str, Metrics] = field(default_factory=dict)
    stopped: str = ""

    def __post_init__(self) -> None:
        self.model, self.progress = self.begun.model, self.begun.progress
        dtype = self.config.system.dtype
        self.update = Update(self.begun.optimizers, self.model.device, dtype)
        self.peak = peak_flops(self.model.device, products_dtype(self.config.system))
        if self.progress.scaler:
            self.update.scaler.load_state_dict(self.progress.scaler)

    def steps(self, loader: Loader, signals: Signals) -> None:
        """Until ``max_iters``: step, log, evaluate, save, each when it is its turn."""
        plan, progress = self.config.train, self.progress
        parallel = Parallel(self.model, self.world, self.config.system.strategy)
        interval = Interval()
        if progress.step == 0:
            self.evaluate()
        rows_of = iter(loader)
        while progress.step < progress.max_iters and not self.stopped:
            asked = time.perf_counter()
            rows = next(rows_of)
            interval.waited += time.perf_counter() - asked
            rate = learning_rate(progress.step, self.config.optimizer, progress.max_iters)
            stop = signals.asked or self.saver.failed
            done = train_step(parallel, self.update, rows, self.config, rate, stop)
            interval.steps.append(done)
            progress.step += 1
            progress.lanes = loader.states

            # Who was asked to stop saves at once: an evaluation may outlast the time that is left.
            self.stopped = "a signal" if done.stop else ""
            last = progress.step == progress.max_iters
            evaluating = last or progress.step % plan.eval_interval == 0
            saving = last or plan.saves(progress.step) or bool(self.stopped)
            if evaluating or saving or progress.step % plan.log_interval == 0:
                self.log(interval, rate)
                interval = Interval()
            if evaluating:
                self.evaluate()
                interval = Interval()
            better = evaluating and self.is_best()
            if plan.patience and progress.stale >= plan.patience:
                self.stopped = self.stopped or "patience"
            if saving or better or self.stopped or (evaluating and plan.always_save_checkpoint):
                self.save(better)
                interval = Interval()

    def log(self, interval: Interval, rate: float) -> None:
        metrics, tokens = interval.metrics(self.model, self.world, self.peak)
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
        if self.config.train.ledger:
            first = self.progress.step - len(interval.steps) + 1
            self.monitor.note_records(first, interval.ledger(self.world))
        many = self.progress.bad_steps > self.config.train.max_bad_steps
        if many and not self.update.rescales:
            records = [i for part in self.world.gather(bad[-1] if bad else []) for i in part]
            raise TrainingError(
                f"the loss or its gradient is not finite at step {self.progress.step}, in "
                f"{self.progress.bad_steps} steps in all (max_bad_steps), which were skipped; try "
                "a lower learning_rate or more warmup_iters. The last of them read the records "
                f"{', '.join(records[:20])}{' ...' if len(records) > 20 else ''}"
            )

    def evaluate(self) -> None:
        """Every named set; the training stream and the random state are left as they are."""
        n_pictures = self.config.logging.pictures
        for name, reader in self.validation.items():
            limit = self.config.train.eval_iters
            metrics, tally = evaluate(self.model, reader, self.config, limit, world=self.world)
            self.metrics[name] = metrics
            self.monitor.log(name, self.progress.step, metrics)
            self.monitor.note(name, tally)
            if n_pictures:  # every rank predicts: each may hold a part of the weights
                self.model.eval()
                shown = list(examples(self.model, reader, self.config, n_pictures))
                self.model.train()
                self.monitor.draw(name, self.progress.step, shown)
        if self.metrics:
            best_value(self.config.train.best, self.metrics)  # a wrong name is told at once

    def is_best(self) -> bool:
        """Is the chosen metric better than ever before?"""
        if not self.metrics:
            return False
        value = best_value(self.config.train.best, self.metrics)
        if self.progress.best is not None and not value < self.progress.best:
            self.progress.stale += 1
            return False
        self.progress.best, self.progress.stale = value, 0
        return True

    def save(self, best: bool) -> None:
        """What all ranks know is gathered; the saver writes it beside the training."""
        world, progress = self.world, self.progress
        progress.run_ids = self.monitor.run_ids
        progress.scaler = self.update.scaler.state_dict()
        own = {k: progress.lanes[k] for k in world.lanes(self.config.data)}
        lanes = {k: state for part in world.gather(own) for k, state in part.items()}
        tally = Tally.of(world.gather(progress.tally))
        random = {
            f"random/{rank}/{name}": value
            for rank, found in enumerate(world.gather(checkpoint.random_state(self.model.device)))
            for name, value in found.items()
        }
        state = {
            **asdict(progress),
            "lanes": [asdict(lanes[k]) for k in sorted(lanes)],
            "tally": asdict(tally),
            "config": self.config.model_dump(mode="json"),
            "lock": checkpoint.lock(self.model.registry),
            "metrics": dict(self.metrics),
        }
        self.saver.save(self.model, self.update.optimizers, state, random, best)


def best_value(name: str, metrics: Mapping[str, Metrics]) -> float:
    """The metric by which checkpoints are compared, the lower the better.

    Errors:
        ConfigError: no set has it; lists those that there are.
    """
    head, _, tail = name.partition("/")
    own = head in metrics
    every = metrics[head] if own else next(iter(metrics.values()))
    found = {k: value for k, value in every.items() if not is_error(k)}
    key = tail if own else name
    if key not in found:
        sets = f" or {', '.join(metrics)} before them" if len(metrics) > 1 else ""
        raise ConfigError(f"best={name} is no metric; possible: {', '.join(found)}{sets}")
    return -found[key] if key.partition("/")[0] in HIGHER else found[key]


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
    model, device, size = parallel.model, parallel.device, config.data.batch_size
    batches = [
        config.objective.prepare(rows[i : i + size], model.layouts)
        for i in range(0, len(rows), size)
    ]
    names = model.registry.names()
    own = [sum(batch.counts[name] for batch in batches) for name in names]
    # Whether a rank was asked to stop travels along: all of them do so after the same step.
    *total, n_asked = parallel.world.total([*own, float(stop)])
    counts = dict(zip(names, total, strict=True))
    # Gradients are averaged over ranks, and wanted summed.
    share = {
        c.name: c.loss_weight * parallel.world.size / max(counts[c.name], 1e-12)
        for c in model.registry
    }
    totals: dict[str, Tensor] = {}
    for i, batch in enumerate(batches):
        with parallel.collecting(last=i == len(batches) - 1):
            with autocast(config.system, device):
                sums = parallel(batch.to(device))
            update.backward(reduce(add, (share[name] * sums[name] for name in names)))
        for name, value in sums.items():
            totals[name] = totals[name] + value.detach() if i else value.detach()
    norm = update.apply(config.optimizer, rate)
    return Step([outline(b) for b in batches], totals, counts, norm, n_asked > 0)
