"""Scales, positions and heads: configs only; what they build is in the file of that name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, field_validator, model_validator

from lom_core.errors import ConfigError
from lom_core.roles import Array, Head, Position, Scale

if TYPE_CHECKING:
    from torch import nn


class Identity(Scale, kind="identity"):
    """Model units are physical units."""

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import IdentityScale

        return IdentityScale(width, n_channels)


class ZScore(Scale, kind="zscore"):
    """(x - mean) / standard deviation, both fitted per channel."""

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import ZScoreScale

        return ZScoreScale(width, n_channels)


class Arcsinh(Scale, kind="arcsinh"):
    """Z-score of arcsinh(x / softening): linear in the noise, logarithmic in bright sources.

    Args:
        softening: in physical units; None fits 1.4826 x the median absolute deviation per channel.
    """

    softening: float | None = Field(default=None, gt=0)

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import ArcsinhScale

        return ArcsinhScale(width, n_channels, self.softening)


class Log(Scale, kind="log"):
    """Z-score of ln(x), for contents that are positive. Fitting refuses values <= 0.

    A later value below the smallest one fitted is read as that smallest one.
    """

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import LogScale

        return LogScale(width, n_channels)


class Index(Position, kind="index"):
    """A learned vector for each position 0, 1, 2 ... (first coordinate).

    Args:
        max_positions: size of the table; a position beyond it, or between two, is a bad record.
    """

    max_positions: int = Field(default=4096, ge=1)

    def check(self, positions: Array) -> str:
        first = positions[:, 0]
        if len(first) and not (first.min() >= 0 and first.max() < self.max_positions):
            return f"a position outside the index table of {self.max_positions} (max_positions)"
        if (first != np.floor(first)).any():
            return "a position that is no whole number, as 'index' needs them (embed_pos: false)"
        return ""

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import IndexPosition

        return IndexPosition(n_embd, self.max_positions)


class Fourier(Position, kind="fourier"):
    """Sines and cosines of each coordinate at log-spaced periods, then a linear map.

    Args:
        n_frequencies: per coordinate.
        min_period, max_period: in the units of the positions. The shortest should be about twice
            the finest spacing that matters, the longest a few times the whole range.
    """

    n_frequencies: int = Field(default=32, ge=1)
    min_period: float = Field(default=0.01, gt=0)
    max_period: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Fourier:
        if self.min_period >= self.max_period:
            raise ConfigError(
                f"min_period {self.min_period} must be below max_period {self.max_period}"
            )
        return self

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import FourierPosition

        return FourierPosition(
            n_embd, pos_width, self.n_frequencies, self.min_period, self.max_period
        )


class MLP(Position, kind="mlp"):
    """A two-layer network on the coordinates, after (position - offset) / unit.

    Args:
        hidden: width of the hidden layer; 0 takes that of the model.
        offset, unit: bring the positions to about -1 .. 1; a network fed 3000 .. 10000 learns
            badly.
    """

    hidden: int = Field(default=0, ge=0)
    offset: float = 0.0
    unit: float = Field(default=1.0, gt=0)

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import MLPPosition

        return MLPPosition(n_embd, pos_width, self.hidden or n_embd, self.offset, self.unit)


class Huber(Head, kind="huber"):
    """A point, scored by the Huber loss: squared below ``delta`` (model units), linear above."""

    delta: float = Field(default=1.0, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import HuberHead

        return HuberHead(n_embd, width, self.delta)


class Gaussian(Head, kind="gaussian"):
    """A mean and a standard deviation for each value, scored in nats.

    Args:
        min_sigma: smallest standard deviation, in model units.
    """

    min_sigma: float = Field(default=1e-3, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import GaussianHead

        return GaussianHead(n_embd, width, self.min_sigma)


class StudentT(Head, kind="student_t"):
    """As ``gaussian``, with the heavy tails of Student's t: for data with outliers.

    Args:
        dof: degrees of freedom; 2 has no variance, 30 is all but Gaussian.
        min_sigma: smallest scale, in model units.
    """

    dof: float = Field(default=4.0, gt=1)
    min_sigma: float = Field(default=1e-3, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.densities import StudentTHead

        return StudentTHead(n_embd, width, self.min_sigma, self.dof)


class Mixture(Head, kind="mixture"):
    """A mixture of Gaussians for each value: for answers that may be one thing or another.

    Args:
        components: Gaussians a value.
        min_sigma: smallest standard deviation, in model units.
    """

    components: int = Field(default=4, ge=1)
    min_sigma: float = Field(default=1e-2, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.densities import MixtureHead

        return MixtureHead(n_embd, width, self.components, self.min_sigma)


class Quantile(Head, kind="quantile"):
    """Quantiles for each value, of no assumed shape, scored by the pinball loss.

    Args:
        levels: which, rising, within 0 .. 1, on both sides of 0.5.
    """

    levels: tuple[float, ...] = Field(
        default=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975, 0.99), min_length=2
    )

    @field_validator("levels")
    @classmethod
    def _rising(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if list(levels) != sorted(set(levels)) or not 0 < levels[0] <= 0.5 <= levels[-1] < 1:
            raise ConfigError(
                f"levels {list(levels)} must rise, lie within 0 .. 1 and reach across 0.5"
            )
        return levels

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.densities import QuantileHead

        return QuantileHead(n_embd, width, self.levels)


class Categorical(Head, kind="categorical"):
    """One of ``vocab_size`` tokens, scored in nats (cross-entropy)."""

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import CategoricalHead

        if not vocab_size:
            raise ConfigError("head 'categorical' needs a modality with a vocab_size")
        return CategoricalHead(n_embd, vocab_size)
