"""A piano roll: the input, and under it what was predicted."""

from __future__ import annotations

from typing import Any

import numpy as np

INK, BLUE = "#1b1f24", "#1f6feb"


def draw_notes(figure: Any, truth: Any, predicted: Any) -> None:
    """Bars from start to end at their pitch, darker where louder; the axes are the input's.

    A wrong time token moves all that follows it: the prediction is read token by token.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: notes (lom_midi.notes).
    """
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    pitch = np.asarray(truth["pitch"])
    low, high = (int(pitch.min()), int(pitch.max())) if len(pitch) else (48, 72)
    longest = float(np.max(truth["end"])) if len(pitch) else 1.0
    for axes, notes, colour, label in (
        (panels[0], truth, INK, "input"),
        (panels[1], predicted, BLUE, "each token\nas predicted"),
    ):
        for key in range(low - 1, high + 2):
            if key % 12 in (1, 3, 6, 8, 10):  # the black keys
                axes.axhspan(key - 0.5, key + 0.5, color="#f1f3f5", lw=0)
        start, end = np.asarray(notes["start"]), np.asarray(notes["end"])
        loudness = 0.25 + 0.75 * np.asarray(notes["velocity"]) / 127
        bars = axes.barh(
            notes["pitch"], end - start, left=start, height=0.8, color=colour, ec="white", lw=0.4
        )
        for bar, alpha in zip(bars, loudness, strict=True):
            bar.set_alpha(float(alpha))
        told = _told(notes, low, high, longest)
        axes.set_title(told, fontsize=7, color="#57606a", loc="right", pad=2)
        axes.set_ylabel(label, fontsize=8)
        axes.set_ylim(low - 1.5, high + 1.5)
        octaves = [key for key in range(low - 1, high + 2) if key % 12 == 0]
        axes.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].set_xlim(0, longest)
    panels[1].set_xlabel("time (s)", fontsize=8)


def _told(notes: Any, low: int, high: int, longest: float) -> str:
    """How many notes there are, and how many of them the panel does not reach."""
    pitch, start = np.asarray(notes["pitch"]), np.asarray(notes["start"])
    n = len(pitch)
    beyond = int(((pitch < low - 1) | (pitch > high + 1) | (start >= longest)).sum())
    return f"{n} note{'s' * (n != 1)}" + (f", {beyond} of them beyond this panel" if beyond else "")
