"""Tables of light curves: text, parquet, ECSV, FITS; and the FITS files of Kepler and TESS."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, ConfigError
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_timeseries.curve_sets import AstromerRecords, Curve, LightCurveFiles

Table = dict[str, Array]
"""Columns by name: (n,) of one length each. A column of objects holds a curve a row."""

Units = dict[str, "str | None"]
"""Column -> the unit that the file states."""

Named = tuple[str, "Curve | BadRecord"]

PARQUET = (".parquet", ".pq")
MISSING = ("", "-", "--", "nan", "none", "null", "na")
KNOWN = {
    "time": ("time", "mjd", "hjd", "bjd", "jd", "t", "dim_0"),
    "value": ("value", "mag", "magnitude", "pdcsap_flux", "sap_flux", "flux", "dim_1"),
    "band": ("band", "filter", "passband", "fid"),
}
# An error belongs to the value beside which it is named: mag -> magerr, mag_err, e_mag ...
OF_VALUE = ("{}_err", "{}err", "{}_error", "{}error", "e_{}", "err_{}", "err{}", "sig{}", "d{}")
ERRORS = ("error", "err", "sigma", "uncertainty", "dim_2")


def need_parquet(paths: Iterable[Path | None]) -> None:
    """ConfigError, before training starts, if a path needs pyarrow and there is none."""
    found = [p for p in paths if p is not None and p.suffix.lower() in PARQUET]
    if found and find_spec("pyarrow") is None:
        raise ConfigError(f"{found[0]} needs pyarrow: pip install 'lom-timeseries[parquet]'")


def read_curves(config: LightCurveFiles, path: Path) -> list[Named]:
    """(name, curve) of everything in a file, in its order; a curve that is bad is its BadRecord.

    Errors:
        BadRecord: no table, a column that is missing, no row left.
    """
    table, units = read_table(path)
    columns = find_columns(config, table)
    time = columns["time"]
    table[time] = in_days(table[time], units.get(time))
    table = _rows(table, config.where)
    names = table[_named(table, config.object_column)] if config.object_column else None
    for column in config.targets.values():
        _named(table, column)
    if is_curve_a_row(table[columns["value"]]):
        n = len(table[columns["value"]])
        return [row_curve(config, columns, table, i) for i in range(n)]
    if names is None:
        return [_named_curve(config, columns, table, "")]
    # Curves stand in the order in which a file first names them.
    labels, first, owner = np.unique(names.astype(str), return_index=True, return_inverse=True)
    rows = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    return [
        _named_curve(config, columns, {c: x[rows[k]] for c, x in table.items()}, str(labels[k]))
        for k in np.argsort(first)
    ]


def is_curve_a_row(values: Array) -> bool:
    return values.dtype == object and len(values) > 0 and np.ndim(values[0]) == 1


def row_curve(config: LightCurveFiles, columns: Mapping[str, str], table: Table, row: int) -> Named:
    """Row ``row`` of a table that holds a curve a row; named by its object or its number."""
    wanted = {*columns.values(), *config.targets.values()}
    parts = {c: np.asarray(table[c][row]) for c in wanted}
    n = parts[columns["value"]].shape
    one = {c: np.full(n, x, dtype=x.dtype) if x.ndim == 0 else x for c, x in parts.items()}
    name = str(table[config.object_column][row]) if config.object_column else str(row)
    return _named_curve(config, columns, one, name)


def _named_curve(
    config: LightCurveFiles, columns: Mapping[str, str], table: Table, name: str
) -> Named:
    try:
        curve = make_curve({role: table[c] for role, c in columns.items()})
        if config.targets:
            curve["targets"] = {m: _label(table[c], c) for m, c in config.targets.items()}
    except BadRecord as error:
        return name, error
    return name, curve


def _label(cells: Array, column: str) -> Any:
    """The one value that an object's rows agree on."""
    different = set(cells.tolist())
    if len(different) != 1 or different & {None, ""}:
        told = f"{column}: {', '.join(sorted(map(str, different)))[:100]}"
        raise BadRecord("an object without one label", detail=told)
    return different.pop()


