"""Split-conformal correction: intervals that hold what they promise, fitted on held-out data.

A central interval of level l around the median m is stretched by one factor f(l), so that the
share l of the held-out values lies inside (Papadopoulos et al. 2002; Romano et al. 2019, in the
scaled form). Values of one record hang together: records are exchangeable, not their values, so
each record counts as one however many values it has. Heads that predict a point get a half-width
f(l) in model units instead, and so intervals that they did not have. All in model units: scales
rise, so shares are the same in physical ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from lom_core.errors import CheckpointError, ConfigError
from lom_core.heads import HeadModule
from lom_core.roles import Array

LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
FILE = "calibration.json"


class Correction(BaseModel):
    """Factors of one modality at the levels of central intervals.

    Args:
        levels, factors: rising levels and what stretches their intervals; of a point's head the
            half-widths.
        n, records: values that it was fitted on, and the records that they are of; 0 is unknown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    levels: tuple[float, ...]
    factors: tuple[float, ...]
    n: int
    records: int = 0

    @classmethod
    def fit(
        cls, scores: Array, levels: Sequence[float], records: Array | None = None
    ) -> Correction:
        """From scores (k, n) of n held-out values at k levels: see :func:`scores`.

        Each of K records weighs as much, its values sharing its weight. The factor is the smallest
        score with the share (1 + 1 / m) l at or below it, m being how many independent values the
        records are worth: between K, where the values of a record are inside or outside together,
        and n. Where each value is a record of its own, that is the ceil((n + 1) l)-th smallest
        score, and at least l of new values are inside on average over data sets; with too few for
        that (8 or fewer at 90%) it is the largest.

        Args:
            records: (n,) numbers of the records that the values are of; None: each of its own.
        """
        n = scores.shape[1]
        names = np.arange(n) if records is None else records
        _, which, sizes = np.unique(names, return_inverse=True, return_counts=True)
        weights = 1 / (sizes[which] * len(sizes))
        factors = []
        for level, row in zip(levels, scores, strict=True):
            inside = row <= _quantile(row, weights, level)
            m = _worth(np.bincount(which, inside) / sizes, n)
            factors.append(_quantile(row, weights, (1 + 1 / m) * level))
        return cls(levels=tuple(levels), factors=tuple(factors), n=n, records=len(sizes))

    def at(self, level: float) -> float:
        """The factor of a central interval, interpolated between the fitted levels."""
        if level > self.levels[-1] + 1e-6:
            raise ConfigError(
                f"intervals are calibrated up to {self.levels[-1]:.0%}, not {level:.1%}; ask for "
                f"quantiles from {(1 - self.levels[-1]) / 2:g} to {(1 + self.levels[-1]) / 2:g}"
            )
        return float(np.interp(level, self.levels, self.factors))


def _quantile(values: Array, weights: Array, level: float) -> float:
    """The smallest value with so much weight at or below it; the largest if none has."""
    order = np.argsort(values, kind="stable")
    place = int(np.searchsorted(np.cumsum(weights[order]), level - 1e-9))
    return float(values[order[min(place, len(values) - 1)]])


def _worth(shares: Array, n: int) -> float:
    """How many independent values K records of n values are worth, by their shares inside (K,).

    The mean of m independent ones has the variance p (1 - p) / m, that of the records' shares is
    estimated from how they differ (Kish 1965: n over the design effect).
    """
    k, mean = len(shares), shares.mean()
    variance = shares.var(ddof=1) / k if k > 1 else np.inf
    return float(np.clip(mean * (1 - mean) / max(variance, 1e-30), k, n))


def levels_of(head: HeadModule) -> tuple[float, ...]:
    """The levels of central intervals that a head can tell."""
    widest = min(1 - 2 * head.levels_from, 2 * head.levels_to - 1)
    return tuple(level for level in LEVELS if level <= widest + 1e-6)


def scores(head: HeadModule, h: Tensor, target: Tensor, levels: Sequence[float]) -> Tensor:
    """(k, n, w): how far the targets lie from the median, in half-widths of each interval.

    At most 1 is inside. Of a point's head: the absolute error, the same at each level.
    """
    if not head.has_quantiles:
        error = (target - head.point(h)).abs()
        return error.expand(len(levels), *error.shape)
    up = torch.tensor([(1 + level) / 2 for level in levels], device=h.device)
    found = head.quantiles(h, torch.cat([up, 1 - up, up.new_tensor([0.5])]))
    high, low, median = found[: len(levels)], found[len(levels) : -1], found[-1]
    return torch.maximum((target - median) / (high - median), (median - target) / (median - low))


def quantiles(
    head: HeadModule, h: Tensor, levels: Sequence[float], correction: Correction | None
) -> Tensor:
    """(k, n, w) in model units, corrected if there is a correction.

    Errors:
        ConfigError: the head has none and was not calibrated.
    """
    if not head.has_quantiles:
        if correction is None:
            raise ConfigError(
                "its head predicts a point, without quantiles; `lom calibrate CHECKPOINT` adds "
                "intervals, or train with head: gaussian"
            )
        widths = [np.sign(t - 0.5) * correction.at(abs(2 * t - 1)) for t in levels]
        return head.point(h) + torch.tensor(widths, device=h.device).float()[:, None, None]
    found = head.quantiles(h, torch.tensor([*levels, 0.5], device=h.device))
    return stretched(found[:-1], found[-1], levels, correction)


def stretched(
    found: Tensor, median: Tensor, levels: Sequence[float], correction: Correction | None
) -> Tensor:
    """Quantiles (k, n, w) drawn out from the median (n, w) by their factors."""
    if correction is None:
        return found
    factors = torch.tensor([correction.at(abs(2 * t - 1)) for t in levels], device=found.device)
    return median + factors.float()[:, None, None] * (found - median)


# ------------------------------------------------------------------------------------- the file


class Calibration(BaseModel):
    """What ``calibration.json`` beside a checkpoint's weights holds.

    Args:
        weights: the hash of the weights that it belongs to.
        data: what it was fitted on, in words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: str
    data: str
    modalities: dict[str, Correction]


def weights_of(state: Mapping[str, Any]) -> str:
    """The hash of a checkpoint's weights, from those of their files in its ``state.json``."""
    files = sorted(
        (name, told) for name, told in state["files"].items() if name.startswith("model")
    )
    return hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()


def save(checkpoint: Path, calibration: Calibration) -> Path:
    path = checkpoint / FILE
    path.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf8")
    return path


def read(checkpoint: Path) -> Calibration:
    """The calibration beside a checkpoint; CheckpointError if it is damaged."""
    path = checkpoint / FILE
    try:
        return Calibration.model_validate(json.loads(path.read_text(encoding="utf8")))
    except (OSError, ValueError, ValidationError) as error:
        detail = str(error).splitlines()[0]
        raise CheckpointError(
            f"{path} is damaged ({detail}); `lom calibrate` writes it anew"
        ) from None


def load(checkpoint: Path, weights: str) -> Mapping[str, Correction]:
    """The corrections beside a checkpoint; none where it was not calibrated.

    Errors:
        CheckpointError: damaged, or of other weights.
    """
    path = checkpoint / FILE
    if not path.is_file():
        return {}
    found = read(checkpoint)
    if found.weights != weights:
        raise CheckpointError(
            f"{path} belongs to other weights; delete it, or `lom calibrate {checkpoint}`"
        )
    return found.modalities
