"""Objectives: which tokens are shown, which are asked for, and where the question stands.

A slot holds what is known (embed + place of its own token, if shown) plus a question (ask, the
modality and position of the asked token). The answer is read from the slot of the question.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from lom_core.batch import Batch, Layout, Row, Span, pack
from lom_core.roles import Array
from lom_core.seeds import splitmix

Rows = Sequence[Row]
Layouts = Mapping[str, Layout]


def next_token(rows: Rows, layouts: Layouts) -> Batch:
    """Every token is shown in its slot, and asked for in the slot before it. Causal."""
    batch = pack(rows, layouts)
    return replace(batch, spans={name: _in_turn(span) for name, span in batch.spans.items()})


def any_order(rows: Rows, layouts: Layouts) -> Batch:
    """Next token, with the tokens of each observation in an order of their own, drawn by seed."""
    batch = pack(rows, layouts)
    rank, _ = shuffled(batch)
    bos = batch.bos.numpy()

    def move(span: Span) -> Span:
        slots = span.slots.numpy()
        first = bos[np.searchsorted(bos, slots, side="right") - 1]
        return _in_turn(replace(span, slots=torch.from_numpy(first + 1 + rank[slots])))

    return replace(batch, spans={name: move(span) for name, span in batch.spans.items()})


def masked(rows: Rows, layouts: Layouts, ratio: float) -> Batch:
    """ceil(ratio x n) of each observation's n tokens are hidden and asked for in their own slots.

    Everybody sees everybody (full attention). Which tokens are hidden depends on the
    observation's seed and the token's place in it alone, not on packing.
    """
    batch = pack(rows, layouts)
    rank, n_tokens = shuffled(batch)
    hidden = torch.from_numpy(rank < np.ceil(ratio * n_tokens))
    return hide(batch, {name: hidden[span.slots] for name, span in batch.spans.items()})


def masked_but(rows: Rows, layouts: Layouts, given: Collection[str]) -> Batch:
    """All tokens of the modalities that are not given are hidden and asked for."""
    batch = pack(rows, layouts)
    hidden = {n: torch.full((len(s.slots),), n not in given) for n, s in batch.spans.items()}
    return hide(batch, hidden)


def hide(batch: Batch, hidden: Mapping[str, torch.Tensor]) -> Batch:
    """Tokens are hidden where ``hidden[modality]`` (n,) is True; everybody sees everybody."""

    def mark(span: Span, here: torch.Tensor) -> Span:
        asked = torch.nonzero(here).flatten()
        shown = torch.nonzero(~here).flatten()
        return replace(span, shown=shown, asked=asked, ask_slots=span.slots[asked])

    spans = {name: mark(span, hidden[name]) for name, span in batch.spans.items()}
    return replace(batch, spans=spans, given=batch.starts.diff().to(torch.int32))


def prefix(rows: Rows, layouts: Layouts, given: Collection[str]) -> Batch:
    """The given modalities stand first and all see one another; the others are asked in turn.

    The rows must have the given modalities first (``Objective.leads``).
    """
    batch = pack(rows, layouts)
    bos = batch.bos.numpy()
    leading = torch.zeros(len(batch.given), dtype=torch.int32)
    segment = torch.searchsorted(batch.starts[1:].long(), batch.bos, right=True)
    leading[segment] = 1  # BOS
    spans = {}
    for name, span in batch.spans.items():
        if name not in given:
            spans[name] = _in_turn(span)
            continue
        owner = np.searchsorted(bos, span.slots.numpy(), side="right") - 1
        n_given = torch.from_numpy(np.bincount(owner, minlength=len(bos)))
        leading[segment] += n_given.to(torch.int32)
        spans[name] = replace(span, shown=torch.arange(len(span.slots)))
    for name in given:
        slots = spans[name].slots.numpy()
        owner = np.searchsorted(bos, slots, side="right") - 1
        assert (slots < (batch.bos + leading[segment]).numpy()[owner]).all(), f"{name} is not first"
    return replace(batch, spans=spans, given=leading)


def _in_turn(span: Span) -> Span:
    """Shown in its slot, asked for in the slot before."""
    every = torch.arange(len(span.slots))
    return replace(span, shown=every, asked=every, ask_slots=span.slots - 1)


def shuffled(batch: Batch) -> tuple[Array, Array]:
    """A seeded random order of each observation's tokens.

    Returns:
        For each of the n_slots slots the rank of its token in the order (0, 1 ...; n_slots where
        there is no token), and how many tokens its observation has.
    """
    slots = np.sort(torch.cat([span.slots for span in batch.spans.values()]).numpy())
    bos = batch.bos.numpy()
    owner = np.searchsorted(bos, slots, side="right") - 1  # (n,) observation of each token
    place = slots - bos[owner]  # (n,) 1, 2 ... within the observation
    with np.errstate(over="ignore"):
        draw = splitmix(batch.seeds[owner] + place.astype(np.uint64))
    order = np.lexsort((draw, owner))  # by observation, then by draw
    n_of = np.bincount(owner, minlength=len(bos))
    rank = np.full(batch.n_slots, batch.n_slots)
    rank[slots[order]] = np.arange(len(slots)) - np.repeat(np.cumsum(n_of) - n_of, n_of)
    n_tokens = np.zeros(batch.n_slots, dtype=np.int64)
    n_tokens[slots] = n_of[owner]
    return rank, n_tokens
