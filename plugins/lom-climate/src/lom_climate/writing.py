"""Fields -> NetCDF; and what lies ahead of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import ConfigError, Tokens
from lom_core.roles import Array

DAYS = 366.0  # of the positions' year


def write_fields(value: Mapping[str, Any], path: Path, channels: Sequence[str], unit: str) -> Path:
    """``PATH.nc``: a variable a channel over ``lead_time`` (hours since the base), lat and lon.

    The year is not known, so that the times are hours since the base; day of the year and hour of
    the day stand beside them. On curvilinear grids lat and lon are two-dimensional.
    """
    import xarray

    values, lat, lon = (np.asarray(value[key]) for key in ("values", "lat", "lon"))
    flat = lat.ndim == 1
    space = ("lat", "lon") if flat else ("y", "x")
    degrees = {"lat": "degrees_north", "lon": "degrees_east"}
    coordinates = {
        name: (name if flat else space, at, {"units": degrees[name]})
        for name, at in (("lat", lat), ("lon", lon))
    }
    hours = np.asarray(value["time"], dtype=np.float64) - float(value.get("base") or 0.0)
    period = {"units": "hours", "standard_name": "forecast_period"}
    times = {
        name: ("lead_time", np.broadcast_to(value[name], hours.shape))
        for name in ("day_of_year", "hour")
        if name in value
    }
    variables = {
        name: (("lead_time", *space), values[:, i], {"units": unit} if unit and i == 0 else {})
        for i, name in enumerate(channels)
    }
    data = xarray.Dataset(
        variables,
        {"lead_time": ("lead_time", hours, period), **coordinates, **times},
        {"Conventions": "CF-1.8"},
    )
    path = path.with_name(path.name + ".nc")
    data.to_netcdf(path, engine="netcdf4")
    return path


def hours_ahead(tokens: Tokens, hours: float) -> Array:
    """(n, 5): the places of the last time, so many hours later.

    Errors:
        ConfigError: hours that do not lie ahead.
    """
    if not hours > 0:
        raise ConfigError(f"ahead={hours:g}: hours must be above 0")
    last = tokens.positions[:, 2].max()
    found: Array = tokens.positions[tokens.positions[:, 2] == last].copy()
    found[:, 2] += hours
    found[:, 3] = (found[:, 3] + hours / 24) % DAYS
    found[:, 4] = (found[:, 4] + hours) % 24
    return found
