"""What a run will need, before it trains: ``lom estimate``.

Three looks at it, each cheaper than a step too many: the loader alone on real records, the model
without weights (:mod:`lom_core.memory`), and a few real steps. Nothing is written.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from lom_core.batch import Batch, Row
from lom_core.config import RunConfig
from lom_core.data import Reader, Stream
from lom_core.device import pick_device, products_dtype
from lom_core.distributed import Parallel
from lom_core.evaluate import evaluate, validation_readers
from lom_core.flops import flops_of, outline, peak_flops
from lom_core.loader import Loader
from lom_core.memory import Activations, Share, Sizes, activations, fake_model, shares, sizes_of
from lom_core.model import Lom, layouts
from lom_core.optim import Update
from lom_core.start import start, steps_of
from lom_core.tally import Tally
from lom_core.train import train_step

RECORDS, STEPS = 200, 10  # that are read at least: the first rows of a lane are not the usual ones
READ_SECONDS, PROBE_SECONDS = 20.0, 60.0  # after which a look ends early
WARM_UP = 2  # first steps, which compile and allocate
EVAL_BATCHES = 4  # that are timed of each validation set


@dataclass(frozen=True)
class Tokens:
    """Tokens per record that has any, as they are packed (after cropping)."""

    records: int
    mean: float
    min: int
    median: float
    max: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Tokens | None:
        if not lengths:
            return None
        n = np.array(lengths)
        return cls(len(n), float(n.mean()), int(n.min()), float(np.median(n)), int(n.max()))


@dataclass(frozen=True)
class Reading:
    """What the loader gave in ``steps`` steps, packed as training packs it.

    Args:
        tokens: per record; modalities: of each one, None where no record had it.
        fill: share of the slots that observations take.
        padded: the share that they would take if each were padded to the longest.
        seconds: per step, the loader alone with its workers.
        epoch: steps, None for a stream.
    """

    steps: int
    tokens: Tokens
    modalities: dict[str, Tokens | None]
    records_per_step: float
    tokens_per_step: float
    fill: float
    padded: float
    tally: Tally
    seconds: float
    epoch: float | None


@dataclass(frozen=True)
class Probe:
    """What a few real steps on this machine took.

    Args:
        steps: that were made. first: seconds of the first one. seconds: of one after warming up.
        peak: FLOP/s of matrix products that this device reaches at best; mfu: the share of it.
        memory: bytes beside what the process held before, at their most; None if unknown.
        evaluation: seconds of one evaluation of all named sets.
    """

    device: str
    steps: int
    first: float
    seconds: float
    peak: float
    mfu: float
    memory: int | None
    evaluation: float


@dataclass(frozen=True)
class Estimate:
    """All of it.

    Args:
        steps: of the run. rows_per_step, flops: of a step.
        memory: of each of ``processes`` processes by strategy, without activations.
        single: bytes of one process alone, as the run is set, with activations.
        available: bytes of the device.
        time: seconds of a step, all steps, all evaluations and the run.
    """

    sizes: Sizes
    reading: Reading
    steps: int
    rows_per_step: int
    flops: float
    activations: Activations
    processes: int
    memory: dict[str, Share]
    single: int
    available: int | None
    probe: Probe | None = None
    time: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def estimate(config: RunConfig, processes: int = 8, steps: int = 10) -> Estimate:
    """What the run will need.

    Args:
        processes: among which the strategies share the model.
        steps: of the probe; 0 makes none, and no weight is ever allocated.

    Errors:
        ConfigError, DataError: as ``train`` has them before its first step.
    """
    if config.system.num_threads:
        torch.set_num_threads(config.system.num_threads)
    source, validation = validation_readers(config)
    data = config.data
    reader = Reader(source, config.registry, data.block_size, data.shuf, config.objective.leads)
    reading, taken = read(reader, config, max(steps, STEPS))

    model = fake_model(config)
    sizes = sizes_of(model, config)
    batches = [batch for rows in taken for batch in _batches(rows, config)]
    flops = flops_of(model, [outline(batch) for batch in batches]) / len(taken)
    saved = activations(model, config, batches[0])
    kept = saved.checkpointed if config.system.activation_checkpointing else saved.whole
    epochs, n_steps = config.train.epochs, config.train.max_iters
    device = pick_device(config.system)
    found = Estimate(
        sizes=sizes,
        reading=reading,
        steps=steps_of(epochs, reader, config) if epochs else n_steps,
        rows_per_step=data.batch_size * data.gradient_accumulation_steps,
        flops=flops,
        activations=saved,
        processes=processes,
        memory=shares(sizes, processes),
        single=shares(sizes, 1)["ddp"].total + kept + saved.working,
        available=_available(device),
    )
    if not steps:
        return found
    result = probe(reader, validation, config, taken[:steps], flops, device)
    return replace(found, probe=result, time=expected(config, found.steps, reading, result))


# ------------------------------------------------------------------------------------ the loader


def read(reader: Reader, config: RunConfig, steps: int) -> tuple[Reading, list[list[Row]]]:
    """The loader alone, with the workers of the run; also the rows of its first ``steps`` steps.

    Errors:
        DataError, TooManyBadRecords: nothing, or too little, can be read.
    """
    loader = Loader(reader, config.data, config.train.seed)
    taken: list[list[Row]] = []
    lengths: list[int] = []
    counts: dict[str, list[int]] = {name: [] for name in reader.registry.names()}
    ticks = [time.perf_counter()]
    n_slots = 0
    for rows in loader:
        ticks.append(time.perf_counter())
        if len(taken) < steps:
            taken.append(rows)
        for row in rows:
            n_slots += row.n_slots
            lengths += [int(n) for n in row.lengths]
            for name, span in row.spans.items():
                counts[name] += _per_record(span.slots, row.lengths)
        late = ticks[-1] - ticks[0] > READ_SECONDS
        if (len(lengths) >= RECORDS and len(ticks) > steps + 1) or late:
            break
    n_steps = len(ticks) - 1
    tokens = Tokens.of([n - 1 for n in lengths])
    assert tokens is not None, "a step has a record, or the loader raises"
    # The first step waits for the workers to start; a single one is all there is.
    waited = np.diff(ticks)[1:] if n_steps > 1 else np.diff(ticks)
    per_step = len(lengths) / n_steps
    bad = loader.tally.n_bad / max(loader.tally.seen, 1)
    stream = isinstance(reader.source, Stream)
    return Reading(
        steps=n_steps,
        tokens=tokens,
        modalities={name: Tokens.of(found) for name, found in counts.items()},
        records_per_step=per_step,
        tokens_per_step=sum(n - 1 for n in lengths) / n_steps,
        fill=sum(lengths) / n_slots,
        padded=float(np.mean(lengths) / np.max(lengths)),
        tally=loader.tally,
        seconds=float(np.mean(waited)),
        epoch=None if stream else len(reader.source) * (1 - bad) / per_step,
    ), taken


def _per_record(slots: Any, lengths: Any) -> list[int]:
    """Tokens in each record that has any, of slots within a row."""
    owner = np.searchsorted(np.cumsum(lengths), slots, side="right")
    n = np.bincount(owner, minlength=len(lengths))
    return [int(k) for k in n[n > 0]]


def _batches(rows: list[Row], config: RunConfig) -> list[Batch]:
    size = config.data.batch_size
    sizes = layouts(config.registry)
    return [config.objective.prepare(rows[i : i + size], sizes) for i in range(0, len(rows), size)]


# ------------------------------------------------------------------------------------- the probe


def probe(
    reader: Reader,
    validation: dict[str, Reader],
    config: RunConfig,
    taken: list[list[Row]],
    flops: float,
    device: torch.device,
) -> Probe:
    """Real steps on rows that are read already, then a few batches of each validation set."""
    peak = peak_flops(device, products_dtype(config.system))
    alone = {
        "train": config.train.model_copy(update={"init_from": "scratch", "epochs": 0}),
        "system": config.system.model_copy(update={"cpu_offload": False}),
    }
    gauge = _Gauge(device)
    with TemporaryDirectory() as folder:  # which stays empty
        begun = start(config.model_copy(update=alone), reader, device, Path(folder))
    model, parallel = begun.model, Parallel(begun.model)
    update = Update(begun.optimizers, model.device, config.system.dtype)
    seconds: list[float] = []
    for rows in taken:
        began = time.perf_counter()
        step = train_step(parallel, update, rows, config, config.optimizer.learning_rate / 100)
        float(step.norm)  # waits for the device
        seconds.append(time.perf_counter() - began)
        if sum(seconds) > PROBE_SECONDS:
            break
    memory = gauge.read()
    steady = seconds[min(WARM_UP, len(seconds) - 1) :]
    usual = statistics.median(steady)
    return Probe(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        steps=len(seconds),
        first=seconds[0],
        seconds=usual,
        peak=peak,
        mfu=flops / usual / peak,
        memory=memory,
        evaluation=sum(_evaluation(model, r, config) for r in validation.values()),
    )


def _evaluation(model: Lom, reader: Reader, config: RunConfig) -> float:
    """Seconds of evaluating a set, from those of its first batches; of a stream these alone."""
    limit = config.train.eval_iters
    few = min(EVAL_BATCHES, limit or EVAL_BATCHES)
    began = time.perf_counter()
    _, tally = evaluate(model, reader, config, few)
    seconds = time.perf_counter() - began
    if isinstance(reader.source, Stream):
        return seconds * (limit or few) / few
    share = len(reader.source) / max(tally.seen, 1)
    return seconds * max(1.0, min(share, limit / few) if limit else share)


def expected(config: RunConfig, steps: int, reading: Reading, probe: Probe) -> dict[str, float]:
    """Seconds of the whole run on this machine, and what they are made of.

    Workers read while the device computes; without workers one waits for the other.
    """
    both = (probe.seconds, reading.seconds)
    step = max(both) if config.data.num_workers else sum(both)
    n_evaluations = 1 + -(-steps // config.train.eval_interval)
    of_steps = steps * step + max(0.0, probe.first - probe.seconds)
    evaluations = n_evaluations * probe.evaluation
    return {
        "step": step,
        "steps": of_steps,
        "evaluations": evaluations,
        "run": of_steps + evaluations,
    }


# ------------------------------------------------------------------------------------ the memory


class _Gauge:
    """The most memory held since it was made, beside what was held then."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self.before: int | None = torch.cuda.memory_allocated(device)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux)
            self.before = _status("VmRSS")
        except OSError:
            self.before = None

    def read(self) -> int | None:
        """Bytes; None where the system does not tell."""
        if self.before is None:
            return None
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) - self.before
        return _status("VmHWM") - self.before


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise OSError(f"no {key} in /proc/self/status")


def _available(device: torch.device) -> int | None:
    """Bytes of memory of the device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
