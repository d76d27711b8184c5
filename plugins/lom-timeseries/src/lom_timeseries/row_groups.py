"""Curves by row from parquet shards, without reading whole shards.

A run reads records in random order: what is read for one of them is a row group, as small as its
writer made it (prepare.py: 64 curves), and the last ones are kept.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord
from lom_timeseries.readers import PARQUET, Named, find_columns, row_curve

if TYPE_CHECKING:
    from lom_timeseries.curve_sets import LightCurveFiles

KEPT = 32  # row groups


def count_rows(config: LightCurveFiles, path: Path) -> int | None:
    """Curves in a parquet file that holds one a row; None for all other files.

    Errors:
        BadRecord: damaged.
    """
    if not path.name.lower().endswith(PARQUET):
        return None
    names, lists, starts = _layout(str(path), path.stat().st_mtime_ns)
    value = find_columns(config, {name: np.empty(0) for name in names})["value"]
    return int(starts[-1]) if value in lists else None


def read_row(config: LightCurveFiles, path: Path, row: int) -> Named:
    """Name and curve of a row; :func:`count_rows` says which files have them."""
    changed = path.stat().st_mtime_ns
    names, _, starts = _layout(str(path), changed)
    columns = find_columns(config, {name: np.empty(0) for name in names})
    wanted = {*columns.values(), *config.targets.values(), *filter(None, [config.object_column])}
    missing = wanted - set(names)
    if missing:
        told = f"it has {', '.join(names)[:200]}"
        raise BadRecord(f"no column '{min(missing)}'", detail=told)
    group = int(np.searchsorted(starts, row, side="right")) - 1
    table = _group(str(path), changed, group, tuple(sorted(wanted)))
    label, curve = row_curve(config, columns, table, row - int(starts[group]))
    return label if config.object_column else str(row), curve


@lru_cache(maxsize=4096)
def _layout(path: str, changed: int) -> tuple[tuple[str, ...], frozenset[str], Any]:
    """Columns, those that are lists, and the first row of each row group (groups + 1,)."""
    file = _open(path)
    lists = {f.name for f in file.schema_arrow if str(f.type).startswith(("list", "large_list"))}
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    return tuple(file.schema_arrow.names), frozenset(lists), np.cumsum([0, *sizes])


@lru_cache(maxsize=KEPT)
def _group(path: str, changed: int, group: int, columns: tuple[str, ...]) -> Any:
    import pyarrow

    try:
        table = _open(path).read_row_group(group, columns=list(columns))
    except pyarrow.ArrowException as error:
        raise BadRecord("damaged parquet file", detail=str(error)[:200]) from None
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _open(path: str) -> Any:
    import pyarrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise BadRecord("damaged parquet file", detail=str(error)[:200]) from None
