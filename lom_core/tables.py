"""CSV tables: what a modality without a file format of its own is written as, and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lom_core.errors import ConfigError, DataError
from lom_core.roles import Array


def write_tokens(value: Any, path: Path) -> Path:
    """``PATH.csv``: positions, then values, a row a token; a single number or label alone.

    Decoded values of another form are numpy files: ``.npy`` of an array, ``.npz`` of several.
    """
    if not isinstance(value, Mapping):
        if np.ndim(value) == 0:
            return write_rows(path, ["value"], [[value]])
        path = path.with_name(path.name + ".npy")
        np.save(path, np.asarray(value), allow_pickle=False)
        return path
    if not {"content", "positions"} <= set(value):
        path = path.with_name(path.name + ".npz")
        arrays: dict[str, Any] = {name: np.asarray(part) for name, part in value.items()}
        np.savez(path, **arrays)
        return path
    content = np.asarray(value["content"])
    content = content.reshape(len(content), -1)
    positions = np.asarray(value["positions"]).reshape(len(content), -1)
    header = [f"position_{i}" for i in range(positions.shape[1])]
    header += [f"value_{i}" for i in range(content.shape[1])]
    rows = [[*p, *c] for p, c in zip(positions.tolist(), content.tolist(), strict=True)]
    return write_rows(path, header, rows)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """A CSV file; its path with the ending."""
    path = path.with_name(path.name + ".csv")
    with path.open("w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_rows(path: str | Path) -> list[dict[str, str]]:
    """The rows of a CSV file by the names in its first line; lines without a cell are none.

    Errors:
        DataError: it cannot be read, names a column twice, or a row has another number of cells
            than there are names.
    """
    try:
        with Path(path).expanduser().open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            names = next(reader, [])
            rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8: {error}") from None
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise DataError(f"{path} has two columns '{twice[0]}'")
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(f"{path} line {line} has {len(row)} cells, its first line {len(names)}")
    return [dict(zip(names, row, strict=True)) for _, row in rows]


def read_positions(path: str | Path) -> Array:
    """(n, p) float32 from a CSV file: a position a line; a first line without numbers names them.

    Errors:
        ConfigError: no such file, no line, lines of different lengths, something that is no number.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    if rows and not any(_is_number(cell) for cell in rows[0]):
        rows = rows[1:]
    if not rows:
        raise ConfigError(f"{path} holds no position; write one a line, coordinates with commas")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]) or not all(_is_number(cell) for cell in row):
            raise ConfigError(
                f"{path}: position {number} is {','.join(row)!r}; each must be "
                f"{len(rows[0])} number(s)"
            )
    return np.array([[float(cell) for cell in row] for row in rows], dtype=np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
