"""Data sets -> samples -> tokens -> rows: lanes that pack the same rows on any number of workers.

A step reads R rows (over all ranks and accumulation). Row position k is a *lane*: it reads samples
k, k + R, k + 2R ... of the endless sequence of epochs, each a seeded permutation, and packs them
into its next row. What a lane does depends on k and R alone, so the batches are the same whatever
the number of ranks, workers or accumulation steps; its state is a few whole numbers, so that
resuming is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from lom_core.batch import Observation, Row, pack_row
from lom_core.errors import BadRecord, DataError, LomError
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Encoder, Record, Source, Tokens, require_tokens
from lom_core.seeds import Permutation, mix
from lom_core.selection import crop, leave_out
from lom_core.tally import Tally

LARGEST = float(np.finfo(np.float32).max)  # beyond it float32 has inf
MAX_IN_A_ROW = 1000  # bad records after which a lane gives up, whatever the fraction


class Reader:
    """Record number -> Observation: tokenise, check, order the modalities, crop to a row."""

    def __init__(
        self,
        source: Source,
        registry: ModalityRegistry,
        block_size: int,
        shuf: bool = False,
        leads: Collection[str] = (),
    ) -> None:
        self.source, self.registry = source, registry
        self.block_size, self.shuf, self.leads = block_size, shuf, leads
        self.encoders: dict[str, Encoder] = {c.name: c.tokeniser.build() for c in registry}

    def over(self, source: Source) -> Reader:
        """The same reader of another source."""
        other = copy(self)
        other.source = source
        return other

    def read(
        self, index: int, seed: int | None, dropout: Mapping[str, float] | None = None
    ) -> Observation:
        """The observation of record ``index``; without a seed nothing is drawn (evaluation).

        Args:
            dropout: the chance that a modality is left out.

        Errors:
            BadRecord: the record cannot be used.
        """
        return self.observe(self.source[index], index, seed, dropout)

    def observe(
        self,
        record: Record,
        index: int,
        seed: int | None,
        dropout: Mapping[str, float] | None = None,
    ) -> Observation:
        """The same of a record that is at hand, ``index`` being its number."""
        tokens = self.tokens(record)
        if not tokens:
            raise BadRecord("no modality of this run was observed", row=index)
        if dropout and seed is not None:
            tokens = leave_out(tokens, dropout, seed)
        order = self.registry.generate_sequence(self.shuf and seed is not None, seed=seed)
        order.sort(key=lambda name: name not in self.leads)  # stable
        tokens = {name: tokens[name] for name in order if name in tokens}
        total = 1 + sum(len(t) for t in tokens.values())
        if total > self.block_size:
            tokens = crop(tokens, self.block_size - 1, seed)
        return Observation(
            id=str(record.get("id", index)),
            tokens=tokens,
            seed=mix(index) if seed is None else seed,
            cropped=total > self.block_size,
        )

    def tokens(self, record: Record) -> dict[str, Tokens]:
        """The checked tokens of each modality that the record and the run both have."""
        found = {}
        for config in self.registry:
            value = record.get(config.name)
            if value is None:
                continue
            ready = isinstance(value, Tokens)
            try:
                tokens = value if ready else self.encoders[config.name].encode(value)
                found[config.name] = checked(tokens, config)
            except BadRecord as error:
                where = error.file if error.file is not None else record.get("id")
                raise BadRecord(
                    f"{config.name}: {error.reason}", file=where, row=error.row, detail=error.detail
                ) from error
            except LomError:
                raise
            except (ValueError, OSError, LookupError, RuntimeError) as error:
                detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                reason = f"{config.name}: cannot be encoded"
                raise BadRecord(reason, file=record.get("id"), detail=detail) from error
        return {name: tokens for name, tokens in found.items() if len(tokens)}


def checked(tokens: Tokens, config: ModalityConfig) -> Tokens:
    """Tokens that keep the contract of docs/batch.md, or BadRecord saying what is wrong.

    Values of weight 0 become 0 here, so that nothing of what was not observed travels further.
    """
    require_tokens(tokens)
    tokeniser, content, weights = config.tokeniser, tokens.content, tokens.weights
    n, discrete = len(tokens), tokeniser.vocab_size > 0
    shape = (n,) if discrete else (n, tokeniser.width)
    if content.shape != shape:
        raise BadRecord("content of the wrong shape", detail=f"{content.shape}, expected {shape}")
    if tokens.positions.shape != (n, tokeniser.pos_width):
        raise BadRecord(
            "positions of the wrong shape",
            detail=f"{tokens.positions.shape}, expected {(n, tokeniser.pos_width)}",
        )
    if weights is not None:
        if weights.shape not in ((n, 1), (n, tokeniser.width)):
            raise BadRecord("weights of the wrong shape", detail=f"{weights.shape} for {shape}")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise BadRecord("weights that are negative or not finite")
        if not weights.any():
            raise BadRecord("no observed value")
    if content.dtype.kind not in "biuf":
        raise BadRecord("content that is no number", detail=str(content.dtype))
    observed = tokens.observed
    if discrete:
        inside = (content >= 0) & (content < tokeniser.vocab_size)
        if not (inside | ~observed[:, 0]).all():
            raise BadRecord("a token outside the vocabulary", detail=f"of {tokeniser.vocab_size}")
        given, content = content, np.where(inside, content, 0).astype(np.int64)
        if (inside & (given != content)).any():
            raise BadRecord("a token that is no whole number")
    elif weights is not None or content.dtype.kind == "f":
        if not ((np.abs(content) <= LARGEST) | ~observed).all():
            raise BadRecord("an observed value that is not finite (give it weight 0)")
        content = np.where(observed, content, content.dtype.type(0))
    finite = np.abs(tokens.positions) <= LARGEST
    if not (finite | ~observed.any(axis=1, keepdims=True)).all():
        raise BadRecord("a position that is not finite")
    positions = np.where(finite, tokens.positions, 0).astype(np.float32)
    if problem := config.position.check(positions):
        raise BadRecord(problem)
    return Tokens(content, positions, None if weights is None else weights.astype(np.float32))


@dataclass(frozen=True)
class LaneState:
    """Where a lane stands: its next sample, and those it read but has not placed yet."""

    next: int = 0
    carried: tuple[int, ...] = ()


@dataclass(frozen=True)
class LaneRow:
    """A row, the lane it came from, the lane's state after it, and what it saw on the way."""

    lane: int
    row: Row
    state: LaneState
    tally: Tally


