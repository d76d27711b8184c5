"""PTB-XL: its table, its records, its statements as labels."""

from __future__ import annotations

import ast
import csv
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from lom_core import BadRecord, ConfigError, DataError, Record
from lom_core.files import NOT_OBSERVED
from lom_timeseries.ecg import read_ecg, record_files

if TYPE_CHECKING:
    from lom_timeseries.series_kinds import PTBXL

FOLDS = {"train": tuple(range(1, 9)), "val": (9,), "test": (10,)}
Row = dict[str, str]


def open_ptbxl(config: PTBXL) -> PTBXLSource:
    """The records of a split.

    Errors:
        DataError: no such table, columns missing, or no record of these folds.
        ConfigError: a target that is neither a statement, a superclass nor a column.
    """
    root = Path(config.root).expanduser()
    column = "filename_hr" if config.high_resolution else "filename_lr"
    rows = _table(root / "ptbxl_database.csv", ("ecg_id", "scp_codes", "strat_fold", column))
    folds = config.folds or FOLDS[config.split]
    kept = [row for row in rows if _fold(row) in folds]
    if not kept:
        raise DataError(f"{root / 'ptbxl_database.csv'} has no record of folds {sorted(folds)}")
    superclass: dict[str, str] = {}
    if any(target.startswith("superclass:") for target in config.targets.values()):
        statements = _table(root / "scp_statements.csv", ("", "diagnostic_class"))
        superclass = {row[""]: row["diagnostic_class"] for row in statements}
    for name, target in config.targets.items():
        kind, colon, which = target.partition(":")
        if colon and kind == "superclass" and which not in superclass.values():
            known = ", ".join(sorted(set(filter(None, superclass.values()))))
            raise ConfigError(f"target {name}: no superclass '{which}'; there are: {known}")
        if kind not in ("scp", "superclass") if colon else target not in rows[0]:
            raise ConfigError(
                f"target {name}: '{target}' is no scp:CODE, no superclass:CLASS and no column; "
                f"columns: {', '.join(rows[0])}"
            )
    return PTBXLSource(config, root, kept, column, superclass)


class PTBXLSource:
    """Records by number, in the order of the table."""

    def __init__(
        self, config: PTBXL, root: Path, rows: list[Row], column: str, superclass: dict[str, str]
    ) -> None:
        self.config, self.root, self.rows = config, root, rows
        self.column, self.superclass = column, superclass

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        row = self.rows[index]
        path = self._path(row)
        try:
            for part in record_files(path):
                if not part.is_file():
                    raise BadRecord("no such file", file=part)
                if not part.stat().st_size:
                    raise BadRecord("empty file", file=part)
            value = read_ecg(path, baseline_window=self.config.baseline_window)
            targets = self._targets(row)
        except BadRecord as error:
            file = error.file if error.file is not None else path
            raise BadRecord(error.reason, file=file, detail=error.detail) from error
        except (OSError, EOFError, ValueError, LookupError) as error:
            raise BadRecord("cannot be read", file=path, detail=str(error)[:200]) from error
        return {self.config.modality: value, **targets, "id": f"ptbxl-{row['ecg_id']}"}

    def _path(self, row: Row) -> Path:
        name = PurePosixPath(row[self.column].strip())
        path = self.root / f"{name}.hea"
        if name.is_absolute() or ".." in name.parts:  # links that the user made are the user's
            raise BadRecord(
                "a record outside the data set's folder", file=path, detail=str(name)[:100]
            )
        return path

    def _targets(self, row: Row) -> dict[str, Any]:
        if not self.config.targets:
            return {}
        codes = _codes(row["scp_codes"])
        counted = {c for c, likely in codes.items() if likely >= self.config.min_likelihood}
        found: dict[str, Any] = {}
        for name, target in self.config.targets.items():
            kind, colon, which = target.partition(":")
            if not colon:
                if row[target].strip() not in NOT_OBSERVED:
                    found[name] = row[target].strip()
            elif kind == "scp":
                found[name] = int(which in counted)
            else:
                found[name] = int(any(self.superclass.get(c) == which for c in counted))
        return found


def _codes(text: str) -> dict[str, float]:
    """scp_codes: a Python dictionary as text, statement -> likelihood."""
    try:
        codes = ast.literal_eval(text)
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError):
        raise BadRecord("scp_codes that cannot be read", detail=text[:100]) from None


def _fold(row: Row) -> int:
    try:
        return int(float(row["strat_fold"]))
    except ValueError:
        told = f"ecg_id {row['ecg_id']}: strat_fold is '{row['strat_fold']}'"
        raise DataError(f"ptbxl_database.csv: {told}, not a number") from None


def _table(path: Path, needed: tuple[str, ...]) -> list[Row]:
    if not path.is_file():
        raise DataError(f"no such file: {path} (root must be the unpacked PTB-XL folder)")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in needed if name not in (reader.fieldnames or ())]
        rows = list(reader)
    if missing or not rows:
        told = f"lacks {missing}" if missing else "holds no row"
        raise DataError(f"{path} {told}")
    if any(None in row or None in row.values() for row in rows):
        raise DataError(f"{path} has rows with another number of cells than its first line")
    return rows
