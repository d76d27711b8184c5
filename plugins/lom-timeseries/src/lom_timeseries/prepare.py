"""Folds: light curves split by object into train, val and test, as parquet shards."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import BadRecord, ConfigError, DataError, Record, Source
from lom_timeseries.tokeniser import as_curve

SPLITS = ("train", "val", "test")
ROW_GROUP = 64  # curves that a reader decodes to get at one of them
Shares = tuple[float, float, float]


def prepare_folds(
    source: Iterable[Record],
    out: Path,
    n_folds: int = 1,
    shares: Shares = (0.8, 0.1, 0.1),
    seed: int = 0,
    shard_size: int = 1000,
    *,
    modality: str = "light_curves",
    label: str = "",
    object_of: Callable[[Record], str] = lambda record: str(record["id"]),
) -> dict[str, dict[str, int]]:
    """Write ``out/fold_k/{train,val,test}/part-00000.parquet``, a curve a row.

    Columns: ``id``, ``time``, ``value``, and ``error``, ``band`` (lists) and ``label`` where the
    curves have them. An object's place is a hash of its name and ``seed`` on a circle of
    circumference 1, cut into the shares; fold k turns the circle by k / n_folds. So no object is
    in two splits of a fold, adding objects moves no other, and as long as n_folds times the share
    of test is not above 1, the test sets of the folds are disjoint.

    Every record is written once a fold; ``3 n_folds shard_size`` curves are held in memory. ``out``
    appears when all is written, so an interrupted run leaves ``out`` + ``.partial`` and no folds.

    Args:
        source: records, as data sets yield them, read once; whole curves, no windows of them.
        out: a folder that does not exist yet.
        shares: of the objects in train, val and test; their sum is 1.
        shard_size: curves in a file.
        modality: under which the records hold the curve.
        label: modality whose value becomes the column ``label``; empty for none.
        object_of: the name that must not be in two splits; records' ids by default.

    Returns:
        "fold_0/train" -> "curves" and "objects", also written to ``out/folds.json``.

    Errors:
        ConfigError: shares, sizes or ``out`` are no good, or pyarrow is not installed.
        DataError: a record without a curve, a label or an id, or a split that got no object.
    """
    _check(out, n_folds, shares, shard_size)
    partial = out.with_name(out.name + ".partial")
    if partial.exists():
        shutil.rmtree(partial)
    writers = {
        f"fold_{k}/{split}": Shards(partial / f"fold_{k}" / split, shard_size)
        for k in range(n_folds)
        for split, share in zip(SPLITS, shares, strict=True)
        if share
    }
    for record in source:
        row = curve_row(record, modality, label)
        name = object_of(record)
        for k in range(n_folds):
            writers[f"fold_{k}/{split_of(name, k, n_folds, shares, seed)}"].add(row, name)
    n_of = _closed(writers)
    settings = {"n_folds": n_folds, "shares": shares, "seed": seed, "splits": n_of}
    (partial / "folds.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf8")
    partial.rename(out)
    return n_of


def _closed(writers: Mapping[str, Shards]) -> dict[str, dict[str, int]]:
    """Write what the shards still hold; how much each split has got, which must not be nothing."""
    for writer in writers.values():
        writer.close()
    n_of = {key: {"curves": w.n_curves, "objects": len(w.objects)} for key, w in writers.items()}
    empty = [key for key, n in n_of.items() if not n["objects"]]
    if empty:
        raise DataError(f"no object fell into {', '.join(empty)}; try another seed or other shares")
    return n_of


def split_of(name: str, fold: int, n_folds: int, shares: Sequence[float], seed: int) -> str:
    """Where an object is in a fold: the hash is a pure function of its name and the seed."""
    digest = blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest()
    place = (int.from_bytes(digest) / 2**64 + fold / n_folds) % 1.0
    borders = np.cumsum(shares)[:2]
    return SPLITS[int(np.searchsorted(borders, place, side="right"))]


def curve_row(record: Record, modality: str, label: str) -> dict[str, Any]:
    """A record as a row of a shard.

    Errors:
        DataError: no id, no such modality, no usable curve, no label.
    """
    if "id" not in record:
        raise DataError("a record without an id cannot be kept to one split")
    if modality not in record or (label and label not in record):
        wanted = modality if modality not in record else label
        raise DataError(f"record {record['id']} has no '{wanted}'")
    value = record[modality]
    if isinstance(value, Mapping) and value.get("weight") is not None:
        raise DataError(f"record {record['id']} has weights; folds hold errors")
    curve = as_curve(value)
    row = {"id": str(record["id"]), **{k: curve[k] for k in ("time", "value")}}
    row |= {key: curve[key] for key in ("error", "band") if key in curve}
    if label:
        held = record[label]
        row["label"] = held.item() if isinstance(held, np.generic) else held
    return row


class Shards:
    """Rows to parquet files of ``size`` rows each."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        self.rows: list[dict[str, Any]] = []
        self.objects: set[str] = set()
        self.n_curves = self.n_files = 0
        folder.mkdir(parents=True)

    def add(self, row: dict[str, Any], name: str) -> None:
        self.rows.append(row)
        self.objects.add(name)
        self.n_curves += 1
        if len(self.rows) == self.size:
            self.close()

    def close(self) -> None:
        """Write what is held."""
        if not self.rows:
            return
        import pyarrow
        from pyarrow import parquet

        names = self.rows[0].keys()
        odd = next((row for row in self.rows if row.keys() != names), None)
        if odd is not None:
            told = f"{odd['id']} has {', '.join(odd)}; {self.rows[0]['id']} {', '.join(names)}"
            raise DataError(f"curves of one data set have the same parts: {told}")
        table = pyarrow.table({name: [row[name] for row in self.rows] for name in names})
        path = self.folder / f"part-{self.n_files:05}.parquet"
        parquet.write_table(table, path, row_group_size=ROW_GROUP)
        self.n_files += 1
        self.rows = []


def usable(source: Source, bad: Counter[str], most_bad: float = 0.01) -> Iterator[Record]:
    """The records of a source in order; bad ones are counted by reason in ``bad``.

    Errors:
        DataError: more than the share ``most_bad`` of them is bad.
    """
    n = len(source)
    for index in range(n):
        try:
            record = source[index]
        except BadRecord as error:
            bad[error.reason] += 1
            if bad.total() > most_bad * n:
                told = "; ".join(f"{count} x {reason}" for reason, count in bad.most_common(3))
                raise DataError(f"{bad.total()} of {n} records are bad: {told}") from error
            continue
        yield record


def _check(out: Path, n_folds: int, shares: Shares, shard_size: int) -> None:
    from importlib.util import find_spec

    if find_spec("pyarrow") is None:
        raise ConfigError("folds need pyarrow: pip install 'lom-timeseries[parquet]'")
    if n_folds < 1 or shard_size < 1:
        raise ConfigError(f"n_folds={n_folds} and shard_size={shard_size} must be at least 1")
    if len(shares) != 3 or min(shares) < 0 or not np.isclose(sum(shares), 1):
        raise ConfigError(f"shares {tuple(shares)} must be three numbers from 0 with sum 1")
    if out.exists():
        raise ConfigError(f"{out} exists; name a new folder, or remove it first")
