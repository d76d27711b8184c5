"""Forecast: what lies ahead of the base time is hidden and asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from lom_core.batch import Batch, Span, pack
from lom_core.objectives import Layouts, Rows


def forecast(rows: Rows, layouts: Layouts, modalities: Collection[str], coordinate: int) -> Batch:
    """Tokens of ``modalities`` with ``positions[:, coordinate] > 0`` are asked in their own slots.

    All others are shown, and every slot of an observation sees every other (full attention).
    """
    batch = pack(rows, layouts)

    def mark(name: str, span: Span) -> Span:
        ahead = torch.zeros(len(span.slots), dtype=torch.bool)
        if name in modalities:
            ahead = span.positions[:, coordinate] > 0
        asked, shown = (torch.nonzero(which).flatten() for which in (ahead, ~ahead))
        return replace(span, shown=shown, asked=asked, ask_slots=span.slots[asked])

    spans = {name: mark(name, span) for name, span in batch.spans.items()}
    return replace(batch, spans=spans, given=batch.starts.diff().to(torch.int32))
