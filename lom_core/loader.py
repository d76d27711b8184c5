"""Loader: the lanes of this rank, read by worker processes, a step's rows at a time."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from lom_core.batch import Row, pack_row
from lom_core.config import DataConfig
from lom_core.data import Lane, LanePlan, LaneRow, LaneState, Reader, Stream, in_stream
from lom_core.errors import BadRecord, DataError, LomError
from lom_core.modality import ModalityRegistry
from lom_core.roles import Source, Tokens
from lom_core.seeds import Permutation, mix
from lom_core.signals import ASKING
from lom_core.tally import Tally


class Loader:
    """Endless steps: ``next(iter(loader))`` is the rows of this rank's lanes, in lane order.

    Args:
        reader: of the training source.
        config: the run's data section.
        seed: of the run.
        lanes: those of this process; None takes all of them.
        states: where every lane of the run stands; None starts at the beginning.
    """

    def __init__(
        self,
        reader: Reader,
        config: DataConfig,
        seed: int,
        lanes: range | None = None,
        states: Sequence[LaneState] | None = None,
    ) -> None:
        self.plan = LanePlan(
            lanes=config.batch_size * config.gradient_accumulation_steps,
            block_size=config.block_size,
            look_ahead=config.look_ahead,
            max_bad_fraction=config.max_bad_fraction,
            seed=seed,
            shuffle=config.shuffle,
            modality_dropout=config.modality_dropout,
            modality_dropout_ramp=config.modality_dropout_ramp,
        )
        self.reader = reader
        self.lanes = range(self.plan.lanes) if lanes is None else lanes
        self.states = list(states or [LaneState()] * self.plan.lanes)
        self.num_workers = min(config.num_workers, len(self.lanes))
        self.tally = Tally()

    def __iter__(self) -> Iterator[list[Row]]:
        for rows in self._steps():
            for lane_row in rows:
                self.states[lane_row.lane] = lane_row.state
                self.tally.add(lane_row.tally)
            self.tally.check(self.plan.max_bad_fraction)
            yield [lane_row.row for lane_row in rows]

    def _steps(self) -> Iterator[list[LaneRow]]:
        share = _Share(self.reader, self.plan, self.lanes, tuple(self.states))
        if not self.num_workers:
            yield from map(_raise_errors, share)
            return
        loader = DataLoader(
            share,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # or starting it would draw from the model's
            worker_init_fn=_leave_signals,
        )
        # Workers answer in turn, each with its lanes of the step.
        parts = map(_raise_errors, loader)
        while True:
            step = [lane_row for _ in range(self.num_workers) for lane_row in next(parts)]
            yield sorted(step, key=lambda lane_row: lane_row.lane)


class _Share(IterableDataset[Any]):
    """The lanes of one worker: every n_workers-th of this rank's."""

    def __init__(
        self, reader: Reader, plan: LanePlan, lanes: range, states: tuple[LaneState, ...]
    ) -> None:
        self.reader, self.plan, self.lanes, self.states = reader, plan, lanes, states

    def __iter__(self) -> Iterator[list[LaneRow] | LomError]:
        worker = get_worker_info()
        mine = self.lanes[worker.id :: worker.num_workers] if worker else self.lanes
        try:
            lanes = [iter(Lane(self.reader, self.plan, k, self.states[k])) for k in mine]
            while True:
                yield [next(lane) for lane in lanes]
        except LomError as error:  # sent as a value: the loader would wrap it in its traceback
            yield error


def _raise_errors(item: list[LaneRow] | LomError) -> list[LaneRow]:
    if isinstance(item, LomError):
        raise item
    return item


def _leave_signals(_: int) -> None:
    """In a worker: launchers send signals to all processes of a run, whose trainer answers them;
    a worker that died of one would take the trainer along before it has saved."""
    for name in ASKING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _as_is(item: Any) -> Any:
    return item


