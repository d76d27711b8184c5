"""A spectrum, its prediction over it, and the residual beneath."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lom_core.roles import Array

INK, BLUE, RED, GREY = "#1b1f24", "#1f6feb", "#c2410c", "#8b949e"
GAP = 5.0  # times the median spacing: beyond it no line is drawn


def draw_spectrum(
    figure: Any, truth: Mapping[str, Array], predicted: Mapping[str, Array], unit: str
) -> None:
    """Flux over wavelength; pixels that were not observed are gaps.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: flux (n,), NaN where not observed, and wavelength (n,) in micron.
        unit: of the flux.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    x = np.asarray(truth["wavelength"], dtype=np.float64)
    y, p = (np.asarray(part["flux"], dtype=np.float64) for part in (truth, predicted))
    seen = np.isfinite(y)
    _line(top, x, y, color=INK, lw=0.8, alpha=0.75, label="input")
    _line(top, x, np.where(seen, p, np.nan), color=BLUE, lw=1.3, alpha=0.9, label="prediction")
    low, high = _range(np.concatenate([y, p[seen]]), 0.3, 99.7)
    top.set_ylim(low - 0.1 * (high - low), high + 0.25 * (high - low))
    top.set_ylabel(f"flux\n({unit})", fontsize=8)
    top.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    bottom.axhline(0, color=GREY, lw=0.6)
    _line(bottom, x, y - p, color=RED, lw=0.7)
    # A first window, predicted from nothing, may leave the panel: the others are to be seen.
    bound = 2 * max(np.abs(_range(y - p, 5, 95)))
    bottom.set_ylim(-bound, bound)
    bottom.set_ylabel("input −\nprediction", fontsize=8)
    bottom.set_xlabel("wavelength (µm)", fontsize=8)
    if seen.any():
        bottom.set_xlim(*_range(x[seen], 0, 100))
    figure.align_ylabels([top, bottom])
    for axes in (top, bottom):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)


def _line(axes: Any, x: Array, y: Array, **style: Any) -> None:
    """A line with gaps where y is NaN and where x leaps; pixels alone between gaps are dots."""
    step = np.diff(x)
    leaps = np.flatnonzero(step > GAP * np.median(step)) + 1 if len(step) else np.empty(0, int)
    x, y = np.insert(x, leaps, np.nan), np.insert(y, leaps, np.nan)
    axes.plot(x, y, **style)
    open_ended = np.pad(np.isfinite(y), 1)
    alone = open_ended[1:-1] & ~open_ended[:-2] & ~open_ended[2:]
    axes.plot(x[alone], y[alone], ".", ms=2, color=style["color"])


def _range(values: Array, low: float, high: float) -> tuple[float, float]:
    """Percentiles of the finite values, apart from each other: a cosmic ray must not squash."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return -1.0, 1.0
    bottom, top = (float(q) for q in np.percentile(finite, [low, high]))
    room = 0.0 if top > bottom else (abs(top) or 1.0)
    return bottom - room, top + room
