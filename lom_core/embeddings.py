"""Files of embeddings: a row an observation, in parquet or npz, written and read piece by piece.

Columns with one value a row are ids and labels; columns with many are *features*: ``embedding``,
``embedding_images``, ``random_init`` ... A file is written under a temporary name and renamed when
it is whole. Labels may come and go, or turn from numbers to text, while records are read: what a
column is in the end is decided when all rows are known.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from lom_core.errors import ConfigError, DataError, nearest
from lom_core.pieces import ROWS, Pieces, Table
from lom_core.roles import Array

BLOCK = 64 << 20  # bytes of a column that a reader holds at once
METADATA = "lom_metadata"
DAMAGED = (OSError, ValueError, KeyError, EOFError, RuntimeError, zlib.error)
PARQUET = "reads and writes .parquet with pyarrow; `pip install 'lom-core[parquet]'`, or use .npz"


def write_embeddings(path: str | Path, tables: Iterable[Table], metadata: Mapping[str, Any]) -> int:
    """Write tables one after the other; how many rows.

    Args:
        path: ``.parquet`` or ``.npz``.
        metadata: JSON that goes with them.

    Errors:
        ConfigError: another ending, or pyarrow is missing. DataError: no row.
    """
    path = Path(path)
    finish = {".npz": _to_npz, ".parquet": _to_parquet}.get(path.suffix)
    if finish is None:
        raise ConfigError(f"{path}: embeddings are written to .parquet or .npz")
    if path.suffix == ".parquet":
        _pyarrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        pieces = Pieces(folder)
        for table in tables:
            pieces.add(table)
        pieces.flush()
        if not pieces.lengths:
            raise DataError("no record gave an embedding; nothing is written")
        whole = folder / f"whole{path.suffix}"  # pieces have numbers for names
        finish(whole, pieces, json.dumps(dict(metadata)))
        whole.replace(path)
        return sum(pieces.lengths)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}; what was there is untouched") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _to_npz(path: Path, pieces: Pieces, metadata: str) -> None:
    """What ``np.load`` reads; each column is streamed into its member."""
    n = sum(pieces.lengths)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in pieces.dtypes:
            shape = (n, *pieces.widths[name])
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                _npy_header(member, pieces.dtype(name), shape)
                for rows in pieces.column(name):
                    member.write(np.ascontiguousarray(rows).tobytes())
        buffer = io.BytesIO()
        np.save(buffer, np.array(metadata))
        archive.writestr(f"{METADATA}.npy", buffer.getvalue())


def _npy_header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    fields = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, fields)


def _to_parquet(path: Path, pieces: Pieces, metadata: str) -> None:
    """A row group a piece. Features are fixed-size lists of float32; what is missing is null."""
    pa, pq = _pyarrow()
    columns = {name: pieces.column(name) for name in pieces.dtypes}
    writer = None
    try:
        for _ in pieces.lengths:
            arrays = {name: _arrow(pa, next(rows)) for name, rows in columns.items()}
            table = pa.table(arrays).replace_schema_metadata({METADATA: metadata})
            writer = writer or pq.ParquetWriter(path, table.schema, write_page_checksum=True)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()


def _arrow(pa: Any, column: Array) -> Any:
    if column.ndim == 2:
        missing = np.isnan(column).all(axis=1)
        flat = pa.array(np.ascontiguousarray(column).reshape(-1))
        mask = pa.array(missing) if missing.any() else None
        return pa.FixedSizeListArray.from_arrays(flat, column.shape[1], mask=mask)
    if column.dtype.kind == "U":
        return pa.array(column.tolist(), mask=column == "", type=pa.string())
    if column.dtype.kind == "f":
        return pa.array(column, mask=np.isnan(column))
    return pa.array(column)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"lom embed {PARQUET}") from None
    return pyarrow, pyarrow.parquet


# ---------------------------------------------------------------------------------------- reading


def open_embeddings(path: str | Path) -> Embeddings:
    """What ``write_embeddings`` wrote, or another table of vectors.

    Errors:
        DataError: no such file, damaged, or without an ``id`` column and a column of vectors.
    """
    path = Path(path)
    kinds: dict[str, type[Embeddings]] = {".npz": _Npz, ".parquet": _Parquet}
    if path.suffix not in kinds:
        raise ConfigError(f"{path}: embeddings are .parquet or .npz (`lom embed ... --out FILE`)")
    if not path.is_file():
        raise DataError(f"no such file: {path}; `lom embed CKPT DATA --out {path}` writes one")
    return kinds[path.suffix](path)


class Embeddings:
    """A file of embeddings.

    Attributes:
        features: column -> width d, of the columns of vectors (n, d).
        labels: names of the columns with one value a row, without ``id``.
        metadata: what was written with them.
    """

    features: dict[str, int]
    labels: list[str]
    metadata: dict[str, Any]
    n: int

    def __len__(self) -> int:
        return self.n

    def column(self, name: str) -> Array:
        """(n,) of ids or of a label; ConfigError listing the labels."""
        if name != "id" and name not in self.labels:
            have = ", ".join(self.labels) or "no label"
            raise ConfigError(
                f"{self.path} has no column '{name}'{nearest(name, self.labels)}; it has {have}"
            )
        return np.concatenate(list(self.pieces(name)))

    def matrix(self, feature: str) -> Array:
        """(n, d) float32, NaN where there is none."""
        return np.concatenate(list(self.blocks(feature)))

    def blocks(self, feature: str) -> Iterator[Array]:
        """The same in blocks of rows (b, d), for files larger than memory."""
        if feature not in self.features:
            have = ", ".join(self.features)
            raise ConfigError(
                f"{self.path} has no feature '{feature}'{nearest(feature, self.features)}; "
                f"it has {have}"
            )
        return self.pieces(feature)

    def only_feature(self, feature: str | None) -> str:
        """The feature that is asked for; ``embedding``, or the only one, if None."""
        if feature is not None:
            return feature
        if "embedding" in self.features:
            return "embedding"
        if len(self.features) == 1:
            return next(iter(self.features))
        raise ConfigError(
            f"{self.path} has several features: choose one with --feature: "
            f"{', '.join(self.features)}"
        )

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._told():
            self._open()
        if not self.features or not self._has_ids:
            raise DataError(f"{path} needs a column 'id' and a column of vectors")

    _has_ids = False

    def _open(self) -> None:
        """Fill the attributes."""

    def _rows(self, name: str) -> Iterator[Array]:
        return iter(())

    def pieces(self, name: str) -> Iterator[Array]:
        """A column's rows, some at a time; DataError where the file is damaged."""
        with self._told():
            yield from self._rows(name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except (*DAMAGED, zipfile.BadZipFile) as error:
            told = " ".join(str(error).split())[:200]
            raise DataError(f"{self.path} is damaged or no file of embeddings: {told}") from error


class _Npz(Embeddings):
    def _open(self) -> None:
        self.features, self.labels, self.metadata = {}, [], {}
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                with archive.open(member) as file:
                    shape, dtype = _read_header(file)
                    if name == METADATA:
                        self.metadata = json.loads(_read(file, (), dtype).item())
                        continue
                if len(shape) == 2 and dtype.kind == "f" and name != "position":
                    self.features[name] = shape[1]
                elif name == "id":
                    self._has_ids, self.n = True, shape[0]
                elif len(shape) == 1:
                    self.labels.append(name)

    def _rows(self, name: str) -> Iterator[Array]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            shape, dtype = _read_header(file)
            row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
            step = max(1, BLOCK // max(row, 1))
            for start in range(0, shape[0], step):
                yield _read(file, (min(step, shape[0] - start), *shape[1:]), dtype)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, dtype = read[version](file)
    if dtype.hasobject or (fortran and len(shape) > 1):
        raise ValueError("columns must be numbers or text, in C order")
    return shape, dtype


def _read(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = file.read(size)
    if len(data) != size:
        raise DataError("the file of embeddings is cut short")
    return np.frombuffer(data, dtype).reshape(shape)


class _Parquet(Embeddings):
    def _open(self) -> None:
        pa, pq = _pyarrow()
        with pq.ParquetFile(self.path) as file:
            schema = file.schema_arrow
            self.n = file.metadata.num_rows
            self.metadata = json.loads((schema.metadata or {}).get(METADATA.encode(), b"{}"))
            names = [(f.name, f.type) for f in schema]
        self._has_ids = "id" in schema.names
        self.features = {
            name: kind.list_size
            for name, kind in names
            if pa.types.is_fixed_size_list(kind) and name != "position"
        }
        self.labels = [n for n, kind in names if n != "id" and not pa.types.is_nested(kind)]

    def _rows(self, name: str) -> Iterator[Array]:
        _, pq = _pyarrow()
        with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
            for batch in file.iter_batches(batch_size=ROWS, columns=[name]):
                yield self._array(batch.column(0), name)

    def _array(self, column: Any, name: str) -> Array:
        if name in self.features:
            rows = np.full((len(column), self.features[name]), np.nan, np.float32)
            known = np.asarray(column.is_valid())
            rows[known] = (
                column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.features[name])
            )
            return rows
        values = column.to_pylist()
        if any(isinstance(v, str) for v in values) or column.type == "string":
            return np.array(["" if v is None else v for v in values], dtype=np.str_)
        if column.null_count:
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        return np.asarray(values)
