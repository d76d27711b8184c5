"""One file: its variables, levels, times and grid, found by the CF conventions' attributes."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lom_climate.file_grid import LARGEST
from lom_climate.times import to_hours
from lom_core import ConfigError, DataError
from lom_core.errors import nearest
from lom_core.roles import Array

# What readers raise for damaged files.
DAMAGE = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, EOFError, MemoryError, AssertionError),
)
ENGINES = {".zarr": "zarr", **dict.fromkeys((".grib", ".grib2", ".grb", ".grb2"), "cfgrib")}
EXTRAS = {"zarr": "zarr", "cfgrib": "grib"}

LAT_UNITS = ("degrees_north", "degree_north", "degrees_n", "degree_n", "degreesn", "degreen")
LON_UNITS = ("degrees_east", "degree_east", "degrees_e", "degree_e", "degreese", "degreee")
LAT_NAMES, LON_NAMES = ("lat", "latitude", "nav_lat"), ("lon", "longitude", "nav_lon")
Key = str | int | float  # of a GRIB message
PASCALS = ("pa", "pascal", "pascals")


@dataclass(frozen=True)
class Field:
    """A variable, or one of its levels: the source of a channel."""

    variable: str
    channel: str
    level: int | None = None  # index


@dataclass(frozen=True)
class TimeAxis:
    """Times of a file in hours since 1970 (t,) of its calendar."""

    path: Path
    hours: Array
    calendar: str


def open_file(path: Path, filter_by_keys: Mapping[str, Key] | None = None) -> GridFile:
    """Open a file or a Zarr store for reading; of GRIB, the messages with these keys.

    Errors:
        DataError: there is no such file, or it is empty, truncated or of another format, or GRIB
            of several kinds of levels or steps, which make no one grid.
        ConfigError: the package that reads the format is not installed.
    """
    import xarray

    if not path.exists():
        raise DataError(f"{path}: no such file")
    if not path.is_file() and not path.is_dir():
        raise DataError(f"{path}: neither a file nor a folder")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path}: empty file")
    engine = engine_of(path)
    extra = {}
    if engine == "cfgrib":
        extra["backend_kwargs"] = {"indexpath": "", "filter_by_keys": dict(filter_by_keys or {})}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd attributes; what matters raises below
            data = xarray.open_dataset(
                path,
                engine=engine,
                decode_times=False,
                cache=False,
                **extra,  # type: ignore[arg-type]
            )
    except _damage(engine) as error:
        if engine in EXTRAS and "unrecognized engine" in str(error):
            raise ConfigError(
                f"{path}: reading it needs '{engine}'; pip install 'lom-climate[{EXTRAS[engine]}]'"
            ) from None
        if "filter_by_keys" in str(error):
            raise DataError(
                f"{path}: its messages make no one data set; choose some by filter_by_keys, such "
                f"as {{typeOfLevel: isobaricInhPa, shortName: t}} ({_told(error)})"
            ) from None
        raise DataError(f"{path}: cannot be opened ({_told(error)})") from error
    return GridFile(path, data, _damage(engine))


def _damage(engine: str) -> tuple[type[Exception], ...]:
    """What an engine raises for damaged files; ecCodes has a tree of its own."""
    if engine != "cfgrib" or importlib.util.find_spec("gribapi") is None:
        return DAMAGE
    errors = importlib.import_module("gribapi.errors")
    return (*DAMAGE, errors.GribInternalError)


def engine_of(path: Path) -> str:
    """xarray's engine for a file or a Zarr store.

    Classic NetCDF is read by scipy: the C library ends the process on damaged headers.

    Errors:
        DataError: it cannot be read at all.
    """
    if path.suffix.lower() in ENGINES:
        return ENGINES[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            return "scipy" if file.read(4) in (b"CDF\x01", b"CDF\x02") else "netcdf4"
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({_told(error)})") from error


class GridFile:
    """An open file. Errors name it; ``damage`` is what reading it may raise besides."""

    def __init__(self, path: Path, data: Any, damage: tuple[type[Exception], ...]) -> None:
        self.path, self.data, self.damage = path, data, damage

    def __enter__(self) -> GridFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.data.close()

    def fields(self, names: list[str], levels: list[float], units: dict[str, str]) -> list[Field]:
        """The channels behind the names, one for each level where a variable has levels."""
        found: list[Field] = []
        for name in names:
            variable, level = self._split(name)
            self._check(variable, units.get(name, units.get(variable)))
            of_file = self.levels_of(variable)
            asked = levels if level is None else [level]
            if not of_file:
                if level is not None:
                    raise DataError(
                        f"{self.path}: '{variable}' has no levels, '{name}' asks for one"
                    )
                found.append(Field(variable, name))
                continue
            if not asked:
                raise DataError(
                    f"{self.path}: '{variable}' has levels {_listed(of_file)}; name one, "
                    f"{variable}_{of_file[0]:g}, or set levels"
                )
            for value in asked:
                distance = np.abs(np.array(of_file) - value)
                if distance.min() > 1e-3 * max(abs(value), 1):
                    raise DataError(
                        f"{self.path}: '{variable}' has no level {value:g}; "
                        f"it has {_listed(of_file)}"
                    )
                found.append(Field(variable, f"{variable}_{value:g}", int(distance.argmin())))
        return found

    def _split(self, name: str) -> tuple[str, float | None]:
        """Variable and level behind a name: ``t_850``."""
        if name in self.data.data_vars:
            return name, None
        variable, _, tail = name.rpartition("_")
        if variable in self.data.data_vars:
            try:
                return variable, float(tail)
            except ValueError:
                pass
        known = [str(v) for v in self.data.data_vars]
        raise DataError(
            f"{self.path}: no variable '{name}'{nearest(name, known)}; "
            f"it has {', '.join(known) or 'none'}"
        )

    def _check(self, variable: str, unit: str | None) -> None:
        array = self.data[variable]
        if array.dtype.kind not in "uif":
            raise DataError(f"{self.path}: '{variable}' holds no numbers but {array.dtype}")
        has = array.attrs.get("units")
        if unit is not None and has != unit:
            raise DataError(
                f"{self.path}: '{variable}' is in {'no unit' if has is None else repr(has)}, "
                f"expected '{unit}'"
            )

    def levels_of(self, variable: str) -> list[float]:
        """Values of the variable's level axis, pressures in hPa; empty where it has none."""
        dim = self._level_dim(variable)
        if dim is None:
            return []
        axis = self.data.coords[dim]
        factor = 0.01 if str(axis.attrs.get("units", "")).lower() in PASCALS else 1.0
        return [float(v) * factor for v in axis.values]

    def _level_dim(self, variable: str) -> str | None:
        array = self.data[variable]
        known = {*self._time(variable)[1:], *self.plane(variable)[2:]}
        rest = [str(d) for d in array.dims if d not in known and array.sizes[d] > 1]
        if not rest:
            return None
        if len(rest) > 1 or rest[0] not in self.data.coords:
            raise DataError(
                f"{self.path}: '{variable}' has dimensions {dict(array.sizes)}; besides time, "
                "latitude, longitude and one axis of levels none may be longer than 1"
            )
        if self.data.coords[rest[0]].dtype.kind not in "uif":
            raise DataError(f"{self.path}: the axis '{rest[0]}' of '{variable}' holds no numbers")
        return rest[0]

    def _time(self, variable: str) -> tuple[Any, str | None]:
        """The variable's time coordinate (None without one) and its dimension."""
        array = self.data[variable]
        found = [
            c
            for c in array.coords.values()
            if c.ndim <= 1 and (" since " in str(c.attrs.get("units")) or c.name == "time")
        ]
        rank = [
            (c.name not in array.dims, c.attrs.get("standard_name") != "time", c.name != "time")
            for c in found
        ]
        if not found:
            return None, None
        best = found[rank.index(min(rank))]
        return best, str(best.dims[0]) if best.ndim else None

    def time_axis(self, field: Field) -> TimeAxis:
        """Times in the file's order.

        Errors:
            DataError: no time coordinate, or one that says no dates.
        """
        axis, _ = self._time(field.variable)
        if axis is None:
            raise DataError(f"{self.path}: '{field.variable}' has no time coordinate")
        units = str(axis.attrs.get("units", ""))
        calendar = str(axis.attrs.get("calendar", "standard")).lower()
        if axis.size > LARGEST or not axis.size:
            raise DataError(f"{self.path}: {axis.size} times")
        try:
            hours = to_hours(np.atleast_1d(axis.values), units, calendar)
        except self.damage as error:
            raise DataError(
                f"{self.path}: times in '{units}', calendar '{calendar}', cannot be read "
                f"({_told(error)})"
            ) from error
        if not np.isfinite(hours).all():
            raise DataError(f"{self.path}: a time that is missing")
        return TimeAxis(self.path, hours, calendar)

    def plane(self, variable: str) -> tuple[Any, Any, str, str]:
        """Latitudes, longitudes, and the dimensions along which rows and columns run.

        Errors:
            DataError: the file does not say where the variable's values lie.
        """
        array = self.data[variable]
        found = []
        for names, units, standard in (
            (LAT_NAMES, LAT_UNITS, "latitude"),
            (LON_NAMES, LON_UNITS, "longitude"),
        ):
            own = [self.data[name] for name in (*array.coords, *self.data.variables)]
            fit = [
                c
                for c in own
                if c.ndim in (1, 2)
                and set(c.dims) <= set(array.dims)
                and c.dtype.kind in "uif"
                and (
                    c.attrs.get("standard_name") == standard
                    or str(c.attrs.get("units", "")).lower() in units
                    or str(c.name).lower() in names
                )
            ]
            if not fit:
                raise DataError(
                    f"{self.path}: no {standard}s for '{variable}' of dimensions "
                    f"{', '.join(map(str, array.dims))} (units {units[0]}, or the name {names[1]})"
                )
            found.append(fit[0])
        lat, lon = found
        if (
            lat.ndim != lon.ndim
            or (lat.ndim == 1 and lat.dims == lon.dims)
            or (lat.ndim == 2 and set(lat.dims) != set(lon.dims))
        ):
            raise DataError(
                f"{self.path}: latitudes {lat.dims} and longitudes {lon.dims} of '{variable}' "
                "make no grid"
            )
        dims = (*lat.dims, *lon.dims) if lat.ndim == 1 else lat.dims
        return lat, lon, str(dims[0]), str(dims[1])

    def read(self, field: Field, at: int) -> Array:
        """(y, x) at a time's index, as decoded (scale_factor, add_offset, _FillValue -> NaN).

        Errors:
            DataError: it cannot be read.
        """
        array = self.data[field.variable]
        _, _, y, x = self.plane(field.variable)
        _, time = self._time(field.variable)
        level = self._level_dim(field.variable) if field.level is not None else None
        index = {d: 0 for d in array.dims if d not in (y, x)}
        if time is not None:
            index[time] = at
        if level is not None:
            index[level] = field.level or 0
        try:
            return np.asarray(array.isel(index).transpose(y, x).values)
        except self.damage as error:
            raise DataError(f"{self.path}: '{field.variable}' at {at}: {_told(error)}") from error


def _listed(levels: list[float]) -> str:
    return ", ".join(f"{v:g}" for v in levels)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