class Lane:
    """One row position of the step: packs its share of the samples into rows."""

    def __init__(self, reader: Reader, plan: LanePlan, lane: int, state: LaneState) -> None:
        self.reader, self.plan, self.lane = reader, plan, lane
        self.next = state.next
        self.tally = Tally()
        self.pool: list[tuple[int, Observation]] = []
        for number in state.carried:  # counted when they were read first
            self._observe(number)

    def __iter__(self) -> Iterator[LaneRow]:
        while True:
            row = self._next_row()
            if row is None:
                return
            state = LaneState(self.next, tuple(number for number, _ in self.pool))
            tally, self.tally = self.tally, Tally()
            tally.cropped += row.n_cropped
            yield LaneRow(self.lane, row, state, tally)

    def _next_row(self) -> Row | None:
        """The oldest sample waiting, then whatever fits best, reading ahead to fill the row."""
        room = self.plan.block_size
        placed: list[Observation] = []
        while room > 1:
            fitting = [(o.n_slots, -i) for i, (_, o) in enumerate(self.pool) if o.n_slots <= room]
            if self.pool and not placed:
                choice = 0
            elif fitting and max(fitting)[0] == room:
                choice = -max(fitting)[1]
            elif len(self.pool) < self.plan.look_ahead and self._pull():
                continue
            elif fitting:
                choice = -max(fitting)[1]
            else:
                break
            observation = self.pool.pop(choice)[1]
            placed.append(observation)
            room -= observation.n_slots
        names = self.reader.registry.names()
        return pack_row(placed, self.plan.block_size, names) if placed else None

    def _pull(self) -> bool:
        """Read the next usable sample into the pool; False at the end of a single epoch."""
        for _ in range(MAX_IN_A_ROW):
            number = self.lane + self.plan.lanes * self.next
            if not self.plan.has(number, self.reader.source):
                return False
            self.next += 1
            self.tally.seen += 1
            if self._observe(number):
                return True
        raise self.tally.refusal(f"{MAX_IN_A_ROW} in a row")  # or the loader would wait for ever

    def _observe(self, number: int) -> bool:
        """Read a sample into the pool; False if it cannot be used, which is noted."""
        index, seed = self.plan.record(number, self.reader.source)
        dropout = self.plan.dropout(number, self.reader.registry)
        try:
            self.pool.append((number, self.reader.read(index, seed, dropout)))
        except BadRecord as error:
            self.tally.note(error)
            return False
        return True


