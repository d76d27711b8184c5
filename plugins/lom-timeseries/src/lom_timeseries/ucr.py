"""The UCR / UEA archives' text formats: .tsv (class, values) and .ts (sktime's, aeon's)."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lom_core import BadRecord, ConfigError, DataError, Record
from lom_core.errors import nearest
from lom_core.files import list_paths
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_timeseries.series_kinds import UCR, UCRFiles

SUFFIXES = (".ts", ".tsv")
MISSING = ("?", "nan", "")
COMMENTS = ("#", "%")


@dataclass(frozen=True)
class Line:
    """A series as it is written, and what its text says besides: a class, a number, or nothing."""

    path: Path
    number: int
    text: str
    label: Literal["class", "target", ""]


def open_ucr(config: UCRFiles) -> UCRSource:
    """All series of all files; each file is read once, its lines are parsed when asked for.

    Errors:
        DataError: no file, an empty one, a header that this reader does not know.
    """
    lines: list[Line] = []
    for path in list_paths(config.paths, SUFFIXES):
        if path is not None:
            lines += _lines(path)
    return UCRSource(config, lines)


def open_named(config: UCR) -> UCRSource:
    """One split of a set of the archive, found by its name.

    Errors:
        ConfigError: no archive, or no set of this name in it.
        DataError: the set lacks the split's file, or it cannot be read.
    """
    folder = archive(config.folder)
    sets = named_sets(folder)
    if config.name not in sets:
        raise ConfigError(
            f"no set '{config.name}' in {folder}{nearest(config.name, sets)}; "
            f"it has {', '.join(sorted(sets)) or 'no file *_TRAIN.ts or *_TRAIN.tsv'}"
        )
    part = "TEST" if config.split == "test" else "TRAIN"
    if part not in sets[config.name]:
        raise DataError(f"{folder}: {config.name} has no file {config.name}_{part}.ts or .tsv")
    lines = _lines(sets[config.name][part])
    if part == "TRAIN":
        held = held_out([_class(line) for line in lines], config.val_fraction, config.seed)
        wanted = held if config.split == "val" else ~held
        lines = [line for line, kept in zip(lines, wanted, strict=True) if kept]
    if not lines:
        raise DataError(
            f"{config.name}: val_fraction {config.val_fraction:g} leaves no series for "
            f"{config.split}"
        )
    return UCRSource(config, lines)


def archive(folder: str) -> Path:
    """The folder of an unpacked archive; without one, the sets that the package aeon ships."""
    if folder:
        path = Path(folder).expanduser()
        if not path.is_dir():
            raise ConfigError(f"folder: no such folder: {path}")
        return path
    found = importlib.util.find_spec("aeon")  # not imported: it compiles for seconds
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "the UCR / UEA archive: name the folder where it is unpacked, or take the sets that "
            "aeon ships: pip install 'lom-timeseries[aeon]'"
        )
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


def named_sets(folder: Path) -> dict[str, dict[str, Path]]:
    """Name -> TRAIN and TEST -> file, below a folder a set or all in one; .ts before .tsv."""
    sets: dict[str, dict[str, Path]] = {}
    for suffix in (".tsv", ".ts"):
        for path in sorted([*folder.glob(f"*{suffix}"), *folder.glob(f"*/*{suffix}")]):
            name, _, part = path.stem.rpartition("_")
            if part in ("TRAIN", "TEST"):
                sets.setdefault(name, {})[part] = path
    return sets


def held_out(classes: list[str], fraction: float, seed: int) -> Array:
    """(n,) True = val: a share of each class, at least one of two and never all."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(classes), bool)
    for name in sorted(set(classes)):
        members = rng.permutation([i for i, one in enumerate(classes) if one == name])
        n = min(max(round(fraction * len(members)), fraction > 0), len(members) - 1)
        held[members[:n]] = True
    return held


def _class(line: Line) -> str:
    """Its class; one for all where there are none, or numbers instead."""
    if line.label != "class":
        return ""
    if _is_tsv(line.path):
        return line.text.partition("\t")[0].strip()
    return line.text.rpartition(":")[2].strip()


def _is_tsv(path: Path) -> bool:
    return path.suffix.lower() != ".ts"


def _lines(path: Path) -> list[Line]:
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text: {error}") from None
    numbered = [(i, t.strip("\n\r")) for i, t in enumerate(text, 1) if t.strip()]
    if _is_tsv(path):
        found = [Line(path, i, line, "class") for i, line in numbered]
    else:
        found = _after_header(path, numbered)
    if not found:
        raise DataError(f"{path} holds no series")
    return found


def _after_header(path: Path, numbered: list[tuple[int, str]]) -> list[Line]:
    flags: dict[str, str] = {}
    for at, (_, line) in enumerate(numbered):
        if line.startswith(COMMENTS):
            continue
        if not line.startswith("@"):
            raise DataError(f"{path}: line {numbered[at][0]} stands before @data and is no header")
        key, _, value = line[1:].partition(" ")
        flags[key.lower()] = value.strip().lower()
        if key.lower() == "data":
            if flags.get("timestamps") == "true":
                raise DataError(f"{path}: series with @timestamps true are not supported")
            label: Literal["class", "target", ""] = ""
            if flags.get("targetlabel", "").startswith("true"):
                label = "target"
            elif flags.get("classlabel", "").startswith("true"):
                label = "class"
            rest = [(i, t) for i, t in numbered[at + 1 :] if not t.startswith(COMMENTS)]
            return [Line(path, i, t, label) for i, t in rest]
    raise DataError(f"{path} has no line @data")


class UCRSource:
    def __init__(self, config: UCRFiles | UCR, lines: list[Line]) -> None:
        self.config, self.lines = config, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, index: int) -> Record:
        line = self.lines[index]
        path, number = line.path, line.number
        parse = parse_tsv if _is_tsv(path) else parse_ts
        try:
            values, label = parse(line.text, bool(line.label))
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
