"""What a modality without a picture of its own is drawn as: values over the first coordinate."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from lom_core.modality import ModalityConfig
from lom_core.roles import Array

DPI = 150
INK, BLUE, RED = "#1b1f24", "#1f6feb", "#c2410c"


def draw_png(config: ModalityConfig, truth: Any, predicted: Any) -> bytes:
    """The modality's own picture of data beside a prediction, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    config.picture(figure, truth, predicted)
    return png(figure)


def png(figure: Any) -> bytes:
    """A matplotlib figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def draw_tokens(figure: Any, name: str, truth: Any, predicted: Any) -> None:
    """Input and prediction over position, and the residual beneath, in physical units.

    A single number or label is written down; of a mapping that holds no tokens each array is drawn
    over its first axis.
    """
    if not isinstance(truth, Mapping) and np.ndim(truth) == 0:
        return _write(figure, name, truth, predicted)
    if isinstance(truth, Mapping) and "content" not in truth:
        return _draw_arrays(figure, name, truth, predicted)
    x, y, seen = _curve(truth)
    _, p, _ = _curve(predicted)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    blank = np.where(seen, y, np.nan)
    top.plot(x, blank, color=INK, lw=0.9, label="input")
    top.plot(x, p, color=BLUE, lw=1.1, alpha=0.85, label="prediction")
    top.legend(frameon=False, loc="best")
    top.set_ylabel(name)
    bottom.axhline(0, color="#8b949e", lw=0.6)
    bottom.plot(x, blank - p, color=RED, lw=0.8)
    bottom.set_ylabel("residual")
    bottom.set_xlabel("position")


def _draw_arrays(figure: Any, name: str, truth: Mapping[str, Any], predicted: Any) -> None:
    arrays = {key: np.asarray(part) for key, part in truth.items()}
    keys = [key for key, array in arrays.items() if array.ndim and array.dtype.kind in "buif"]
    if not keys:
        return _write(figure, name, truth, predicted)
    for axes, key in zip(figure.subplots(len(keys), 1, squeeze=False)[:, 0], keys, strict=True):
        for array, colour in ((arrays[key], INK), (np.asarray(predicted[key]), BLUE)):
            axes.plot(array.reshape(len(array), -1), color=colour, lw=0.9, alpha=0.85)
        axes.set_ylabel(f"{name}: {key}")


def _write(figure: Any, name: str, truth: Any, predicted: Any) -> None:
    axes = figure.subplots()
    axes.set_axis_off()
    for y, label, value, colour in (
        (0.65, "input", truth, INK),
        (0.3, "prediction", predicted, BLUE),
    ):
        told = f"{value:.6g}" if isinstance(value, float) else str(value)
        axes.text(0.02, y, f"{name}, {label}:", color="#8b949e", fontsize=11)
        axes.text(0.4, y, told, color=colour, fontsize=16, parse_math=False)


def _curve(value: Any) -> tuple[Array, Array, Array]:
    """Position, value and whether it was observed, one entry a value, (n w,)."""
    parts = value if isinstance(value, Mapping) else {"content": np.asarray(value)}
    content = np.asarray(parts["content"], dtype=np.float64)
    content = content.reshape(len(content), -1)
    n, w = content.shape
    at = np.asarray(parts.get("positions", np.arange(n)))
    first = at.reshape(n, -1)[:, 0].astype(np.float64)
    step = np.diff(first, append=2 * first[-1] - first[-2] if n > 1 else 1)
    x = first[:, None] + step[:, None] * np.arange(w) / w
    weights = parts.get("weights")
    seen = (
        np.ones((n, w), bool)
        if weights is None
        else np.broadcast_to(np.asarray(weights) > 0, (n, w))
    )
    return x.ravel(), content.ravel(), seen.ravel()
