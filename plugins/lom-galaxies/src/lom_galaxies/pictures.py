"""Input, prediction and residual of a galaxy, as images."""

from __future__ import annotations

from typing import Any

import numpy as np

from lom_core.roles import Array

UNSEEN = (0.56, 0.62, 0.70)  # slate, for pixels that were not observed: neither sky nor star


def draw_image(figure: Any, truth: Array, predicted: Array) -> None:
    """Three panels of one size and stretch; the residual is the mean over channels.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: (H, W, C) in physical units, NaN where not observed.
    """
    truth, predicted = (np.asarray(x, dtype=np.float64) for x in (truth, predicted))
    low, high = _limits(truth, 5, 99.7)
    mean = (truth - predicted).mean(axis=-1)
    bound = max(np.abs(_limits(mean, 0, 100)))
    channels = truth.shape[-1]
    left, middle, right = figure.subplots(1, 3)
    left.imshow(_stretch(truth, low, high), interpolation="nearest")
    middle.imshow(_stretch(predicted, low, high), interpolation="nearest")
    shown = right.imshow(mean, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    right.set_facecolor(UNSEEN)
    # An inset beside the panel takes no room from it, whatever the figure's layout.
    bar = figure.colorbar(shown, cax=right.inset_axes((1.04, 0, 0.05, 1)))
    bar.set_label("input − prediction, stored units", fontsize=7)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    residual = "residual" if channels == 1 else f"residual, mean of {channels} channels"
    for axes, title in ((left, "input"), (middle, "prediction"), (right, residual)):
        axes.set_title(title, fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def _limits(image: Array, lowest: float, highest: float) -> tuple[float, float]:
    """Two percentiles of the finite values, never equal."""
    finite = image[np.isfinite(image)]
    low, high = (
        (float(v) for v in np.percentile(finite, [lowest, highest])) if finite.size else (0.0, 1.0)
    )
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
    return np.where(np.isfinite(rgb), rgb, UNSEEN)
