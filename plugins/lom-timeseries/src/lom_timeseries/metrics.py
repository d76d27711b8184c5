"""How well curves are reconstructed: plain functions on numpy arrays."""

from __future__ import annotations

import numpy as np

from lom_core import ConfigError
from lom_core.roles import Array


def astromer_rmse(
    truth: Array, predicted: Array, asked: Array | None = None, weights: Array | None = None
) -> float:
    """Root mean squared error as AstroMer's: a mean over each curve, then over curves.

    For curves i and epochs l, with m the asked ones and w the weights,
    sqrt(mean_i(sum_l m w (x - y)^2 / sum_l m)): every curve counts the same, however many of its
    epochs were asked. Curves without any asked epoch do not count.

    Source: ``custom_rmse`` in src/losses/rmse.py of AstroMer's main-code (Donoso-Oliva et al.
    2023), which lets a curve without any asked epoch count as one of error 0.

    Args:
        truth, predicted: (curves, epochs), or (epochs,) of one curve; same units.
        asked: 1 where an epoch counts; all do without it. Values that do not count may be NaN.
        weights: of the squared errors.

    Errors:
        ConfigError: shapes differ, or nothing was asked.
    """
    x, y, mask = _checked(truth, predicted, asked)
    w = np.ones_like(x) if weights is None else np.atleast_2d(np.asarray(weights, np.float64))
    if w.shape != x.shape:
        raise ConfigError(f"weights are {w.shape}, curves {x.shape}")
    squares = np.where(mask, w * np.where(mask, x - y, 0) ** 2, 0).sum(axis=1)
    n_asked = mask.sum(axis=1)
    return float(np.sqrt((squares[n_asked > 0] / n_asked[n_asked > 0]).mean()))


def r2(truth: Array, predicted: Array, asked: Array | None = None) -> float:
    """1 - sum (x - y)^2 / sum (x - mean(x))^2 over all asked epochs: 1 is perfect, 0 the mean.

    Source: the coefficient of determination, as of scikit-learn's ``r2_score`` on one long list.

    Args:
        truth, predicted, asked: as of :func:`astromer_rmse`.

    Errors:
        ConfigError: shapes differ, nothing was asked, or the truth is constant.
    """
    x, y, mask = _checked(truth, predicted, asked)
    x, y = x[mask], y[mask]
    spread = ((x - x.mean()) ** 2).sum()
    if spread == 0:
        raise ConfigError("R2 of a constant truth is not defined")
    return float(1 - ((x - y) ** 2).sum() / spread)


def astromer_r2(truth: Array, predicted: Array, asked: Array | None = None) -> float:
    """1 - sum (x - y)^2 / sum (x - mean_i)^2 with the mean of the asked epochs of each curve i.

    Unlike :func:`r2`, knowing how bright a curve is on the whole does not count as an answer.

    Source: ``custom_r2`` in src/metrics/r2.py of AstroMer's main-code.

    Args:
        truth, predicted, asked: as of :func:`astromer_rmse`.

    Errors:
        ConfigError: shapes differ, nothing was asked, or no curve varies.
    """
    x, y, mask = _checked(truth, predicted, asked)
    n_asked = np.maximum(mask.sum(axis=1, keepdims=True), 1)
    mean = np.where(mask, x, 0).sum(axis=1, keepdims=True) / n_asked
    spread = (np.where(mask, x - mean, 0) ** 2).sum()
    if spread == 0:
        raise ConfigError("R2 of constant curves is not defined")
    return float(1 - (np.where(mask, x - y, 0) ** 2).sum() / spread)


def _checked(truth: Array, predicted: Array, asked: Array | None) -> tuple[Array, Array, Array]:
    x, y = (np.atleast_2d(np.asarray(a, dtype=np.float64)) for a in (truth, predicted))
    mask = np.ones(x.shape, bool) if asked is None else np.atleast_2d(np.asarray(asked)) != 0
    if not x.shape == y.shape == mask.shape:
        raise ConfigError(f"truth is {x.shape}, predicted {y.shape}, asked {mask.shape}")
    if not mask.any():
        raise ConfigError("no epoch was asked")
    return x, y, mask
