"""AstroMer's masking within the SDK's rule: no slot sees the content that it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lom_core.batch import Batch, Layout, Row, Span, pack
from lom_core.roles import Array
from lom_core.seeds import splitmix


def astromer_masked(
    rows: Sequence[Row],
    layouts: Mapping[str, Layout],
    probed: float,
    kept: float,
    replaced: float,
) -> Batch:
    """See :class:`lom_timeseries.AstromerMasked`.

    A slot that shows another token's value holds a second token, at the end of its span: the
    other's content and weight at the position of the probed one. It is shown and never asked.
    """
    batch = pack(rows, layouts)
    spans = {
        name: _mark(span, batch, (probed, kept, replaced)) for name, span in batch.spans.items()
    }
    return replace(batch, spans=spans, given=batch.starts.diff().to(torch.int32))


def counts(n_tokens: Array, probed: float, kept: float, replaced: float) -> tuple[Array, ...]:
    """How many tokens of n_tokens (o,) are probed, kept and replaced: (o,) int64 each."""
    tiny = 1e-9  # 0.2 * 35 is 7.000000000000001, of which ceil makes 8
    n = np.floor(probed * n_tokens + tiny).astype(np.int64)
    n_kept = np.ceil(kept * n - tiny).astype(np.int64)
    n_replaced = np.ceil(replaced * (n - n_kept) - tiny).astype(np.int64)
    return n, n_kept, n_replaced


def _mark(span: Span, batch: Batch, shares: tuple[float, float, float]) -> Span:
    bos, slots = batch.bos.numpy(), span.slots.numpy()
    owner = np.searchsorted(bos, slots, side="right") - 1  # (n,) observation of each token
    n_of = np.bincount(owner, minlength=len(bos))
    first = np.cumsum(n_of) - n_of
    with np.errstate(over="ignore"):
        draw = splitmix(batch.seeds[owner] + (slots - bos[owner]).astype(np.uint64))
    order = np.lexsort((draw, owner))  # tokens by observation, then by draw
    rank = np.empty(len(slots), np.int64)
    rank[order] = np.arange(len(slots)) - np.repeat(first, n_of)

    n, n_kept, n_replaced = (count[owner] for count in counts(n_of, *shares))
    is_probed, is_kept = rank < n, rank < n_kept
    changed = np.flatnonzero(~is_kept & (rank < n_kept + n_replaced))
    # Donors are the tokens of rank n and above: what is hidden elsewhere must not turn up here.
    free = (n_of[owner] - n)[changed].astype(np.uint64)
    donor = order[first[owner[changed]] + n[changed] + (splitmix(draw[changed]) % free).astype(int)]

    asked = torch.from_numpy(np.flatnonzero(is_probed & ~is_kept))
    extra = np.arange(len(changed)) + len(slots)
    shown = np.concatenate([np.flatnonzero(~is_probed | is_kept), extra])
    return Span(
        content=_append(span.content, donor),
        positions=_append(span.positions, changed),
        weights=_append(span.weights, donor),
        slots=_append(span.slots, changed),
        shown=torch.from_numpy(shown),
        asked=asked,
        ask_slots=span.slots[asked],
    )


def _append(tensor: Tensor, index: Array) -> Tensor:
    return torch.cat([tensor, tensor[torch.from_numpy(index)]])
