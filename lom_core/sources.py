"""Sources behind the core's data sets: user code, crossmatched and concatenated ones."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np

from lom_core.builtin.tokenisers import numbers, per_token
from lom_core.errors import BadRecord, ConfigError, DataError, nearest
from lom_core.modality import ModalityRegistry
from lom_core.roles import Array, Identified, Record, Source, Tokens
from lom_core.tables import read_rows

MISSING = ("", "-", "--", "nan", "null")


def open_user_dataset(
    target: str, arguments: Mapping[str, Any], registry: ModalityRegistry
) -> Source:
    """Construct the class behind ``module:Class``; it gets the registry if it takes one."""
    module, _, name = target.partition(":")
    constructor = getattr(importlib.import_module(module), name)
    arguments = dict(arguments)
    accepted = inspect.signature(constructor).parameters
    if "modality_registry" in accepted:
        arguments.setdefault("modality_registry", registry)
    try:
        inspect.signature(constructor).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{target}{inspect.signature(constructor)}: {error}") from None
    dataset = constructor(**arguments)
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ConfigError(f"{target} needs __len__ and __getitem__ to be a data set")
    return UserSource(dataset, target, registry)


class UserSource:
    """A torch ``Dataset`` of ready tokens in the flat form, or of records, as a Source.

    A ``ValueError``, ``OSError``, ``LookupError`` or ``RuntimeError`` out of ``dataset[i]`` is a
    bad record; any other exception is a mistake in its code and stops the run.
    """

    def __init__(self, dataset: Any, target: str, registry: ModalityRegistry) -> None:
        self.dataset, self.target, self.names = dataset, target, registry.names()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Record:
        try:
            item = self.dataset[index]
        except BadRecord:
            raise
        except (ValueError, OSError, LookupError, RuntimeError) as error:
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadRecord("cannot be read", file=self.target, row=index, detail=detail) from error
        if not isinstance(item, Mapping):
            raise DataError(
                f"{self.target}[{index}] is a {type(item).__name__}, not a mapping of modalities: "
                f"{', '.join(self.names)}"
            )
        try:
            record = {n: _modality(item, n) for n in self.names if item.get(n) is not None}
        except BadRecord as error:
            raise BadRecord(
                error.reason, file=self.target, row=index, detail=error.detail
            ) from error
        others = {k: v for k, v in item.items() if k not in self.names and is_label(v)}
        name = item.get("id", item.get("idx", index))
        name = name.item() if hasattr(name, "detach") and name.ndim == 0 else name  # a tensor
        return {**others, **record, "id": str(name)}


def is_label(value: Any) -> bool:
    """Text or a single number: what a record may hold besides the run's modalities."""
    scalar = hasattr(value, "detach") and value.ndim == 0  # a tensor
    return scalar or isinstance(value, str | bool | int | float | np.generic)


def _modality(item: Mapping[str, Any], name: str) -> Any:
    """Ready tokens of the flat form, or the raw observation as it is."""
    positions, weights = (item.get(f"{name}_{what}") for what in ("positions", "weights"))
    if positions is None:
        return item[name]
    content = numbers(as_array(item[name]), name)
    n, masked = len(content), np.ma.getmaskarray(content)
    if weights is None and masked.any():
        weights = ~masked
    return Tokens(
        np.ma.getdata(content),
        per_token(as_array(positions), f"{name}_positions", n),
        None if weights is None else per_token(as_array(weights), f"{name}_weights", n),
    )