def make_curve(columns: Mapping[str, Array]) -> Curve:
    """Numbers as float64, sorted by time."""
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise BadRecord("columns of different lengths", detail=str(sorted(lengths)))
    curve = {
        role: column if role == "band" else _numbers(column, role)
        for role, column in columns.items()
    }
    # Vector columns are filled up with NaN: neither a time nor a value, so not an epoch.
    epochs = np.flatnonzero(~(np.isnan(curve["time"]) & np.isnan(curve["value"])))
    if not len(epochs):
        raise BadRecord("no row of a light curve")
    order = epochs[np.argsort(curve["time"][epochs], kind="stable")]
    return {role: column[order] for role, column in curve.items()}


def _numbers(column: Array, role: str) -> Array:
    """float64, NaN where a cell is empty."""
    if column.dtype.kind in "fiub":
        return np.asarray(column, dtype=np.float64)
    cells = ["nan" if str(c).strip().lower() in MISSING else str(c) for c in column]
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError as error:
        raise BadRecord(f"text in the column of the {role}", detail=str(error)[:100]) from None


def find_columns(config: LightCurveFiles | AstromerRecords, table: Table) -> dict[str, str]:
    """Role (time, value, error, band) -> column, for those there are.

    Errors:
        BadRecord: a named column is missing, or time or value is neither named nor found.
    """
    found: dict[str, str] = {}
    kept_out = getattr(config, "object_column", None)
    for role in ("time", "value", "error", "band"):
        given = getattr(config, role)
        if given is not None:
            found[role] = _named(table, given)
            continue
        known = KNOWN.get(role) or _error_names(found["value"])
        match = [c for k in known for c in table if c.lower() == k and c != kept_out]
        if match:
            found[role] = match[0]
        elif role in ("time", "value"):
            raise BadRecord(f"no column of the {role}", detail=f"it has {', '.join(table)[:200]}")
    return found


def _error_names(value: str) -> tuple[str, ...]:
    return (*(pattern.format(value.lower()) for pattern in OF_VALUE), *ERRORS)


def _named(table: Table, column: str) -> str:
    if column not in table:
        raise BadRecord(f"no column '{column}'", detail=f"it has {', '.join(table)[:200]}")
    return column


def _rows(table: Table, where: Mapping[str, str | list[str]]) -> Table:
    """The rows that have one of the wanted values in each column of ``where``."""
    for column, wanted in where.items():
        cells = table[_named(table, column)]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if cells.dtype.kind in "fiu":
            kept = np.isin(cells, np.array(wanted, dtype=np.float64))
        else:
            kept = np.isin(cells.astype(str), wanted)
        if not kept.any():
            raise BadRecord("no row that the config's where asks for", detail=f"{column}: {wanted}")
        table = {name: cell[kept] for name, cell in table.items()}
    return table


def in_days(times: Array, unit: str | None) -> Array:
    """Seconds, hours ... as days; times without a unit, or of an unknown one, are days already."""
    if not unit:
        return times
    from astropy import units

    stated = units.Unit(unit, parse_strict="silent")
    is_time = not isinstance(stated, units.UnrecognizedUnit) and stated.is_equivalent(units.day)
    return times * stated.to(units.day) if is_time and stated != units.day else times


def read_table(path: Path) -> tuple[Table, Units]:
    """The columns of a table, in the file's order; masked cells are NaN or an empty text.

    Errors:
        BadRecord, OSError, ValueError: damaged, or no table.
    """
    name = path.name.lower()
    if name.endswith(PARQUET):
        return _parquet(path), {}
    if name.endswith((".fits", ".fits.gz", ".fit")):
        table, header, units = _fits(path, None)
        return table, {c: unit or header.get("TIMEUNIT") for c, unit in units.items()}
    return _ecsv(path) if name.endswith(".ecsv") else (_text(path), {})


def _parquet(path: Path) -> Table:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise BadRecord("damaged parquet file", detail=str(error)[:200]) from None
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _ecsv(path: Path) -> tuple[Table, Units]:
    from astropy.table import Table as AstropyTable

    table = AstropyTable.read(path, format="ascii.ecsv")
    columns = {name: table[name] for name in table.colnames}
    stated = {c: getattr(column, "unit", None) for c, column in columns.items()}
    units: Units = {c: None if unit is None else str(unit) for c, unit in stated.items()}
    return {c: _plain(column) for c, column in columns.items()}, units


def _plain(column: Any) -> Array:
    """An astropy column, Time or Quantity as an array; Time as its modified Julian date."""
    values = np.ma.asanyarray(getattr(column, "mjd", getattr(column, "value", column)))
    mask = np.ma.getmaskarray(values)
    if not mask.any():
        return np.asarray(values)
    if values.dtype.kind in "fiu":
        return np.asarray(values.astype(np.float64).filled(np.nan))
    return np.asarray(values.astype(object).filled(""))


