"""Pictures of probes and of modality subsets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core.pictures import INK

if TYPE_CHECKING:
    from lom_core.probe import Result
    from lom_core.subsets import Cell

COLOURS = ("#0b5ed7", "#d9822b", "#2e8b57", "#8b5fbf", "#c2410c", "#0e7490", "#be185d")
SOFT, LINE = "#6b7280", "#d8dee4"
DPI = 150


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=DPI)


def draw_probe(result: Result) -> Any:
    """Test scores with their intervals, and beside them the learning curves."""
    from matplotlib.figure import Figure

    features = list(dict.fromkeys(s.feature for s in result.scores if s.feature != "nothing"))
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(features)}
    n_rows = len(result.scores) + len(features)
    height = max(3.4, 0.3 * n_rows + 1.3)
    figure = Figure(figsize=(10.5 if result.curve else 6.0, height), layout="constrained")
    axes = figure.subplots(1, 2 if result.curve else 1, squeeze=False)[0]
    _draw_scores(axes[0], result, features, colour)
    if result.curve:
        _draw_curve(axes[1], result, features, colour)
    return figure


def _draw_scores(axes: Any, result: Result, features: Sequence[str], colour: Any) -> None:
    nothing = result.scores[0]
    level = nothing.metrics[result.main]
    axes.axvline(level, color=SOFT, lw=1.1, ls="--", zorder=1)
    ticks, names, y = [], [], 0.0
    for feature in features:
        y += 0.9
        axes.annotate(
            feature.replace("_", " "),
            (0.0, y),
            (5, 0),
            xycoords=axes.get_yaxis_transform(),
            textcoords="offset points",
            color=colour[feature],
            fontweight="bold",
            fontsize=9.5,
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
        for s in (s for s in result.scores if s.feature == feature):
            y += 0.8
            score = s.metrics[result.main]
            axes.plot([s.low, s.high], [y, y], color=colour[feature], lw=2.2, alpha=0.45)
            axes.plot(score, y, "o", color=colour[feature], ms=6.5)
            axes.annotate(
                f"{score:.3f}",
                (s.high, y),
                (6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=INK,
            )
            ticks.append(y)
            names.append(s.method)
    axes.set_ylim(y + 0.8, 0.1)
    axes.set_yticks(ticks, names)
    lowest = min(level, *(s.low for s in result.scores))
    highest = max(s.high for s in result.scores)
    room = max(highest - lowest, 1e-6)
    axes.set_xlim(max(lowest, level - room) - 0.06 * room, highest + 0.16 * room)
    axes.annotate(
        nothing.method,
        (level, 1),
        (4, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=SOFT,
        fontsize=8.5,
    )
    axes.set_xlabel(f"{_named(result.main)} on the test part, 95% of group bootstraps")
    axes.set_title(f"probes for {result.label}", loc="left", fontweight="bold", pad=16)
    _plain(axes, "x")


def _draw_curve(axes: Any, result: Result, features: Sequence[str], colour: Any) -> None:
    used = set()
    for feature in features:
        points = sorted((p for p in result.curve if p.feature == feature), key=lambda p: p.n)
        if not points:
            continue
        n = np.array([p.n for p in points])
        used |= set(n.tolist())
        mean = np.array([np.mean(p.scores) for p in points])
        spread = np.array([np.std(p.scores) for p in points])
        axes.fill_between(n, mean - spread, mean + spread, color=colour[feature], alpha=0.12, lw=0)
        axes.plot(
            n, mean, "o-", color=colour[feature], lw=1.8, ms=4, label=feature.replace("_", " ")
        )
    level = result.scores[0].metrics[result.main]
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, level - (high - level)), high)
    axes.axhline(level, color=SOFT, lw=1.1, ls="--")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("labelled records used")
    axes.set_ylabel(f"{_named(result.main)}, validation folds")
    title = f"learning curve, {result.curve[0].method}"
    axes.set_title(title, loc="left", fontweight="bold", pad=16)
    axes.legend(frameon=False, fontsize=9)
    _plain(axes, "both")


_MATRIX = "loss of what is predicted, and its change over nothing given"


def draw_subsets(cells: Sequence[Cell]) -> Any:
    """A matrix: rows are what is given, columns are targets. Colour is by how much the loss falls
    below that with nothing given, as a share of a column's largest change."""
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(c.given for c in cells))
    targets = list(dict.fromkeys(c.target for c in cells))
    found = {(c.given, c.target): c for c in cells}
    figure = Figure(
        figsize=(2.6 + 1.25 * len(targets) + 0.7, 0.95 + 0.5 * len(rows)), layout="constrained"
    )
    axes = figure.subplots()
    shade = np.full((len(rows), len(targets)), np.nan)
    for j, target in enumerate(targets):
        gains = {c.given: c.gain for c in cells if c.target == target}
        largest = max((abs(g) for g in gains.values()), default=0.0) or 1.0
        for i, given in enumerate(rows):
            if given in gains:
                shade[i, j] = gains[given] / largest
    axes.imshow(np.ma.masked_invalid(shade), cmap="RdBu", vmin=-1.6, vmax=1.6, aspect="auto")
    for i, given in enumerate(rows):
        for j, target in enumerate(targets):
            cell = found.get((given, target))
            if cell is not None:
                dark = abs(shade[i, j]) > 1.3
                told = f"{cell.loss:.3f}" + (f"\n{-cell.gain:+.3f}" if given else "")
                axes.text(
                    j,
                    i,
                    told,
                    ha="center",
                    va="center",
                    fontsize=8.5,
                    color="white" if dark else INK,
                )
    axes.set_xticks(range(len(targets)), targets)
    axes.xaxis.tick_top()
    axes.set_yticks(range(len(rows)), [" + ".join(given) or "nothing" for given in rows])
    axes.set_ylabel("given")
    axes.set_title(_MATRIX, loc="left", fontsize=10, fontweight="bold", pad=10)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(targets) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=2)
    axes.tick_params(which="minor", length=0)
    return figure


def _plain(axes: Any, grid: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=LINE, lw=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def _named(metric: str) -> str:
    return {"r2": "R²"}.get(metric, metric.replace("_", " "))
