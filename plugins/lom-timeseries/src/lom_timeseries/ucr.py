"""The UCR / UEA archives' text formats: .tsv (class, values) and .ts (sktime's, aeon's)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lom_core import BadRecord, DataError, Record
from lom_core.files import list_paths
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_timeseries.series_kinds import UCRFiles

SUFFIXES = (".ts", ".tsv")
MISSING = ("?", "nan", "")


def open_ucr(config: UCRFiles) -> UCRSource:
    """All series of all files; each file is read once, its lines are parsed when asked for.

    Errors:
        DataError: no file, an empty one, a header that this reader does not know.
    """
    lines: list[tuple[Path, int, str, bool]] = []
    for path in list_paths(config.paths, SUFFIXES):
        if path is not None:
            lines += _lines(path)
    return UCRSource(config, lines)


def _lines(path: Path) -> list[tuple[Path, int, str, bool]]:
    """(file, line number, line, whether it ends with a class) of each series."""
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: {error}") from None
    numbered = [(i, t.strip("\n\r")) for i, t in enumerate(text, 1) if t.strip()]
    if path.suffix.lower() != ".ts":
        found = [(path, i, line, True) for i, line in numbered]
    else:
        found = _after_header(path, numbered)
    if not found:
        raise DataError(f"{path} holds no series")
    return found


def _after_header(path: Path, numbered: list[tuple[int, str]]) -> list[tuple[Path, int, str, bool]]:
    flags: dict[str, str] = {}
    for at, (_, line) in enumerate(numbered):
        if line.startswith("#"):
            continue
        if not line.startswith("@"):
            raise DataError(f"{path}: line {numbered[at][0]} stands before @data and is no header")
        key, _, value = line[1:].partition(" ")
        flags[key.lower()] = value.strip().lower()
        if key.lower() == "data":
            if flags.get("timestamps") == "true":
                raise DataError(f"{path}: series with @timestamps true are not supported")
            labelled = any(
                flags.get(k, "").startswith("true") for k in ("classlabel", "targetlabel")
            )
            rest = [(i, t) for i, t in numbered[at + 1 :] if not t.startswith("#")]
            return [(path, i, t, labelled) for i, t in rest]
    raise DataError(f"{path} has no line @data")


class UCRSource:
    def __init__(self, config: UCRFiles, lines: list[tuple[Path, int, str, bool]]) -> None:
        self.config, self.lines = config, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Record:
        path, number, line, labelled = self.lines[index]
        parse = parse_ts if path.suffix.lower() == ".ts" else parse_tsv
        try:
            values, label = parse(line, labelled)
        except ValueError as error:
            if isinstance(error, BadRecord):
                reason, detail = error.reason, error.detail
            else:
                reason, detail = "text where numbers belong", str(error)[:100]
            raise BadRecord(reason, file=path, row=f"(line {number})", detail=detail) from error
        record: dict[str, object] = {self.config.modality: values, "id": f"{path.name}#{number}"}
        if self.config.label_modality:
            if label is None:
                raise BadRecord("a series without a class", file=path, row=f"(line {number})")
            record[self.config.label_modality] = label
        return record


def parse_tsv(line: str, labelled: bool = True) -> tuple[Array, str | None]:
    """(T, 1) float32 and the class: class, then values; NaN at the end fills up shorter series."""
    label, *cells = line.split("\t")
    values = _numbers(cells)
    observed = np.flatnonzero(np.isfinite(values))
    if not len(observed):
        raise BadRecord("no observed value")
    return values[: observed[-1] + 1, None], label.strip()


def parse_ts(line: str, labelled: bool) -> tuple[Array, str | None]:
    """(T, dimensions) float32 and the class: dimensions between colons, values between commas.

    Dimensions of different lengths end with NaN: not observed.
    """
    parts = line.split(":")
    label = parts.pop().strip() if labelled else None
    if not parts:
        raise BadRecord("a line without a series")
    columns = [_numbers(part.split(",")) for part in parts]
    values = np.full((max(map(len, columns)), len(columns)), np.nan, np.float32)
    for i, column in enumerate(columns):
        values[: len(column), i] = column
    if not np.isfinite(values).any():
        raise BadRecord("no observed value")
    return values, label


def _numbers(cells: list[str]) -> Array:
    return np.array(["nan" if c.strip().lower() in MISSING else c for c in cells], dtype=np.float32)
