"""Coordinates of grids: rows and columns in order, centres of patches, and back from centres."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from lom_core import BadRecord
from lom_core.roles import Array


def west_to_east(lon: Array) -> tuple[Array, bool]:
    """Longitudes (x,) that increase (beyond 360 where they cross it), and whether to reverse.

    Errors:
        BadRecord: they are not sorted, or go round more than once.
    """
    if (np.diff(lon) > 0).all():
        found, reverse = lon, False
    else:
        east, west = (lon - lon[0]) % 360, (lon[0] - lon) % 360
        ways = [
            (way[-1], reverse)
            for way, reverse in ((east, False), (west, True))
            if (np.diff(way) > 0).all()
        ]
        if not ways:
            raise BadRecord("longitudes that are not sorted, or repeat")
        _, reverse = min(ways)
        found = (lon[0] - west)[::-1] if reverse else lon[0] + east
    if found[-1] - found[0] >= 360 - 1e-6:
        detail = f"from {found[0]:g} to {found[-1]:g} degrees"
        raise BadRecord("longitudes that go round more than once", detail=detail)
    return found, reverse


def squeezed(lat: Array, lon: Array) -> tuple[Array, Array]:
    """1-D latitudes and longitudes, where 2-D ones are but their repetition."""
    if lat.ndim == 2 and (lat == lat[:, :1]).all() and (lon == lon[:1]).all():
        return lat[:, 0], lon[0]
    return lat, lon


def centres(lat: Array, lon: Array, p: int) -> Array:
    """(r, q, 2) latitude and longitude (0 .. 360) of the centres of patches of p x p pixels.

    Grids that do not fill their last patches are continued evenly, so that centres of a regular
    grid are evenly spaced. On curvilinear grids it is the mean on the sphere of the pixels that
    have coordinates; NaN where none has.
    """
    if lat.ndim == 1:
        rows = np.clip(_means(lat, p), -90, 90)
        columns = _means(lon, p) % 360
        return np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    pad = ((0, -lat.shape[0] % p), (0, -lat.shape[1] % p))
    phi, lam = (np.deg2rad(np.pad(x, pad, constant_values=np.nan)) for x in (lat, lon))
    xyz = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)])
    x, y, z = np.nansum(rearrange(xyz, "k (r h) (q w) -> k r q (h w)", h=p, w=p), axis=-1)
    found = np.rad2deg(np.stack([np.arctan2(z, np.hypot(x, y)), np.arctan2(y, x)], axis=-1))
    found[..., 1] %= 360
    return np.where((np.abs(x) + np.abs(y) + np.abs(z) > 0)[..., None], found, np.nan)


def _means(x: Array, p: int) -> Array:
    """Means of p neighbours of x (k,), continued evenly to a multiple of p."""
    step = x[-1] - x[-2] if len(x) > 1 else 0.0
    whole = np.concatenate([x, x[-1] + step * np.arange(1, -len(x) % p + 1)])
    return np.asarray(whole.reshape(-1, p).mean(axis=1))


def pixels_of(at: Array, p: int) -> tuple[Array, Array, Array, Array]:
    """Where tokens belong, from the centres of their patches.

    Centres that share latitudes and longitudes lie on a grid; patches that are missing inside it
    are filled in. Otherwise (a curvilinear grid) all patches lie side by side in one row. Rows and
    columns of a grid are the two sides of a graph whose edges are its patches: if that is a forest
    of more than one tree, nothing says that it was a grid.

    Args:
        at: (n, 5) positions of tokens, in their order.
        p: pixels a side.

    Returns:
        row and column of each token's patch (n,); latitudes and longitudes of the pixels, (y,) and
        (x,), or (p, x) both for a strip.
    """
    lats, row = np.unique(-at[:, 0], return_inverse=True)
    lons, column = np.unique(at[:, 1], return_inverse=True)
    pairs, patch = np.unique(row * len(lons) + column, return_inverse=True)
    if len(lats) + len(lons) > len(pairs) + 1:
        lat = np.broadcast_to(np.repeat(-lats[pairs // len(lons)], p), (p, p * len(pairs)))
        lon = np.broadcast_to(np.repeat(lons[pairs % len(lons)], p), (p, p * len(pairs)))
        return np.zeros_like(patch), patch, lat, lon
    start = _start(at, lons)
    order = np.argsort((lons - start) % 360)
    rank = np.argsort(order)
    east = start + ((lons - start) % 360)[order]
    north = -lats
    if p > 1 and len(north) > 2 and north[-1] == -90:  # a padded patch that was held at the pole
        north[-1] = 2 * north[-2] - north[-3]
    north, of_row = _filled(north)
    east, of_column = _filled(east)
    lat, lon = _spread(north, p, 90.0), _spread(east, p, np.inf)
    return of_row[row], of_column[rank[column]], lat, lon


def _start(at: Array, lons: Array) -> float:
    """The longitude at which rows of the grid begin: 0, or where they cross it, their west end."""
    border = (np.diff(at[:, 2]) != 0) | (np.diff(at[:, 0]) != 0)
    first = np.flatnonzero(np.concatenate([[True], border]))  # of each row of patches
    last = np.append(first[1:], len(at)) - 1
    fall = np.flatnonzero(~border & (np.diff(at[:, 1]) < 0))
    if not len(fall):
        return 0.0
    crossing = np.searchsorted(first, fall, side="right") - 1
    east, west = at[last[crossing], 1].max(), at[first[crossing], 1].min()
    between = lons[(lons >= east) & (lons <= west)]
    if not len(between):
        return float(west)
    gap = int(np.diff(between).argmax()) if len(between) > 1 else 0
    return float(between[min(gap + 1, len(between) - 1)])


def _filled(centre: Array) -> tuple[Array, Array]:
    """Centres (k,) with missing ones between them, and the place of each old one among all."""
    place = np.arange(len(centre))
    if len(centre) < 2:
        return centre, place
    steps = np.abs(np.diff(centre))
    jumps = np.maximum(np.rint(steps / np.median(steps)), 1)
    number = np.concatenate([[0], jumps.cumsum()])
    if number[-1] > 4 * len(centre) + 64:
        return centre, place  # not evenly spaced: there is no telling what is missing
    return np.interp(np.arange(number[-1] + 1), number, centre), number.astype(np.int64)


def _spread(centre: Array, p: int, limit: float) -> Array:
    """(k * p,) pixels around centres (k,), evenly, none beyond its neighbours' or the limit."""
    steps = np.diff(centre)
    ends = np.full(1, float(p) if limit == np.inf else -float(p))
    before = np.concatenate([steps[:1] if len(steps) else ends, steps])
    after = np.concatenate([steps, steps[-1:] if len(steps) else ends])
    step = np.where(np.abs(before) < np.abs(after), before, after)
    # Beyond the pole lies only padding, which decode cuts off.
    room = np.where(np.abs(centre) <= limit, 2 * np.maximum(limit - np.abs(centre), 1e-6), np.inf)
    room = room * p / max(p - 1, 1)
    step = np.sign(step) * np.minimum(np.abs(step), room)
    offset = (np.arange(p) - (p - 1) / 2) / p
    return np.asarray((centre[:, None] + step[:, None] * offset).reshape(-1))
