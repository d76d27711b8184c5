"""A spectrum, its prediction over it, and the residual beneath."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lom_core.roles import Array

INK, BLUE, RED = "#1b1f24", "#1f6feb", "#c2410c"


def draw_spectrum(
    figure: Any, truth: Mapping[str, Array], predicted: Mapping[str, Array], unit: str
) -> None:
    """Flux over wavelength; pixels that were not observed are gaps.

    Args:
        figure: a matplotlib figure, about three times as wide as high.
        truth, predicted: flux (n,) and wavelength (n,) in micron.
    """
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    x, y, p = truth["wavelength"], truth["flux"], predicted["flux"]
    top.plot(x, y, color=INK, lw=1.5, alpha=0.55, label="input")
    top.plot(x, p, color=BLUE, lw=0.9, label="prediction")
    shown = np.concatenate([y[np.isfinite(y)], p[np.isfinite(p)]])
    low, high = np.percentile(shown, [0.3, 99.7])
    margin = 0.12 * (high - low) or 1.0
    top.set_ylim(low - margin, high + 2 * margin)  # a cosmic ray must not squash the rest
    top.set_ylabel(f"flux\n{unit}", fontsize=8)
    top.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    bottom.axhline(0, color="#8b949e", lw=0.6)
    residual = y - p
    bottom.plot(x, residual, color=RED, lw=0.7)
    bound = float(np.nanpercentile(np.abs(residual), 99)) or 1.0
    bottom.set_ylim(-1.2 * bound, 1.2 * bound)
    bottom.set_ylabel("residual", fontsize=8)
    bottom.set_xlabel("wavelength (µm)", fontsize=8)
    bottom.set_xlim(float(x[0]), float(x[-1]))
    for axes in (top, bottom):
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