def eval_batches(
    reader: Reader, config: DataConfig, limit: int = 0
) -> Iterator[tuple[list[Row], Tally]]:
    """Each record once, in order, in batches of ``batch_size`` rows; the last ends in empty rows.

    Args:
        limit: batches at most; 0 reads all.
    """
    plan = LanePlan(
        lanes=1,
        block_size=config.block_size,
        look_ahead=config.look_ahead,
        max_bad_fraction=config.max_bad_fraction,
    )
    rows: list[Row] = []
    tally = Tally()
    n_batches = 0
    lane = Lane(reader, plan, 0, LaneState())
    for lane_row in lane:
        if len(rows) == config.batch_size:  # held back until it is known not to be the last
            yield rows, tally
            rows, tally, n_batches = [], Tally(), n_batches + 1
            if n_batches == limit:
                return
        rows.append(lane_row.row)
        tally.add(lane_row.tally)
    if rows:
        tally.add(lane.tally)  # bad records behind the last row
        empty = pack_row([], config.block_size, reader.registry.names())
        yield rows + [empty] * (config.batch_size - len(rows)), tally


class Every:
    """Records ``rank``, ``rank + size`` ... of a source: a rank's share of an evaluation."""

    def __init__(self, source: Source, rank: int, size: int) -> None:
        self.source, self.rank, self.size = source, rank, size

    def __len__(self) -> int:
        return max(0, -(-(len(self.source) - self.rank) // self.size))

    def __getitem__(self, index: int) -> Any:
        return self.source[self.rank + index * self.size]


class EveryOfStream(Every, Stream):
    """The same of a stream, which every rank reads."""

    def reaches(self, index: int) -> bool:
        return in_stream(self.source, self.rank + index * self.size)


def share_of(source: Source, rank: int, size: int) -> Source:
    """What a rank evaluates; the source itself where there is one rank."""
    if size == 1:
        return source
    return (EveryOfStream if isinstance(source, Stream) else Every)(source, rank, size)


class Part:
    """A seeded draw of a source's records: ``[start, stop)`` of its permutation."""

    def __init__(self, source: Source, seed: int, start: int, stop: int) -> None:
        self.source, self.start, self.stop = source, start, stop
        self.order = Permutation(len(source), seed)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.source[self.order(self.start + index)]


def open_sources(
    config: DataConfig, registry: ModalityRegistry, seed: int
) -> tuple[Source, dict[str, Source]]:
    """The training source and the named validation sources of a run.

    Errors:
        DataError: no records, or nothing left for training or validation.
    """
    train = config.dataset.build(registry)
    if not in_stream(train, 0):
        raise DataError("the training data set has no record")
    named = {name: dataset.build(registry) for name, dataset in config.eval.items()}
    for name, source in named.items():
        if not in_stream(source, 0):
            raise DataError(f"the validation data set '{name}' has no record")
    if named or config.val_fraction == 0:
        return train, named
    if isinstance(train, Stream):
        raise DataError(
            "a stream cannot be split: name validation sets in data.eval, or set val_fraction=0"
        )
    n = len(train)
    n_val = max(1, round(n * config.val_fraction))
    if n_val >= n:
        raise DataError(f"{n} record(s) cannot be split; name validation sets in data.eval")
    key = mix(seed, 0x5E7)
    return Part(train, key, n_val, n), {"val": Part(train, key, 0, n_val)}


def sample_tokens(reader: Reader, n_records: int, seed: int) -> dict[str, list[Tokens]]:
    """Tokens of up to ``n_records`` records by modality, to fit scales on; bad ones are left out
    (the lanes that read them in training count and report them).

    Errors:
        DataError: not one record could be used; says why the first could not.
    """
    source = reader.source
    stream = isinstance(source, Stream)
    n = n_records if stream else min(n_records, len(source))
    order = None if stream else Permutation(len(source), mix(seed, 0xF17))
    found: dict[str, list[Tokens]] = {name: [] for name in reader.registry.names()}
    first: BadRecord | None = None
    for i in range(n):
        if not in_stream(source, i):
            break
        try:
            for name, tokens in reader.tokens(source[order(i) if order else i]).items():
                found[name].append(tokens)
        except BadRecord as error:
            first = first or error
    if not any(found.values()):
        raise DataError(
            f"none of {n} records can be used; the first: {first or 'has no modality of this run'}"
        )
    return found
