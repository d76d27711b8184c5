"""Input, prediction and residual of a galaxy, as images."""

from __future__ import annotations

from typing import Any

import numpy as np

from lom_core.roles import Array

NEUTRAL = 0.82  # the grey of pixels that were not observed


def draw_image(figure: Any, truth: Array, predicted: Array) -> None:
    """Three panels of one stretch; the residual (mean over channels) with its colour bar.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: (H, W, C) in physical units, NaN where not observed.
    """
    truth, predicted = (np.asarray(x, dtype=np.float64) for x in (truth, predicted))
    low, high = _limits(truth)
    panels = figure.subplots(1, 3)
    for axes, image, title in zip(panels, (truth, predicted), ("input", "prediction"), strict=False):
        axes.imshow(_stretch(image, low, high), interpolation="nearest")
        axes.set_title(title, fontsize=10)
    residual = np.where(np.isfinite(truth), truth - predicted, np.nan)
    mean = residual.sum(axis=-1) / truth.shape[-1]
    bound = float(np.nanmax(np.abs(mean))) or 1.0
    shown = panels[2].imshow(mean, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    panels[2].set_facecolor(str(NEUTRAL))
    panels[2].set_title("residual", fontsize=10)
    bar = figure.colorbar(shown, ax=panels[2], fraction=0.046, pad=0.04)
    bar.set_label("stored units", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])


def _limits(image: Array) -> tuple[float, float]:
    low, high = (float(v) for v in np.nanpercentile(image, [5, 99.7]))
    return low, high if high > low else low + 1.0


def _stretch(image: Array, low: float, high: float) -> Array:
    """(H, W, 3) in 0 .. 1: arcsinh of the mean intensity, colours kept (Lupton et al. 2004)."""
    if image.shape[-1] != 3:
        image = np.repeat(image.mean(axis=-1, keepdims=True), 3, axis=-1)
    scaled = np.clip((image - low) / (high - low), 0, None)
    intensity = scaled.mean(axis=-1, keepdims=True)
    gain = np.arcsinh(6 * intensity) / np.arcsinh(6) / np.maximum(intensity, 1e-9)
    rgb = scaled * gain
    rgb /= np.maximum(rgb.max(axis=-1, keepdims=True), 1.0)  # keeps the hue of bright cores
    return np.where(np.isfinite(rgb), rgb, NEUTRAL)
