"""The grid of a file's fields: which rows and columns are read, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lom_core import DataError
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_climate.files import Field, GridFile

LARGEST = 10**8  # values of a field or of an axis: more is a damaged header
Region = tuple[float, float, float, float]  # lat_min, lat_max, lon_min, lon_max


@dataclass(frozen=True)
class Grid:
    """Which rows and columns of a file's fields are read, in which order, and where they lie.

    ``lat`` and ``lon`` are (y,) and (x,), or both (y, x); ``outside`` (y, x) is what a region
    leaves out of a curvilinear grid.
    """

    lat: Array
    lon: Array
    rows: Array
    columns: Array
    outside: Array | None = None

    def cut(self, field: Array) -> Array:
        """(y, x) as the file has it -> (y, x) float32 of this grid."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = field[np.ix_(self.rows, self.columns)].astype(np.float32)
        return found if self.outside is None else np.where(self.outside, np.float32("nan"), found)

    def same(self, other: Grid) -> bool:
        return all(
            one.shape == two.shape and np.allclose(one, two, atol=1e-4, equal_nan=True)
            for one, two in ((self.lat, other.lat), (self.lon, other.lon))
        )


def read_grid(data: GridFile, fields: list[Field], region: Region | None) -> Grid:
    """The grid that all fields share, in order, cut to the region.

    Errors:
        DataError: coordinates that are not sorted, repeat, or are not in degrees; variables on
            different grids; a region without any of it.
    """
    grids = []
    for name in dict.fromkeys(field.variable for field in fields):
        lat_axis, lon_axis, y, x = data.plane(name)
        if lat_axis.size > LARGEST or lon_axis.size > LARGEST or lat_axis.size * lon_axis.size == 0:
            raise DataError(f"{data.path}: {lat_axis.size} latitudes, {lon_axis.size} longitudes")
        if data.data.sizes[y] * data.data.sizes[x] > LARGEST:
            raise DataError(f"{data.path}: fields of {data.data.sizes[y]} x {data.data.sizes[x]}")
        try:
            lat, lon = (
                np.asarray((c if c.ndim == 1 else c.transpose(y, x)).values, dtype=np.float64)
                for c in (lat_axis, lon_axis)
            )
            grids.append(_regular(lat, lon, region) if lat.ndim == 1 else _bent(lat, lon, region))
        except DataError as error:
            raise DataError(f"{data.path}: {error}") from None
        except data.damage as error:
            raise DataError(f"{data.path}: coordinates cannot be read ({error})") from error
        if not grids[0].same(grids[-1]):
            raise DataError(
                f"{data.path}: '{name}' and '{fields[0].variable}' are on different grids; "
                "give them as two data sets, put side by side by crossmatch"
            )
    return grids[0]


def _regular(lat: Array, lon: Array, region: Region | None) -> Grid:
    _degrees(lat, lon)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        raise DataError("coordinates that are missing")
    if len(lat) > 1 and not ((np.diff(lat) > 0).all() or (np.diff(lat) < 0).all()):
        raise DataError("latitudes are not sorted, or repeat")
    lat = np.clip(lat, -90, 90)
    rows = np.argsort(-lat)
    columns = np.arange(len(lon))
    if len(lon) > 1 and abs(abs(lon[-1] - lon[0]) - 360) < 1e-3:
        columns = columns[:-1]  # a cyclic column
    start = _west(lon[columns]) if region is None else region[2]
    east = (lon - start) % 360
    east[east > 360 - 1e-4] = 0.0  # a longitude of float32, just west of the region's edge
    columns = columns[np.argsort(east[columns], kind="stable")]
    if (np.diff(east[columns]) < 1e-4).any():
        raise DataError("longitudes repeat")
    if region is not None:
        south, north, west, last = region
        rows = rows[(lat[rows] >= south - 1e-4) & (lat[rows] <= north + 1e-4)]
        columns = columns[east[columns] <= _width(west, last) + 1e-4]
        if not len(rows) or not len(columns):
            raise DataError(_outside(lat, lon, region))
    return Grid(lat[rows], lon[columns] % 360, rows, columns)


def _bent(lat: Array, lon: Array, region: Region | None) -> Grid:
    _degrees(lat, lon)
    rows, columns = np.arange(lat.shape[0]), np.arange(lat.shape[1])
    if region is None:
        return Grid(lat, lon % 360, rows, columns)
    south, north, west, last = region
    inside = (lat >= south) & (lat <= north) & ((lon - west) % 360 <= _width(west, last))
    if not inside.any():
        raise DataError(_outside(lat, lon, region))
    rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
    rows = np.arange(rows[0], rows[-1] + 1)
    columns = np.arange(columns[0], columns[-1] + 1)
    box = np.ix_(rows, columns)
    return Grid(lat[box], lon[box] % 360, rows, columns, ~inside[box])


def _degrees(lat: Array, lon: Array) -> None:
    for name, values, limit in (("latitudes", lat, 90.001), ("longitudes", lon, 720.0)):
        finite = values[np.isfinite(values)]
        if not finite.size:
            raise DataError(f"{name} are all missing")
        if np.abs(finite).max() > limit:
            raise DataError(f"{name} from {finite.min():g} to {finite.max():g}: not in degrees")


def _west(lon: Array) -> float:
    """Where a row of a grid begins: east of its widest gap, or at Greenwich if it has none."""
    around = np.sort(lon % 360)
    gaps = np.diff(np.append(around, around[0] + 360))
    widest = int(gaps.argmax())
    if len(gaps) < 2 or gaps[widest] <= 1.5 * np.median(gaps):
        return 0.0
    return float(around[(widest + 1) % len(around)])


def _width(west: float, east: float) -> float:
    return 360.0 if abs(east - west) >= 360 else (east - west) % 360


def _outside(lat: Array, lon: Array, region: Region) -> str:
    return (
        f"nothing within region {list(region)}; the grid has latitudes {np.nanmin(lat):g} .. "
        f"{np.nanmax(lat):g}, longitudes {np.nanmin(lon):g} .. {np.nanmax(lon):g}"
    )
