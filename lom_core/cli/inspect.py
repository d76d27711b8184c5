"""What ``lom data inspect`` shows. Needs torch, like all that reads data."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import typer

from lom_core.cli.common import print_table
from lom_core.data import Lane, LanePlan, LaneState, Reader, Stream, in_stream
from lom_core.errors import BadRecord, DataError
from lom_core.roles import Tokens

N_RECORDS, N_ROWS = 200, 8
QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}


def show_record(reader: Reader, index: int) -> None:
    """One row per modality of a record, before cropping.

    Errors:
        DataError: there is no such record. BadRecord: it cannot be used.
    """
    if not in_stream(reader.source, index):
        raise DataError(f"no record {index}: the set has {len(reader.source)}, numbered from 0")
    record = reader.source[index]
    found = reader.tokens(record)
    rows = [describe(name, found.get(name)) for name in reader.registry.names()]
    columns = ["modality", "tokens", "width", "dtype", "positions", "min", "median", "max"]
    print_table([*columns, "unobserved"], rows, title=f"record {record.get('id', index)}")


def describe(name: str, tokens: Tokens | None) -> list[Any]:
    """The cells of a modality's row; statistics are those of the observed values."""
    if tokens is None:
        return [name, "not observed", *[None] * 7]
    content = tokens.content.reshape(len(tokens), -1)
    observed = np.broadcast_to(tokens.observed, content.shape)
    values = content[observed].astype(np.float64)
    lowest, highest = tokens.positions.min(axis=0), tokens.positions.max(axis=0)
    ranges = ", ".join(f"{a:.6g}..{b:.6g}" for a, b in zip(lowest, highest, strict=True))
    return [
        *(name, len(tokens), content.shape[1], tokens.content.dtype, ranges),
        *(float(f(values)) if values.size else None for f in (np.min, np.median, np.max)),
        f"{1 - observed.mean():.1%}",
    ]


def show_lengths(reader: Reader) -> None:
    """Quantiles of the tokens per record, and the share of records that a row cannot hold."""
    counts: dict[str, list[int]] = {name: [] for name in reader.registry.names()}
    slots, bad = [], 0
    for index in spread(reader):
        try:
            tokens = reader.tokens(reader.source[index])
        except BadRecord:
            bad += 1
            continue
        for name, found in tokens.items():
            counts[name].append(len(found))
        slots.append(1 + sum(len(found) for found in tokens.values()))
    rows = [
        [name, len(n), *(round(float(np.quantile(n, q))) for q in QUANTILES.values())]
        for name, n in {**counts, "slots (tokens + BOS)": slots}.items()
        if n
    ]
    title = f"tokens per record, of {len(slots)} records" + (f" ({bad} bad)" if bad else "")
    print_table(["modality", "records", *QUANTILES], rows, title=title)
    cropped = float(np.mean(np.array(slots) > reader.block_size)) if slots else 0.0
    typer.echo(f"longer than block_size={reader.block_size}, so cropped: {cropped:.1%} of records")


def spread(reader: Reader) -> list[int]:
    """Up to N_RECORDS record numbers: evenly spaced ones, or the first of a stream."""
    source = reader.source
    if isinstance(source, Stream):
        return [i for i in range(N_RECORDS) if in_stream(source, i)]
    n = len(source)
    return [int(i) for i in np.unique(np.linspace(0, n - 1, min(n, N_RECORDS)).round())]


def show_packing(reader: Reader, look_ahead: int) -> None:
    """How full the first rows are, packed as training packs them."""
    plan = LanePlan(lanes=1, block_size=reader.block_size, look_ahead=look_ahead)
    rows = [found.row for found in islice(Lane(reader, plan, 0, LaneState()), N_ROWS)]
    if len(rows) in range(2, N_ROWS):
        rows.pop()  # the end of the set, not the packing, left this one unfilled
    if not rows:
        return
    used, slots = sum(row.used for row in rows), sum(row.n_slots for row in rows)
    n = sum(len(row.ids) for row in rows)
    typer.echo(f"packing: {n} records in {len(rows)} rows, {used / slots:.1%} of the slots used")
