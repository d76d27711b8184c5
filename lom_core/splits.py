"""Rows to learn from and rows to test on, with nothing in common: no object, no patch of sky."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lom_core.embeddings import Embeddings
from lom_core.errors import ConfigError, DataError, nearest
from lom_core.measures import Task
from lom_core.roles import Array
from lom_core.tables import read_rows


@dataclass(frozen=True)
class Grouping:
    """Which rows must stay on one side.

    Args:
        column: rows with the same value of it are one group; None makes each id a group.
        spatial: two columns of coordinates: rows in the same square cell are one group.
        cell: side of a cell, in the units of the coordinates.
    """

    column: str | None = None
    spatial: tuple[str, str] | None = None
    cell: float = 1.0

    def __post_init__(self) -> None:
        if self.column and self.spatial:
            raise ConfigError("group by a column or in space, not both")
        if self.cell <= 0:
            raise ConfigError(f"cell={self.cell:g} must be above 0")

    def of(self, labels: Labels) -> Array:
        """(n,) text: the group of each row.

        Errors:
            DataError: a row without the column's value; such rows cannot be kept apart.
        """
        if self.spatial:
            x, y = (_numbers(labels, name) for name in self.spatial)
            cells = zip(np.floor(x / self.cell), np.floor(y / self.cell), strict=True)
            return np.array([f"{a:.0f},{b:.0f}" for a, b in cells])
        found = labels.column(self.column or "id")
        missing = found == "" if found.dtype.kind == "U" else np.isnan(found.astype(float))
        if missing.any():
            raise DataError(f"{int(missing.sum())} rows have no '{self.column}' to group them by")
        return found.astype(str)

    @property
    def told(self) -> str:
        if self.spatial:
            return f"cells of {self.cell:g} in {' and '.join(self.spatial)}"
        if self.column:
            return f"'{self.column}'"
        return "record (no --group given: records of one object may stand on both sides)"


class Labels:
    """Ids and labels of a file of embeddings, and those that a catalogue adds.

    Args:
        catalogue: a CSV file with a column ``id``; its other columns are labels of those records.
    """

    def __init__(self, embeddings: Embeddings, catalogue: str | Path | None = None) -> None:
        self.embeddings = embeddings
        self.ids = embeddings.column("id").astype(str)
        self.added = {} if catalogue is None else _read_catalogue(Path(catalogue), self.ids)

    def names(self) -> list[str]:
        return [*self.added, *self.embeddings.labels]

    def column(self, name: str) -> Array:
        """(n,); "" or NaN where a record has none. ConfigError lists what there is."""
        if name == "id":
            return self.ids
        if name in self.added:
            return self.added[name]
        if name not in self.embeddings.labels:
            have = ", ".join(self.names()) or "none; add some with --catalogue FILE.csv"
            raise ConfigError(
                f"no label '{name}' in {self.embeddings.path}{nearest(name, self.names())}; "
                f"labels: {have}"
            )
        return self.embeddings.column(name)


def _read_catalogue(path: Path, ids: Array) -> dict[str, Array]:
    rows = read_rows(path)
    columns = [name for name in rows[0] if name] if rows else []
    if "id" not in columns:
        raise DataError(f"{path} needs a column 'id'; it has: {', '.join(columns) or 'no row'}")
    by_id = {row["id"]: row for row in rows}
    if len(by_id) < len(rows):
        twice = Counter(row["id"] for row in rows).most_common(1)[0][0]
        raise DataError(
            f"{path}: {len(rows) - len(by_id)} of {len(rows)} rows repeat an id, such as '{twice}'"
        )
    if not any(i in by_id for i in ids):
        raise DataError(f"{path}: none of its ids is among the records, such as '{ids[0]}'")
    found = {}
    for name in columns:
        if name != "id":
            found[name] = _typed([by_id[i][name].strip() if i in by_id else "" for i in ids])
    return found


def _typed(cells: Sequence[str]) -> Array:
    """Numbers if every cell is one or empty: whole ones stay whole where none is empty.

    Whole ones of more than 15 digits are names, which a float would tell wrong: text.
    """
    if any(len(c) > 15 and c.isdecimal() for c in cells):
        return np.array(cells)
    for number, empty in ((int, "none"), (float, "nan")):
        with suppress(ValueError):
            return np.array([number(c or empty) for c in cells])
    return np.array(cells)


def _numbers(labels: Labels, name: str) -> Array:
    found = labels.column(name)
    if found.dtype.kind == "U" or not np.isfinite(found.astype(float)).all():
        raise DataError(f"'{name}' must be a number for each row, to split in space")
    return np.asarray(found, dtype=np.float64)


@dataclass(frozen=True)
class Part:
    """Rows: features (n, d) by name, targets (n,), groups (n,)."""

    x: dict[str, Array]
    y: Array
    groups: Array

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, rows: Array) -> Part:
        return Part({k: v[rows] for k, v in self.x.items()}, self.y[rows], self.groups[rows])


def refuse_shared(groups: Array, test_groups: Array, what: str) -> None:
    """DataError if anything stands on both sides."""
    shared = sorted(set(groups.tolist()) & set(test_groups.tolist()))
    if shared:
        raise DataError(
            f"{len(shared)} groups ({what}) are in both files, such as '{shared[0]}': "
            "what is learned from must not be tested on"
        )


def hold_out(
    rows: Part, task: Task, grouping: Grouping, folds: int, seed: int
) -> tuple[Part, Part, str]:
    """One of folds + 1 parts by group, with about the same share of each class."""
    rows, left_out = common_classes(rows, task, folds + 1)
    learn, test = folds_of(rows, task, folds + 1, seed)[0]
    how = f"test part: one of {folds + 1} parts of the groups, drawn with seed {seed}"
    return rows[learn], rows[test], how + left_out


def common_classes(rows: Part, task: Task, parts: int) -> tuple[Part, str]:
    """Without the classes that have too few groups to be in every part."""
    if task == "regress":
        return rows, ""
    n_groups = {c: len(set(rows.groups[rows.y == c])) for c in np.unique(rows.y)}
    rare = [c for c, n in n_groups.items() if n < parts]
    if len(n_groups) - len(rare) < 2:
        told = ", ".join(f"{c} in {n}" for c, n in n_groups.items())
        raise DataError(
            f"fewer than two classes have records in {parts} groups ({told}); use fewer --folds"
        )
    left = f"; left out, in fewer than {parts} groups: {', '.join(rare)}" if rare else ""
    return rows[~np.isin(rows.y, rare)], left


def same_classes(learn: Part, tested: Part, task: Task) -> tuple[Part, Part]:
    if task == "classify" and (unknown := sorted(set(tested.y) - set(learn.y))):
        raise DataError(f"the test file has classes that cannot be learned: {', '.join(unknown)}")
    return learn, tested


def folds_of(rows: Part, task: Task, n: int, seed: int) -> list[tuple[Array, Array]]:
    """(rows to learn from, rows to validate on), n times; no group is in both."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    n_groups = len(set(rows.groups))
    if n_groups < n:
        raise DataError(f"{n_groups} groups cannot be split into {n} parts; use fewer --folds")
    kind = StratifiedGroupKFold if task == "classify" else GroupKFold
    splitter = kind(n_splits=n, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small classes are reported by common_classes
        return [(a, b) for a, b in splitter.split(rows.y, rows.y, rows.groups) if len(b)]
