"""A piano roll, and on it the notes that were predicted."""

from __future__ import annotations

from typing import Any

import numpy as np

from lom_core.roles import Array

INK, BLUE, RED, PALE = "#1b1f24", "#1f6feb", "#c2410c", "#d8dee4"
TOGETHER = 0.015  # s: a predicted note that near one of its pitch is right


def draw_notes(figure: Any, truth: Any, predicted: Any) -> None:
    """Above the input, darker where louder. Below it in grey, with each predicted onset a dot.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: notes (lom_midi.notes).
    """
    top, bottom = figure.subplots(2, 1, sharex=True, sharey=True)
    both = [*truth["pitch"], *predicted["pitch"]] or [48, 72]
    low, high = int(min(both)), int(max(both))
    start, end = (np.asarray(truth[side], dtype=np.float64) for side in ("start", "end"))
    loudness = 0.3 + 0.7 * np.asarray(truth["velocity"]) / 127
    for axes, colour in ((top, INK), (bottom, PALE)):
        for key in range(low - 1, high + 2):
            if key % 12 in (1, 3, 6, 8, 10):  # the black keys
                axes.axhspan(key - 0.5, key + 0.5, color="#f6f8fa", lw=0)
        bars = axes.barh(
            truth["pitch"], end - start, left=start, height=0.8, color=colour, ec="white", lw=0.4
        )
        for bar, alpha in zip(bars, loudness if axes is top else (), strict=axes is top):
            bar.set_alpha(float(alpha))
        axes.set_ylim(low - 1.5, high + 1.5)
        octaves = [key for key in range(low - 1, high + 2) if key % 12 == 0]
        axes.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    at, pitch = np.asarray(predicted["start"], np.float64), np.asarray(predicted["pitch"])
    right = _right(at, pitch, start, np.asarray(truth["pitch"]))
    for chosen, colour, label in ((right, BLUE, "right"), (~right, RED, "wrong")):
        bottom.plot(at[chosen], pitch[chosen], "o", ms=3.5, color=colour, label=label)
    bottom.legend(frameon=False, fontsize=7, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.97))
    top.set_ylabel("input", fontsize=8)
    bottom.set_ylabel("notes as\npredicted", fontsize=8)
    bottom.set_xlim(0, float(end.max()) if len(end) else 1.0)
    bottom.set_xlabel("time (s)", fontsize=8)
    figure.align_ylabels([top, bottom])


def _right(at: Array, pitch: Array, start: Array, true_pitch: Array) -> Array:
    """(n,) bool: does a true note of that pitch begin there?"""
    if not len(start):
        return np.zeros(len(at), bool)
    near = np.abs(at[:, None] - start) <= TOGETHER
    return np.asarray((near & (pitch[:, None] == true_pitch)).any(axis=1))