def as_array(value: Any) -> Array:
    """A numpy array, masked or not, of a tensor (bfloat16 becomes float32, which numpy knows) or
    an array."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
        return np.asarray(value.numpy())
    return np.asanyarray(value)


class CrossmatchSource:
    """Record i of every part at once; or, by ``id``, what the parts hold of one object.

    Errors:
        DataError: lengths that differ; the same ids in another order; by ``id``, a part that does
            not tell its ids, one that has an id twice, or no id that two parts share.
    """

    def __init__(self, parts: Mapping[str, Source], by: Literal["row", "id"] = "row") -> None:
        self.parts = parts
        self.names: list[str] = []
        # part -> (objects,) where it holds each object, -1 for nowhere; empty: in its own row.
        self.places: dict[str, Array] = {}
        if by == "id":
            self.names, self.places = _join(
                {name: _ids(part, name) for name, part in parts.items()}
            )
            return
        lengths = {name: len(part) for name, part in parts.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} has {n}" for name, n in lengths.items())
            raise DataError(
                f"crossmatched data sets must have the same length: {told}; "
                "or be matched by their ids: set by: id"
            )
        _same_order(parts)

    def __len__(self) -> int:
        return len(self.names) if self.places else len(next(iter(self.parts.values())))

    def __getitem__(self, index: int) -> Record:
        merged: dict[str, Any] = {}
        for name, part in self.parts.items():
            at = int(self.places[name][index]) if self.places else index
            if at < 0 and self.places:
                continue
            record = dict(part[at])
            identity = record.pop("id", None)
            twice = sorted(set(merged) & set(record))
            if twice:
                raise DataError(
                    f"two crossmatched data sets hold {', '.join(twice)}; the second is '{name}'"
                )
            if identity is not None:
                merged.setdefault("id", identity)
            merged.update(record)
        return {**merged, "id": self.names[index]} if self.places else merged


def _ids(part: Source, name: str) -> list[str | None]:
    if not isinstance(part, Identified):
        raise DataError(
            f"crossmatch by id: data set '{name}' ({type(part).__name__}) does not tell its ids "
            "without reading its records; files and tables with an id_column do"
        )
    return part.ids()


def _join(ids: Mapping[str, list[str | None]]) -> tuple[list[str], dict[str, Array]]:
    """All ids, in the order in which the parts name them, and where each part has them."""
    found: dict[str, dict[str, int]] = {}
    for name, part in ids.items():
        found[name] = {}
        for row, key in enumerate(part):
            if key in found[name]:
                raise DataError(
                    f"crossmatch by id: '{name}' has the id '{key}' twice, "
                    f"in records {found[name][key]} and {row}"
                )
            if key is not None:
                found[name][key] = row
    names = list(dict.fromkeys(key for part in found.values() for key in part))
    if len(found) > 1 and len(names) == sum(map(len, found.values())):
        told = ", ".join(f"{name} such as '{next(iter(part), '')}'" for name, part in found.items())
        raise DataError(f"crossmatch by id: no two data sets share an id; they have: {told}")
    return names, {
        name: np.array([part.get(key, -1) for key in names], dtype=np.int64)
        for name, part in found.items()
    }


def _same_order(parts: Mapping[str, Source]) -> None:
    """Refuses ids that are the same in two parts, but for their order: rows are then mismatched."""
    quick = {
        name: part.ids()
        for name, part in parts.items()
        if isinstance(part, Identified) and not getattr(part, "many_rows", False)
    }
    first, *others = quick or {"": []}
    for other in others:
        a, b = quick[first], quick[other]
        if a != b and None not in a and set(a) == set(b):
            row = next(i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
            raise DataError(
                f"crossmatched data sets '{first}' and '{other}' have the same ids in another "
                f"order (record {row} is '{a[row]}' and '{b[row]}'): set by: id"
            )


def open_table(
    path: str, columns: Mapping[str, str], id_column: str | None, where: Mapping[str, str]
) -> Source:
    """The chosen cells of a CSV file, numbers as numbers.

    Errors:
        DataError: no such file, no such column (lists what there is), a row of another length, or
            no row that ``where`` lets through.
    """
    rows = read_rows(path)
    known = [] if not rows else [name for name in rows[0] if name]
    for column in (*columns.values(), *where, *([id_column] if id_column else [])):
        if column not in known:
            have = ", ".join(known) or "no row"
            raise DataError(
                f"{path} has no column '{column}'{nearest(column, known)}; it has: {have}"
            )
    chosen = [row for row in rows if all(row[k] == v for k, v in where.items())]
    if not chosen:
        raise DataError(f"{path}: none of {len(rows)} rows has {dict(where)}")
    cells = {name: _typed([row[column] for row in chosen]) for name, column in columns.items()}
    records = []
    for number, row in enumerate(chosen):
        record = {name: held[number] for name, held in cells.items() if held[number] is not None}
        records.append({**record, "id": row[id_column].strip() if id_column else str(number)})
    return ListSource(records)


def _typed(cells: Sequence[str]) -> list[Any]:
    """A column as numbers if all of its cells are, else as text; None for what was not observed."""
    held = [None if cell.strip().lower() in MISSING else cell for cell in cells]
    for number in (int, float):
        with suppress(ValueError):
            return [None if cell is None else number(cell) for cell in held]
    return held


class ListSource:
    """Records that are at hand already."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]

    def ids(self) -> list[str | None]:
        return [record.get("id") for record in self.records]


class ConcatSource:
    """The parts' records one after the other, each part ``times`` times."""

    def __init__(self, parts: Mapping[str, Source], times: Mapping[str, int]) -> None:
        self.parts = [(name, part) for name, part in parts.items() for _ in range(times[name])]
        self.starts = np.cumsum([0, *(len(part) for _, part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Record:
        which = int(np.searchsorted(self.starts, index, side="right")) - 1
        name, part = self.parts[which]
        inside = index - int(self.starts[which])
        record = part[inside]
        return {**record, "id": f"{name}/{record.get('id', inside)}"}
