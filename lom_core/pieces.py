"""A table that is written while it grows: rows on disk, and what its columns turned out to be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lom_core.errors import DataError
from lom_core.roles import Array

ROWS = 8192  # rows of a piece
Table = Mapping[str, Array]


class Pieces:
    """Rows on disk, so many at a time, and what their columns turned out to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lengths: list[int] = []
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.widths: dict[str, tuple[int, ...]] = {}
        self._known: set[str] = set()
        self.gaps: set[str] = set()  # columns that some pieces lack
        self._tables: list[Table] = []

    def add(self, table: Table) -> None:
        self._tables.append(table)
        if sum(len(t["id"]) for t in self._tables) >= ROWS:
            self.flush()

    def flush(self) -> None:
        if not self._tables:
            return
        names = list(dict.fromkeys(name for table in self._tables for name in table))
        counts = [len(table["id"]) for table in self._tables]
        piece = {}
        for name in names:
            parts = [table.get(name) for table in self._tables]
            piece[name] = join(parts, counts)
            self._note(name, piece[name])
        self.gaps |= self.dtypes.keys() - piece.keys()
        self.gaps |= piece.keys() - self._known if self.lengths else set()
        self._known = set(self.dtypes)
        np.savez(self.folder / f"{len(self.lengths)}.npz", allow_pickle=False, **piece)
        self.lengths.append(sum(counts))
        self._tables = []

    def _note(self, name: str, column: Array) -> None:
        known = self.dtypes.get(name, column.dtype)
        self.dtypes[name] = _common(known, column.dtype)
        if self.widths.setdefault(name, column.shape[1:]) != column.shape[1:]:
            raise DataError(f"column '{name}' has rows of different widths")

    def dtype(self, name: str) -> np.dtype[Any]:
        found = self.dtypes[name]
        if name in self.gaps and found.kind in "iub":
            return np.dtype(np.float64)
        return found

    def column(self, name: str) -> Iterator[Array]:
        """Its rows, piece by piece, in what the column is in the end."""
        dtype = self.dtype(name)
        for number, n in enumerate(self.lengths):
            with np.load(self.folder / f"{number}.npz", allow_pickle=False) as piece:
                if name in piece.files:
                    yield _cast(piece[name], dtype)
                else:
                    yield _missing(n, self.widths[name], dtype)


def join(parts: list[Array | None], counts: list[int]) -> Array:
    """One column (rows, ...) of several tables, of which some may lack it: None."""
    known = [part for part in parts if part is not None]
    dtype = known[0].dtype
    for part in known[1:]:
        dtype = _common(dtype, part.dtype)
    if len(known) < len(parts) and dtype.kind in "iub":
        dtype = np.dtype(np.float64)
    shape = known[0].shape[1:]
    return np.concatenate(
        [
            _missing(n, shape, dtype) if part is None else _cast(part, dtype)
            for part, n in zip(parts, counts, strict=True)
        ]
    )


def _common(a: np.dtype[Any], b: np.dtype[Any]) -> np.dtype[Any]:
    """Text beside numbers is text."""
    if (a.kind == "U") != (b.kind == "U"):
        return np.dtype(f"U{max(32, *(d.itemsize // 4 for d in (a, b) if d.kind == 'U'))}")
    return np.result_type(a, b)


def _cast(column: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "U" and column.dtype.kind == "f":
        # Whole numbers as they are written: in a column with gaps they became floats.
        told = [str(v).removesuffix(".0") for v in column]
        return np.array(["" if text == "nan" else text for text in told], dtype=dtype)
    return column.astype(dtype, copy=False)


def _missing(n: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.full((n, *shape), "" if dtype.kind == "U" else np.nan, dtype=dtype)
