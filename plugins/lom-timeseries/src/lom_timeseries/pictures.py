"""Light curves and series: input, prediction and residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lom_core.roles import Array

INK, BLUE, RED, GREY = "#1b1f24", "#1f6feb", "#c2410c", "#8b949e"
BAND_COLOURS = {
    **{"u": "#7c3aed", "g": "#15803d", "r": "#dc2626", "i": "#a21caf", "z": "#4b5563"},
    **{"y": "#111827", "cyan": "#0891b2", "c": "#0891b2", "orange": "#ea580c", "o": "#ea580c"},
    **{"U": "#6d28d9", "B": "#1d4ed8", "V": "#16a34a", "R": "#b91c1c", "I": "#7f1d1d"},
}
OTHERS = ("#1f6feb", "#c2410c", "#15803d", "#7c3aed", "#0891b2", "#b45309", "#be185d", "#4b5563")
MOST_LEADS = 4  # of a picture: more would be too small to read


def draw_light_curve(
    figure: Any, truth: Mapping[str, Array], predicted: Mapping[str, Array], unit: str
) -> None:
    """Epochs as points, predictions as open rings, each band in its colour; residuals beneath.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: time (n,) in days, value (n,), and band (n,) where there are several.
        unit: of the values; magnitudes grow downwards.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    time, value = np.asarray(truth["time"]), np.asarray(truth["value"], dtype=np.float64)
    answer = np.asarray(predicted["value"], dtype=np.float64)
    bands = np.asarray(truth.get("band", np.full(len(time), "")))
    small = 3 if len(time) > 300 else 9
    names, first = np.unique(bands, return_index=True)
    for k, band in enumerate(names[np.argsort(first)]):
        at, colour = bands == band, BAND_COLOURS.get(str(band), OTHERS[k % len(OTHERS)])
        colour = colour if len(names) > 1 else INK
        ring = colour if len(names) > 1 else BLUE
        label = str(band) or "input"
        top.scatter(time[at], value[at], s=small, color=colour, lw=0, label=label, zorder=2)
        top.scatter(
            time[at],
            answer[at],
            s=2.2 * small,
            facecolors="none",
            edgecolors=ring,
            lw=0.7,
            zorder=3,
        )
        bottom.scatter(time[at], (value - answer)[at], s=small, color=colour, lw=0)
    top.scatter(
        [],
        [],
        s=20,
        facecolors="none",
        edgecolors=GREY if len(names) > 1 else BLUE,
        lw=0.8,
        label="prediction",
    )
    top.legend(frameon=False, fontsize=7, ncols=1, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    bottom.axhline(0, color=GREY, lw=0.6)
    if unit == "mag":
        top.invert_yaxis()
    top.set_ylabel(unit or "value", fontsize=8)
    bottom.set_ylabel("input −\nprediction", fontsize=8)
    bottom.set_xlabel("time (days)", fontsize=8)
    _tidy(figure, [top, bottom])


def draw_series(
    figure: Any,
    truth: Mapping[str, Any],
    predicted: Mapping[str, Any],
    leads: Sequence[str],
    unit: str,
) -> None:
    """Input and prediction of the first leads that were observed, and the residuals beneath.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: values (T, leads), NaN where not observed, rate in Hz, start in seconds.
        leads, unit: names of the columns, and unit of the values.
    """
    values, answers = (np.asarray(v["values"], dtype=np.float64) for v in (truth, predicted))
    seconds = float(truth["start"]) + np.arange(len(values)) / float(truth["rate"])
    observed = np.flatnonzero(np.isfinite(values).any(axis=0))[:MOST_LEADS]
    shown = observed if len(observed) else np.array([0])
    axes = figure.subplots(
        2, len(shown), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1]
    )
    for (top, bottom), lead in zip(axes.T, shown, strict=True):
        x, y = values[:, lead], answers[:, lead]
        top.plot(seconds, x, color=INK, lw=0.9, label="input")
        top.plot(
            seconds,
            np.where(np.isfinite(x), y, np.nan),
            color=BLUE,
            lw=1.0,
            alpha=0.85,
            label="prediction",
        )
        bottom.axhline(0, color=GREY, lw=0.6)
        bottom.plot(seconds, x - y, color=RED, lw=0.8)
        top.set_title(leads[lead] if len(leads) > 1 else "", fontsize=8)
        bottom.set_xlabel("time (s)", fontsize=8)
    axes[0, -1].legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    axes[0, 0].set_ylabel(unit or "value", fontsize=8)
    axes[1, 0].set_ylabel("input −\nprediction", fontsize=8)
    _tidy(figure, list(axes.ravel()))


def _tidy(figure: Any, axes: list[Any]) -> None:
    figure.align_ylabels(axes)
    for each in axes:
        each.tick_params(labelsize=7)
        each.spines[["top", "right"]].set_visible(False)
