"""A text, and under each of its lines the prediction, right characters in blue."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

INK, BLUE, RED, GREY = "#1b1f24", "#1f6feb", "#c2410c", "#8b949e"
COLUMNS, LINES = 100, 5


def draw_text(figure: Any, truth: str, predicted: str) -> None:
    """Lines of fixed length, so that a character's prediction stands below it.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: texts; only the first lines are drawn.
    """
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(-3.0 * LINES, 1.2)
    axes.text(0, 1, "input", color=INK, fontsize=8)
    axes.text(0.06, 1, "each character as predicted: right", color=BLUE, fontsize=8)
    axes.text(0.34, 1, "or wrong", color=RED, fontsize=8)
    above, below = (lines_of(text) for text in (truth, predicted))
    for i, (line, guess) in enumerate(zip_longest(above[:LINES], below[:LINES], fillvalue="")):
        right = [a == b for a, b in zip_longest(line, guess)]
        _write(axes, -3 * i - 0.5, line, INK)
        _write(axes, -3 * i - 1.6, _only(guess, right), BLUE)
        _write(axes, -3 * i - 1.6, _only(guess, [not r for r in right]), RED)
    if len(above) > LINES:
        _write(axes, -3 * LINES, "…", GREY)


def _write(axes: Any, y: float, text: str, colour: str) -> None:
    # A dollar is a dollar, hence parse_math.
    axes.text(0, y, text, color=colour, family="monospace", fontsize=8, parse_math=False)


def _only(text: str, chosen: list[bool]) -> str:
    return "".join(c if keep else " " for c, keep in zip(text, chosen, strict=False))


def lines_of(text: str) -> list[str]:
    """Lines of COLUMNS characters; what cannot be drawn is a middle dot."""
    shown = "".join(c if c.isprintable() and ord(c) < 0x2000 else "·" for c in text)
    return [shown[i : i + COLUMNS] for i in range(0, len(shown), COLUMNS)]