@dataclass(frozen=True)
class LanePlan:
    """What all lanes of a run share.

    Sample number g of the run is record ``permutation(epoch)(g % N)`` of epoch ``g // N``.

    Args:
        lanes: rows of a step over all ranks and accumulation (R).
        seed: None reads one epoch in order and draws nothing (evaluation).
    """

    lanes: int
    block_size: int
    look_ahead: int = 8
    max_bad_fraction: float = 1.0
    seed: int | None = None
    shuffle: bool = False
    modality_dropout: float | Mapping[str, float] = 0.0
    modality_dropout_ramp: int = 0

    def dropout(self, number: int, registry: ModalityRegistry) -> dict[str, float] | None:
        """The chance that each modality is left out of sample ``number``."""
        rates = self.modality_dropout
        if not rates or self.seed is None:
            return None
        grown = min(1.0, number / self.modality_dropout_ramp) if self.modality_dropout_ramp else 1.0
        by_name = rates if isinstance(rates, Mapping) else dict.fromkeys(registry.names(), rates)
        return {name: grown * rate for name, rate in by_name.items()}

    def has(self, number: int, source: Source) -> bool:
        return self.seed is not None or in_stream(source, number)

    def record(self, number: int, source: Source) -> tuple[int, int | None]:
        """(record index, seed of the sample) of sample ``number``."""
        if self.seed is None:
            return number, None
        epoch, index = 0, number
        if not in_stream(source, number):
            epoch, index = divmod(number, len(source))
        if self.shuffle and not isinstance(source, Stream):
            index = Permutation(len(source), mix(self.seed, epoch))(index)
        return index, mix(self.seed, epoch, index)


def in_stream(source: Source, number: int) -> bool:
    """Is there a record ``number``? A stream finds out by reading."""
    return source.reaches(number) if isinstance(source, Stream) else number < len(source)


class Stream:
    """Records that can only be read in order, as a Source: a window of the latest is kept.

    Args:
        open_at: opens the stream at record i. Only called at the start, after a resume, and when
            a record older than the window is asked for.
        window: records kept; at least the samples that all lanes of a worker are apart.
    """

    def __init__(self, open_at: Callable[[int], Iterable[Record]], window: int = 4096) -> None:
        self.open_at, self.window = open_at, window
        self.length: int | None = None
        self._restart(0)

    def _restart(self, at: int) -> None:
        self._iterator: Iterator[Record] | None = None
        self._recent: dict[int, Record] = {}
        self._next = at

    def __getstate__(self) -> dict[str, Any]:
        return {"open_at": self.open_at, "window": self.window, "length": self.length}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._restart(0)

    def __len__(self) -> int:
        if self.length is None:
            raise DataError(
                "a stream's length is known at its end: what takes parts of data sets or puts "
                "them together needs one that is not streamed (hub: streaming: false)"
            )
        return self.length

    def reaches(self, index: int) -> bool:
        if self.length is not None:
            return index < self.length
        return self._read(index)

    def __getitem__(self, index: int) -> Record:
        if index not in self._recent and not self._read(index):
            raise IndexError(f"the stream ends before record {index}")
        return self._recent[index]

    def _read(self, index: int) -> bool:
        if index in self._recent:
            return True
        if index < self._next or self._iterator is None:
            self._restart(max(0, index - self.window // 2))  # the other lanes are near
            self._iterator = iter(self.open_at(self._next))
        while self._next <= index:
            record = next(self._iterator, None)
            if record is None:
                if self._next == 0:
                    raise DataError("the stream has no record")
                self.length = self._next
                return False
            self._recent[self._next] = record
            self._recent.pop(self._next - self.window, None)
            self._next += 1
        return True
