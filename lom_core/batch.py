"""From observations to a batch: one flat sequence of slots, no padding grid and no mask.

An observation takes 1 + n slots: a learned BOS, then its n tokens. Observations lie end to end in
rows of a fixed number of slots, rows lie end to end in the batch; what is left at the end of a row
is a segment of its own that nobody looks at.

    slots     0   1  2  3   4   5  6   7        8   9 ...
              BOS a0 a1 a2  BOS b0 b1  (rest)   BOS c0 ...
    starts    0             4          7        8
              |--------- row 0 ---------|       |--- row 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from lom_core.roles import Array, Tokens


@dataclass(frozen=True)
class Observation:
    """One sample: the tokens of each modality, in the order in which they stand.

    ``seed`` is derived from the run's seed and the place of the sample in the run, so that masks
    and crops do not depend on ranks, workers or packing.
    """

    id: str
    tokens: Mapping[str, Tokens]
    seed: int = 0
    cropped: bool = False

    @property
    def n_slots(self) -> int:
        return 1 + sum(len(t) for t in self.tokens.values())


@dataclass(frozen=True)
class RowSpan:
    """The tokens of one modality in a row: numpy arrays, slots counted from the row's start."""

    content: Array
    positions: Array
    weights: Array
    slots: Array


@dataclass(frozen=True)
class Row:
    """``n_slots`` slots with observations packed into them."""

    n_slots: int
    ids: list[str]
    seeds: Array  # (o,) uint64
    lengths: Array  # (o,) int32, slots of each observation
    spans: dict[str, RowSpan]
    n_cropped: int = 0

    @property
    def used(self) -> int:
        return int(self.lengths.sum())


def pack_row(observations: Sequence[Observation], n_slots: int, names: Sequence[str]) -> Row:
    """Lay observations end to end. ``names`` are all modalities of the run, present or not."""
    parts: dict[str, list[tuple[Tokens, Array]]] = {name: [] for name in names}
    start = 0
    for observation in observations:
        slot = start + 1
        for name, tokens in observation.tokens.items():
            parts[name].append((tokens, np.arange(slot, slot + len(tokens))))
            slot += len(tokens)
        start = slot
    assert start <= n_slots, "lanes crop observations that are longer than a row"
    return Row(
        n_slots=n_slots,
        ids=[o.id for o in observations],
        seeds=np.array([o.seed for o in observations], dtype=np.uint64),
        lengths=np.array([o.n_slots for o in observations], dtype=np.int32),
        spans={name: _row_span(found) for name, found in parts.items() if found},
        n_cropped=sum(o.cropped for o in observations),
    )


def _row_span(parts: list[tuple[Tokens, Array]]) -> RowSpan:
    weights = [
        np.ones((len(t), 1), np.float32) if t.weights is None else t.weights for t, _ in parts
    ]
    return RowSpan(
        content=np.concatenate([t.content for t, _ in parts]),
        positions=np.concatenate([t.positions for t, _ in parts]),
        weights=_stack_weights(weights),
        slots=np.concatenate([slots for _, slots in parts]),
    )


def _stack_weights(weights: Sequence[Array]) -> Array:
    width = max(w.shape[1] for w in weights)
    return np.concatenate([np.broadcast_to(w, (len(w), width)) for w in weights])


@dataclass(frozen=True)
class Span:
    """The tokens of one modality in a batch. n may be 0: the modules run all the same.

    Args:
        content: (n, w) as stored, or (n,) int64 when discrete.
        positions: (n, p) float32.
        weights: (n, w) or (n, 1) float32, 0 = not observed.
        slots: (n,) int64, where each token stands.
        shown: (k,) int64, the tokens whose content stands in their slot.
        asked: (a,) int64, the tokens that are asked for.
        ask_slots: (a,) int64, where each question stands; its answer is read there.
    """

    content: Tensor
    positions: Tensor
    weights: Tensor
    slots: Tensor
    shown: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    asked: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    ask_slots: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def to(self, device: torch.device | str) -> Span:
        moved = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)}
        return Span(**moved)


