"""Fields on a grid <-> patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from lom_climate.grid import centres, pixels_of, squeezed, west_to_east
from lom_climate.times import season
from lom_core import BadRecord, Tokens
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_climate import GridPatches

LEAST = 0.01  # of cos(latitude): the poles' own pixels count, too


class GridEncoder:
    """What GridPatches configures."""

    def __init__(self, config: GridPatches) -> None:
        self.config = config
        self.side = config.patch_size

    def encode(self, value: Any) -> Tokens:
        """Tokens (n, p * p * c) with positions (n, 5) and weights (n, p * p * c).

        Errors:
            BadRecord: keys that are missing, shapes that do not fit, coordinates or times that are
                not finite, not sorted or out of range, nothing observed.
        """
        values, good, lat, lon = self._read(value)
        time, day, hour = _times(value, len(values))
        values, good, lat, lon = _north_first(values, good, lat, lon)
        p = self.side
        weight = np.where(good, np.maximum(np.cos(np.deg2rad(_rows(lat))), LEAST), 0)
        if not good.any():
            raise BadRecord("no observed value")
        weight /= weight.sum() / good.sum()
        at = centres(lat, lon, p)  # (r, c, 2)
        n_rows, n_columns = at.shape[:2]
        content = self._patches(np.where(good, values, 0), n_rows, n_columns)
        weights = self._patches(weight.astype(np.float32), n_rows, n_columns)
        place = np.tile(rearrange(at, "r c k -> (r c) k"), (len(values), 1))
        when = np.repeat(np.stack([time, day, hour], axis=1), n_rows * n_columns, axis=0)
        positions = np.concatenate([place, when], axis=1).astype(np.float32)
        positions[positions[:, 1] >= 360, 1] = 0  # 359.99999 rounds up
        kept = np.flatnonzero(weights.any(axis=1))
        if lat.ndim == 2:  # no rows and columns to go by: patches from north to south
            order = np.lexsort((positions[kept, 1], -positions[kept, 0], positions[kept, 2]))
            kept = kept[order]
        return Tokens(content[kept], positions[kept], weights[kept])

    def decode(self, tokens: Tokens) -> dict[str, Any]:
        """The value: see GridPatches for what of it comes back.

        ``values`` (t, c, y, x) float32 NaN where not observed, ``lat`` and ``lon``, ``time`` in
        hours since the base 0.0, ``day_of_year`` and ``hour`` (t,), ``calendar`` "relative".
        """
        p, c = self.side, len(self.config.channels)
        at = tokens.positions.astype(np.float64)
        hours, first, step = np.unique(at[:, 2], return_index=True, return_inverse=True)
        row, column, lat, lon = pixels_of(at, p)
        n_rows, n_columns = lat.shape[0] // p, lon.shape[-1] // p
        grid = np.full((len(hours), n_rows, n_columns, p * p * c), np.nan, np.float32)
        grid[step, row, column] = np.where(tokens.observed, tokens.content, np.nan)
        values = rearrange(grid, "t r q (h w c) -> t c (r h) (q w)", h=p, w=p)
        if lat.ndim == 1:
            # One patch alone does not tell how far apart its pixels are: it stays whole.
            high = _used(values, 2, p) if n_rows > 1 else p
            wide = _used(values, 3, p) if n_columns > 1 else p
            values, lat, lon = values[:, :, :high, :wide], lat[:high], lon[:wide]
        return {
            "values": values,
            "lat": lat,
            "lon": lon,
            "time": hours,
            "base": 0.0,
            "calendar": "relative",
            "day_of_year": at[first, 3],
            "hour": at[first, 4],
        }

    def _read(self, value: Any) -> tuple[Array, Array, Array, Array]:
        """Values (t, c, y, x) float32, which of them are good, and latitudes and longitudes."""
        if not isinstance(value, Mapping):
            raise BadRecord("no grid", detail=f"a {type(value).__name__}, expected a mapping")
        missing = [key for key in ("values", "lat", "lon", "time") if value.get(key) is None]
        if missing:
            raise BadRecord(f"no {missing[0]}", detail=f"it has {', '.join(map(str, value))}")
        given = np.asarray(value["values"])
        if given.dtype.kind not in "uif":
            raise BadRecord("values that are no numbers", detail=str(given.dtype))
        given = given[None] if given.ndim == 3 else given
        c = len(self.config.channels)
        if given.ndim != 4 or given.shape[1] != c:
            detail = f"{given.shape}, expected (time, {c}, y, x) for {self.config.channels}"
            raise BadRecord("values of the wrong shape", detail=detail)
        lat = _coordinate(value["lat"], "lat", given.shape[2:], 0)
        lon = _coordinate(value["lon"], "lon", given.shape[2:], 1)
        if lat.ndim != lon.ndim:
            raise BadRecord("latitudes and longitudes of different shapes")
        lat, lon = squeezed(lat, lon)
        with np.errstate(over="ignore"):
            values = given.astype(np.float32)
        good = np.isfinite(values)
        if lat.ndim == 2:
            placed = np.isfinite(lat) & np.isfinite(lon)
            good = good & placed
            lat, lon = np.where(placed, lat, np.nan), np.where(placed, lon, np.nan)
        if value.get("mask") is not None:
            try:
                good = good & ~np.broadcast_to(np.asarray(value["mask"], dtype=bool), good.shape)
            except ValueError as error:
                raise BadRecord("a mask that does not fit the values", detail=str(error)) from None
        return values, good, lat, lon

    def _patches(self, grid: Array, rows: int, columns: int) -> Array:
        """(t, c, y, x) -> (t * r * q, p * p * c), padded with 0 to whole patches."""
        p = self.side
        after = (rows * p - grid.shape[2], columns * p - grid.shape[3])
        if any(after):
            grid = np.pad(grid, ((0, 0), (0, 0), (0, after[0]), (0, after[1])))
        pattern = "t c (r h) (q w) -> (t r q) (h w c)"
        return np.asarray(rearrange(grid, pattern, h=p, w=p))


def _coordinate(given: Any, name: str, shape: tuple[int, ...], axis: int) -> Array:
    """Latitudes or longitudes in float64, (y,) or (x,), or (y, x)."""
    found = np.asarray(given, dtype=np.float64)
    if found.shape not in ((shape[axis],), shape):
        raise BadRecord(f"{name} of the wrong shape", detail=f"{found.shape} for values {shape}")
    finite = found[np.isfinite(found)]
    if not finite.size or (found.ndim == 1 and finite.size < found.size):
        raise BadRecord(f"{name} that is not finite")
    limit = 90.001 if name == "lat" else 720.0
    if np.abs(finite).max() > limit:
        detail = f"{finite.min():g} .. {finite.max():g}"
        raise BadRecord(f"{name} out of range: it must be in degrees", detail=detail)
    return np.clip(found, -90, 90) if name == "lat" else found


def _times(value: Mapping[str, Any], n: int) -> tuple[Array, Array, Array]:
    """Hours since the base, day of the year and hour of the day, (t,) float64 each."""
    time = np.asarray(value["time"], dtype=np.float64).reshape(-1)
    base = float(time[0] if value.get("base") is None and len(time) else value.get("base") or 0.0)
    if len(time) != n or not n:
        raise BadRecord("time of the wrong shape", detail=f"{len(time)} times, {n} fields")
    if not (np.isfinite(time).all() and np.isfinite(base)):
        raise BadRecord("a time that is not finite")
    if (np.diff(time) <= 0).any():
        raise BadRecord("times that are not increasing")
    calendar = str(value.get("calendar") or "standard")
    if calendar == "relative":
        day, hour = (
            np.broadcast_to(np.asarray(value.get(k, 0.0), dtype=np.float64), time.shape)
            for k in ("day_of_year", "hour")
        )
        if not (np.isfinite(day).all() and np.isfinite(hour).all()):
            raise BadRecord("a time that is not finite")
    else:
        day, hour = season(time, calendar)
    return time - base, day, hour


def _north_first(
    values: Array, good: Array, lat: Array, lon: Array
) -> tuple[Array, Array, Array, Array]:
    """Rows from north to south and columns from west to east; curvilinear grids as they are."""
    if lat.ndim == 2:
        return values, good, lat, lon
    if len(lat) > 1 and lat[0] < lat[-1]:
        values, good, lat = values[:, :, ::-1], good[:, :, ::-1], lat[::-1]
    if (np.diff(lat) >= 0).any():
        raise BadRecord("latitudes that are not sorted, or repeat")
    lon, reverse = west_to_east(lon)
    if reverse:
        values, good = values[..., ::-1], good[..., ::-1]
    return values, good, lat, lon


def _rows(lat: Array) -> Array:
    """Latitudes that spread over (t, c, y, x)."""
    return np.nan_to_num(lat if lat.ndim == 2 else lat[:, None])


def _used(values: Array, axis: int, p: int) -> int:
    """Length of an axis without the unobserved end of its last patch."""
    others = tuple(a for a in range(values.ndim) if a != axis)
    seen = np.flatnonzero(np.isfinite(values).any(axis=others))
    end = int(seen[-1]) + 1 if len(seen) else 0
    return max(end, int(values.shape[axis]) - p + 1)


def persistence(tokens: Tokens) -> Array:
    """(n, w) content of the same patch at the latest earlier time that is not after the base.

    NaN where there is none, or where it was not observed.
    """
    hours = tokens.positions[:, 2]
    guess = np.full(tokens.content.shape, np.nan, np.float32)
    observed = np.where(tokens.observed, tokens.content, np.nan)
    last_known = max(0.0, float(hours.min()))  # windows of a cropped record may begin later
    latest: dict[tuple[float, ...], int] = {}  # place -> its token at the latest known time
    for i in np.argsort(hours, kind="stable"):
        place = tuple(tokens.positions[i, :2].tolist())
        if place in latest:
            guess[i] = observed[latest[place]]
        if hours[i] <= last_known:
            latest[place] = int(i)
    return guess


def made_up(rng: np.random.Generator, high: int, wide: int, c: int) -> tuple[dict[str, Any], float]:
    """A globe with a warm spot whose strength in K is the number, at two times 6 hours apart."""
    lat = 90 - 180 * (np.arange(high) + 0.5) / high
    lon = 360 * (np.arange(wide) + 0.5) / wide
    strength = float(rng.uniform(2, 20))
    spot = np.exp(-((lat[:, None] / 25) ** 2) - ((lon - 180) / 40) ** 2)
    field = 300 - 40 * np.sin(np.deg2rad(lat[:, None])) ** 2 + strength * spot
    values = field + rng.normal(0, 0.3, (2, c, high, wide))
    value = {
        "values": values.astype(np.float32),
        "lat": lat,
        "lon": lon,
        "time": 24.0 * rng.integers(0, 10000) + np.array([0.0, 6.0]),
        "calendar": "standard",
    }
    return value, strength
