"""Ratios of sums over records, and how sure they are.

A mean that is told of a set, be it a loss, an error or the share of right tokens, is
r = sum_i s_i / sum_i w_i: s_i is what record i was scored, w_i what its answers weigh. Tokens of
one record are not independent, records are: r varies as other records would have been drawn. Its
standard error (Cochran, Sampling Techniques, 1977, chapter 6) is

    sqrt(n / (n - 1) * sum_i (s_i - r w_i)^2) / sum_i w_i

which needs only sums of products of two, whatever the number of records, batches and processes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from lom_core.roles import Array

Combination = Mapping[str, float]  # of a record's numbers: how often each is taken
SE = "_se"  # loss_se/images is the standard error of loss/images
Z95 = 1.96  # standard errors to either side hold 95% of a normal distribution


class Ratio(NamedTuple):
    """``se``: its standard error, None where nothing is known of it."""

    value: float
    se: float | None = None

    def sqrt(self) -> Ratio:
        root = math.sqrt(self.value)
        return Ratio(root, self.se / (2 * root) if self.se and root else None)

    def rest(self) -> Ratio:
        """What it lacks to 1."""
        return Ratio(1 - self.value, self.se)


@dataclass(frozen=True)
class RecordSums:
    """What adding up over records leaves of some numbers of each.

    Args:
        names: of the k numbers.
        n: how many records there were.
        sums: (k,) float64.
        products: (k, k) float64, the sums of x_i x_j.
    """

    names: tuple[str, ...]
    n: int
    sums: Array
    products: Array

    @classmethod
    def of(cls, names: tuple[str, ...], numbers: Array) -> Self:
        """Of the numbers (n, k) of n records."""
        with np.errstate(invalid="ignore"):  # 0 times inf, of a model that has diverged
            return cls(names, len(numbers), numbers.sum(0), numbers.T @ numbers)

    def __add__(self, other: Self) -> Self:
        assert self.names == other.names, "the same numbers of every record"
        sums, products = self.sums + other.sums, self.products + other.products
        return type(self)(self.names, self.n + other.n, sums, products)

    def __getitem__(self, name: str) -> float:
        """The sum of a number over all records."""
        return float(self.sums[self.names.index(name)])

    def ratio(self, top: Combination, bottom: Combination) -> Ratio:
        """Of two linear combinations of the sums."""
        over, under = (sum(k * self[name] for name, k in side.items()) for side in (top, bottom))
        value = over / under
        if not math.isfinite(value):
            return Ratio(value)
        # Of the ratio by a record's numbers; those that it does not ask for may not be finite.
        slopes = {k: (top.get(k, 0) - value * bottom.get(k, 0)) / under for k in (*top, *bottom)}
        at, slope = [self.names.index(name) for name in slopes], np.array(list(slopes.values()))
        products = self.products[np.ix_(at, at)]
        variance = float(slope @ products @ slope)
        # What is left of numbers that cancel may be rounding alone: records that are all alike.
        told = self.n > 1 and variance > 1e-9 * float(abs(slope) @ abs(products) @ abs(slope))
        return Ratio(value, math.sqrt(variance * self.n / (self.n - 1)) if told else None)


def is_error(key: str) -> bool:
    """Is a metric the standard error of another?"""
    return key.partition("/")[0].endswith(SE)


def half_width(metrics: Mapping[str, float], key: str) -> float | None:
    """Of a metric's 95% interval; None where it has none."""
    head, slash, tail = key.partition("/")
    se = metrics.get(f"{head}{SE}{slash}{tail}")
    return None if se is None else Z95 * se


def tell(metrics: Mapping[str, float], key: str) -> str:
    """``0.513 ± 0.021``, to two digits of the 95% interval; ``0.5134`` where it has none, and
    nothing where there is no such metric."""
    if key not in metrics:
        return ""
    value, half = metrics[key], half_width(metrics, key)
    if not half or not math.isfinite(half):
        return str(value) if isinstance(value, int) else f"{value:.4g}"
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > 6 or abs(value) >= 1e6:
        return f"{value:.4g} ± {half:.2g}"
    return f"{value:.{decimals}f} ± {half:.{decimals}f}"


def legend(metrics: Mapping[str, float]) -> str:
    """What ± means, where :func:`tell` writes it of any of these."""
    return "±: 95% interval over records" if any(map(is_error, metrics)) else ""