@dataclass(frozen=True)
class Batch:
    """What the model reads.

    Args:
        n_slots: slots in the flat sequence.
        starts: (s + 1,) int32 on the CPU, where each segment begins, and n_slots at the end.
            Segments are observations, and the rests of rows.
        given: (s,) int32 on the CPU, how many leading slots of each segment all see one another;
            every further slot sees itself and all before it. 0 is causal attention, the
            segment's length is full attention, anything between is a prefix.
        bos: (o,) int64, the slot at which each observation begins.
        spans: one for each modality of the run.
        ids, seeds: (o,) of the observations' records.
    """

    n_slots: int
    starts: Tensor
    given: Tensor
    bos: Tensor
    spans: dict[str, Span]
    ids: list[str]
    seeds: Array

    def to(self, device: torch.device) -> Batch:
        """The same batch with its spans on a device; offsets stay on the CPU."""
        if self.bos.device == device:
            return self
        return replace(
            self,
            bos=self.bos.to(device, non_blocking=True),
            spans={name: span.to(device) for name, span in self.spans.items()},
        )

    @cached_property
    def counts(self) -> dict[str, float]:
        """How much each modality's answers weigh together: the sum of the asked values' weights.

        Computed where the batch is made (on the CPU), so that the step never waits for it. A
        (n, 1) weight stands for all values of its token.
        """
        return {
            name: float(span.weights[span.asked].sum(dtype=torch.float64))
            * (_width(span) / span.weights.shape[1])
            for name, span in self.spans.items()
        }

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of observations: what was read, without BOS and rests of rows."""
        return sum(len(span.slots) for span in self.spans.values())


def owners(slots: Tensor, bos: Tensor) -> Tensor:
    """(n,) which observation of the batch each slot (n,) is of; bos (o,) as in :class:`Batch`."""
    return torch.searchsorted(bos, slots, right=True) - 1


def _width(span: Span) -> int:
    return span.content.shape[1] if span.content.ndim == 2 else 1


@dataclass(frozen=True)
class Layout:
    """Sizes of each modality's tokens, for the spans of modalities that a batch lacks."""

    width: int
    pos_width: int
    discrete: bool


def pack(rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
    """Lay rows end to end. Nothing is shown and nothing is asked yet: objectives do that."""
    offsets = np.cumsum([0] + [row.n_slots for row in rows])
    lengths: list[int] = []
    bos: list[int] = []
    for row, offset in zip(rows, offsets, strict=False):
        starts = offset + np.cumsum(np.concatenate([[0], row.lengths[:-1]]))
        bos += [int(s) for s in starts[: len(row.lengths)]]
        lengths += [int(n) for n in row.lengths]
        if row.n_slots > row.used:
            lengths.append(row.n_slots - row.used)
    return Batch(
        n_slots=int(offsets[-1]),
        starts=torch.from_numpy(np.cumsum([0, *lengths]).astype(np.int32)),
        given=torch.zeros(len(lengths), dtype=torch.int32),
        bos=torch.tensor(bos, dtype=torch.int64),
        spans={name: _span(name, layout, rows, offsets) for name, layout in layouts.items()},
        ids=[i for row in rows for i in row.ids],
        seeds=np.concatenate([row.seeds for row in rows]),
    )


def _span(name: str, layout: Layout, rows: Sequence[Row], offsets: Array) -> Span:
    found = [
        (row.spans[name], o) for row, o in zip(rows, offsets, strict=False) if name in row.spans
    ]
    if not found:
        shape = (0,) if layout.discrete else (0, layout.width)
        return Span(
            content=torch.zeros(shape, dtype=torch.int64 if layout.discrete else torch.float32),
            positions=torch.zeros(0, layout.pos_width),
            weights=torch.zeros(0, 1),
            slots=torch.zeros(0, dtype=torch.int64),
        )
    return Span(
        content=torch.from_numpy(np.concatenate([s.content for s, _ in found])),
        positions=torch.from_numpy(np.concatenate([s.positions for s, _ in found])),
        weights=torch.from_numpy(_stack_weights([s.weights for s, _ in found])),
        slots=torch.from_numpy(np.concatenate([s.slots + o for s, o in found])),
    )
