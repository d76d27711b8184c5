"""JSON lines by number, without reading them all into memory."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, DataError, Record
from lom_core.files import list_paths

if TYPE_CHECKING:
    from lom_text import JsonLines


class LineSource:
    """Record i is line i: 16 bytes of memory a line.

    Errors:
        DataError: no line, or none that ``where`` lets through, before training starts.
        BadRecord: from ``source[i]``, a line that is no JSON object, or without any of the fields.
    """

    def __init__(self, config: JsonLines) -> None:
        self.config = config
        found = list_paths(config.paths, config.suffixes)
        self.paths = [path for path in found if path is not None]
        self.file, self.offset, self.number = array("l"), array("q"), array("q")
        n_lines = 0
        for which, path in enumerate(self.paths):
            for number, offset, line in _lines(path):
                n_lines += 1
                if not config.where or self._chosen(line):
                    self.file.append(which)
                    self.offset.append(offset)
                    self.number.append(number)
        if not len(self):
            files = ", ".join(map(str, self.paths[:3]))
            if n_lines:
                raise DataError(f"{files}: none of {n_lines} lines has {config.where}")
            raise DataError(f"{files}: no line")

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, index: int) -> Record:
        path, number = self.paths[self.file[index]], self.number[index]
        try:
            with path.open("rb") as file:
                file.seek(self.offset[index])
                row = parse(file.readline())
            cells = {m: cell(row, field) for m, field in self.config.columns.items()}
        except BadRecord as error:
            raise BadRecord(error.reason, file=path, row=number, detail=error.detail) from error
        except OSError as error:
            raise BadRecord("cannot be read", file=path, detail=str(error)) from error
        record = {name: value for name, value in cells.items() if value is not None}
        if not record:
            told = f"it has {', '.join(row)[:120]}"
            raise BadRecord("none of the columns' fields", file=path, row=number, detail=told)
        name = cell(row, self.config.id_column) if self.config.id_column else None
        return {**record, "id": str(f"{path.name}:{number}" if name is None else name)}

    def _chosen(self, line: bytes) -> bool:
        try:
            row = parse(line)
        except BadRecord:
            return True  # told when it is its turn
        return all(cell(row, field) == value for field, value in self.config.where.items())


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, offset, line) of each line that is not blank."""
    try:
        with path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, offset, line
                offset += len(line)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def parse(line: bytes) -> dict[str, Any]:
    """The object in a line; BadRecord for anything else, NaN and Infinity included."""
    try:
        row = json.loads(line.decode("utf8"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRecord("a line that is no JSON", detail=str(error)[:100]) from None
    if not isinstance(row, dict):
        raise BadRecord("a line that is no JSON object", detail=f"a {type(row).__name__}")
    return row


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def cell(row: dict[str, Any], field: str) -> Any:
    """A field by its dotted name; None where it is missing, null or an empty text or list."""
    value: Any = row
    for part in (field,) if field in row else field.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or value == "" or value == []:
        return None
    if isinstance(value, list):
        try:
            numbers = np.asarray(value)
        except ValueError:
            raise BadRecord("a list whose rows differ in length", detail=field) from None
        return numbers.astype(np.float32) if numbers.dtype.kind == "f" else numbers
    return value


def sample_path(split: str) -> str:
    return str(resources.files("lom_text") / "samples" / f"astropy_{split}.jsonl")
