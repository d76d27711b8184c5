"""Objectives: which tokens are shown, which are asked for, and where the question stands.

A slot holds what is known (embed + place of its own token, if shown) plus a question (ask, the
modality and position of the asked token). The answer is read from the slot of the question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from lom_core.batch import Batch, Layout, Row, Span, pack
from lom_core.roles import Array
from lom_core.seeds import splitmix


def next_token(rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
    """Every token is shown in its slot, and asked for in the slot before it. Causal."""

    def mark(span: Span) -> Span:
        every = torch.arange(len(span.slots))
        return replace(span, shown=every, asked=every, ask_slots=span.slots - 1)

    batch = pack(rows, layouts)
    return replace(batch, spans={name: mark(span) for name, span in batch.spans.items()})


def masked(rows: Sequence[Row], layouts: Mapping[str, Layout], ratio: float) -> Batch:
    """ceil(ratio x n) of each observation's n tokens are hidden and asked for in their own slots.

    Everybody sees everybody (full attention). Which tokens are hidden depends on the
    observation's seed and the token's place in it alone, not on packing.
    """
    batch = pack(rows, layouts)
    hidden = torch.from_numpy(hidden_slots(batch, ratio))

    def mark(span: Span) -> Span:
        hide = hidden[span.slots]
        asked = torch.nonzero(hide).flatten()
        return replace(
            span,
            shown=torch.nonzero(~hide).flatten(),
            asked=asked,
            ask_slots=span.slots[asked],
        )

    spans = {name: mark(span) for name, span in batch.spans.items()}
    return replace(batch, spans=spans, given=batch.starts.diff().to(torch.int32))


def hidden_slots(batch: Batch, ratio: float) -> Array:
    """(n_slots,) bool: a seeded choice of ceil(ratio x n) tokens in each observation."""
    slots = np.sort(torch.cat([span.slots for span in batch.spans.values()]).numpy())
    bos = batch.bos.numpy()
    owner = np.searchsorted(bos, slots, side="right") - 1  # (n,) observation of each token
    place = slots - bos[owner]  # (n,) 1, 2 ... within the observation
    draw = splitmix(batch.seeds[owner] + place.astype(np.uint64))
    order = np.lexsort((draw, owner))  # by observation, then by draw
    n_of = np.bincount(owner, minlength=len(bos))
    rank = np.arange(len(slots)) - np.repeat(np.cumsum(n_of) - n_of, n_of)
    hidden = np.zeros(batch.n_slots, dtype=bool)
    hidden[slots[order]] = rank < np.ceil(ratio * n_of)[owner[order]]
    return hidden