def _fits(path: Path, need: str | None) -> tuple[Table, dict[str, Any], Units]:
    """The first table (that has column ``need``) of a FITS file, its header, and its units."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*truncated")
        warnings.simplefilter("ignore", category=fits.verify.VerifyWarning)
        try:
            with fits.open(path, memmap=False) as hdus:
                for hdu in hdus:
                    names = getattr(hdu, "columns", None)
                    if names is None or (need and need not in names.names):
                        continue
                    data = hdu.data
                    flat = [c for c in names if data[c.name].ndim < 3]
                    table = {c.name: _a_row(_observed(_native(data[c.name]), c)) for c in flat}
                    return table, dict(hdu.header), {c.name: c.unit for c in names}
        except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise BadRecord("damaged FITS file", detail=_told(error)) from None
        except AstropyWarning as error:
            raise BadRecord("damaged FITS file", detail=_told(error)) from None
    raise BadRecord("no table of a light curve in the FITS file")


def _a_row(column: Array) -> Array:
    """A cell a row: (n,), or of a vector column (n, k) an object array of n arrays (k,)."""
    if column.ndim == 1:
        return _plain(column)
    cells = np.empty(len(column), dtype=object)
    for row, cell in enumerate(column):
        cells[row] = cell
    return cells


def _observed(values: Array, column: Any) -> Array:
    """NaN where whole numbers are the column's TNULL, which stands for what was not observed."""
    if column.null is None or values.dtype.kind not in "iuf":
        return values
    scale, zero = column.bscale or 1, column.bzero or 0  # astropy has applied both
    return np.where(values == column.null * scale + zero, np.nan, values)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _native(column: Any) -> Array:
    column = np.asarray(column)
    native: Array = column.astype(column.dtype.newbyteorder("="), copy=False)
    return native


def _text(path: Path) -> Table:
    """A text table: comma, tab, semicolon, bar or blanks between cells, names in its first line.

    Lines that begin with # are comments, but for a first line of names. A table of numbers alone
    has the columns time, value, error.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    first = next((line for line in lines if line.strip()), "").lstrip("#").strip()
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not first:
        raise BadRecord("no table in the file")
    mark = next((m for m in ",\t;|" if m in first), None)
    head = _cells(first, mark)
    if all(_is_number(cell) for cell in head):
        head = ["time", "value", "error"][: len(head)]
    else:
        numbered = numbered[1:]
    rows = [(i, _cells(line, mark)) for i, line in numbered if not line.lstrip().startswith("#")]
    for i, row in rows:
        if len(row) != len(head):
            told = f"line {i} has {len(row)} cells, the first line {len(head)}"
            raise BadRecord("a line with another number of cells", detail=told)
    columns = zip(*(row for _, row in rows), strict=True) if rows else ([] for _ in head)
    return {name: np.array(cells, dtype=str) for name, cells in zip(head, columns, strict=True)}


def _cells(line: str, mark: str | None) -> list[str]:
    if mark is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=mark))]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def read_kepler(path: Path, flux: str, all_cadences: bool) -> Curve:
    """Time (days of the mission's clock), flux and error (e-/s) of a pipeline light curve.

    Errors:
        BadRecord: damaged, not such a file, or no cadence left.
    """
    table, header, _ = _fits(path, "TIME")
    column = f"{flux.upper()}_FLUX"
    quality = next((q for q in ("QUALITY", "SAP_QUALITY") if q in table), None)
    for name in (column, f"{column}_ERR", quality or "QUALITY"):
        if name not in table:
            raise BadRecord(f"no column {name}", detail=f"it has {', '.join(table)[:200]}")
    if str(header.get("TIMEUNIT", "d")).strip() not in ("d", "day"):
        raise BadRecord("times are not in days", detail=f"TIMEUNIT {header['TIMEUNIT']}")
    good = np.isfinite(table["TIME"])
    if not all_cadences:
        good &= table[quality or "QUALITY"] == 0
    if not good.any():
        raise BadRecord("no cadence with a time and without a flag")
    columns = {"time": table["TIME"], "value": table[column], "error": table[f"{column}_ERR"]}
    return make_curve({role: cells[good] for role, cells in columns.items()})
