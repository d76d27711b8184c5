"""Maps of a field: input, prediction, and their difference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lom_climate.times import MONTH_NAMES, MONTH_STARTS
from lom_core.roles import Array

LAND = "#c9ced6"  # what was not observed
INK = "#3b424c"
WIDE = 2.2  # a map that is wider than this many times its height is stacked, not put side by side


def draw_maps(figure: Any, truth: Any, predicted: Any, variable: str, unit: str) -> None:
    """Three maps of the first channel at the last time, all in degrees; the difference diverges.

    Args:
        figure: a matplotlib (Sub)Figure.
        truth, predicted: what GridEncoder.decode gives.
        variable, unit: of the first channel.
    """
    field = np.asarray(truth["values"], dtype=np.float64)[-1, 0]
    guess = np.asarray(predicted["values"], dtype=np.float64)[-1, 0]
    lat, lon = (np.asarray(truth[k], dtype=np.float64) for k in ("lat", "lon"))
    guess = np.where(np.isfinite(field), guess, np.nan)
    low, high = _limits(field)
    bound = max(float(np.abs(_limits(guess - field)).max()), 1e-12)
    stacked = lat.ndim == 1 and bool(np.ptp(lon) > WIDE * np.ptp(lat))
    panels = figure.subplots(*((3, 1) if stacked else (1, 3)), sharex=True, sharey=True)
    label = f"{variable} ({unit})" if unit else variable
    when = date_of(truth)
    for axes, values, title, colours, limits in (
        (panels[0], field, f"{variable}, {when}", "viridis", (low, high)),
        (panels[1], guess, "prediction", "viridis", (low, high)),
        (panels[2], guess - field, "prediction − input", "RdBu_r", (-bound, bound)),
    ):
        drawn = _map(axes, lat, lon, values, colours, limits, stacked)
        bar = figure.colorbar(drawn, cax=axes.inset_axes((1.015, 0, 0.02 if stacked else 0.045, 1)))
        bar.ax.tick_params(labelsize=6, color=INK, labelcolor=INK, length=2)
        bar.outline.set_visible(False)
        bar.set_label(
            f"difference{f' ({unit})' if unit else ''}" if axes is panels[2] else label, fontsize=6
        )
        axes.set_title(title, fontsize=8, loc="left", color=INK, pad=3)
    _label(panels, stacked)


def _map(
    axes: Any, lat: Array, lon: Array, values: Array, colours: str, limits: Any, stacked: bool
) -> Any:
    """One map. Curvilinear grids are known by the centres of their patches: points."""
    style = {"cmap": colours, "vmin": limits[0], "vmax": limits[1]}
    axes.set_facecolor(LAND)
    axes.tick_params(labelsize=6, color=INK, labelcolor=INK, length=2)
    for spine in axes.spines.values():
        spine.set(color=INK, linewidth=0.5)
    if lat.ndim == 2:
        seen = np.isfinite(values)
        return axes.scatter(lon[seen], lat[seen], c=values[seen], s=4, linewidths=0, **style)
    shown = np.ma.masked_invalid(values)
    drawn = axes.pcolormesh(
        _edges(lon), np.clip(_edges(lat), -90, 90), shown, rasterized=True, **style
    )
    axes.set_aspect("auto" if stacked else 1 / max(np.cos(np.deg2rad(lat.mean())), 0.2))
    return drawn


def _label(panels: Any, stacked: bool) -> None:
    first, last = panels[0], panels[-1]
    first.xaxis.set_major_formatter(lambda x, _: f"{_turn(x)}")
    first.yaxis.set_major_formatter(
        lambda y, _: f"{abs(y):g}°{'N' if y > 0 else 'S' if y < 0 else ''}"
    )
    for axes in panels:
        axes.locator_params(axis="x", nbins=9 if stacked else 4, steps=[1, 1.5, 3, 6, 10])
        axes.locator_params(axis="y", nbins=3 if stacked else 5)
        axes.label_outer()
    last.set_xlabel("longitude", fontsize=6, color=INK)
    first.set_ylabel("latitude", fontsize=6, color=INK)


def _turn(x: float) -> str:
    """130°W, for longitudes of any turn."""
    east = (x + 180) % 360 - 180
    return f"{abs(east):g}°{'E' if 0 < east < 180 else 'W' if -180 < east < 0 else ''}"


def _edges(centre: Array) -> Array:
    """(k + 1,) edges of pixels around centres (k,)."""
    if len(centre) == 1:
        return np.array([centre[0] - 0.5, centre[0] + 0.5])
    middle = (centre[1:] + centre[:-1]) / 2
    return np.concatenate([[2 * centre[0] - middle[0]], middle, [2 * centre[-1] - middle[-1]]])


def _limits(values: Array) -> tuple[float, float]:
    """The range of the finite values but for half a percent at either end, never empty."""
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, [0.5, 99.5]) if finite.size else (0.0, 1.0)
    return float(low), float(high if high > low else low + 1e-6 + 1e-6 * abs(low))


def date_of(value: Mapping[str, Any]) -> str:
    """``16 Mar 12 h (base + 744 h)`` of the last time; the year is not in positions."""
    day = float(np.asarray(value["day_of_year"])[-1]) % 366
    month = int(np.searchsorted(MONTH_STARTS, day, side="right")) - 1
    hours = float(np.asarray(value["time"])[-1])
    date = f"{int(day - MONTH_STARTS[month]) + 1} {MONTH_NAMES[month]}"
    return f"{date}, {float(np.asarray(value['hour'])[-1]):.0f} h UTC (base {hours:+g} h)"
