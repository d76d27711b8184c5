"""Configs of light curves, their tokens, positions and masking; data sets are in curve_sets.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from lom_core import (
    ConfigError,
    ModalityConfig,
    Objective,
    Position,
    Tokeniser,
    Tokens,
)
from lom_core.roles import Array, Encoder

if TYPE_CHECKING:
    from torch import nn

    from lom_core.batch import Batch, Layout, Row

Normalise = Literal["none", "zero_mean", "random_mean", "minmax", "robust"]


class LightCurveEpochs(Tokeniser, kind="light_curve_epochs"):
    """One token an epoch: its value, at (days, band number).

    A light curve is ``{"time": days, "value": ..., "error": ..., "band": names or numbers}``
    (error and band optional, ``weight`` instead of ``error`` is taken as it is) or an array
    (n, 2) or (n, 3) of time, value, error. Epochs are sorted by time. Weights are 1 / error^2,
    clipped to ``weight_clip`` times that of the median error either way, with mean 1; a value that
    is NaN, or whose error is not above 0, has weight 0.

    Positions are days since ``time_zero`` in float32, so within 2^-24 of the length of the curve;
    then the band number, if there are ``bands``; then, if the curve is normalised, centre and
    spread, which travel along for ``decode`` and which this plugin's position components do not
    read. ``decode`` gives ``{"time", "value", "weight"}`` and ``"band"`` with values to a relative
    2^-24 (normalised: to 2^-22 of the curve's largest absolute value), NaN where the weight is 0.

    Args:
        bands: names, in the order of their numbers, by which curves may call them, too, unless a
            name is a number itself ("1", "2", "3"). Empty: one band, whatever it is called.
        normalise: of each curve over all of its bands, which keeps its colours, with
            (value - centre) / spread: ``zero_mean`` (mean, 1), ``random_mean`` (mean of a random
            half of the epochs, 1; the same half for all curves of a length), ``minmax``
            (minimum, range), ``robust`` (median, 1.4826 median absolute deviation). ``none`` keeps
            the physical scale, of which the run's scale takes care.
            AstroMer's ``random-mean`` is another thing: it adds a number drawn from -5 .. 5 anew
            for each window, which no ``decode`` could take back.
        time_zero: what days count from: the curve's ``first`` epoch, or the ``mean`` of them all.
        weight_clip: at least 1, which makes all epochs equal.
    """

    bands: tuple[str, ...] = ()
    normalise: Normalise = "none"
    time_zero: Literal["first", "mean"] = "first"
    weight_clip: float = Field(default=10.0, ge=1)

    @field_validator("bands")
    @classmethod
    def _differ(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) < len(bands):
            raise ConfigError(f"bands must differ: {', '.join(bands)}")
        return bands

    @property
    def pos_width(self) -> int:
        return 1 + bool(self.bands) + 2 * (self.normalise != "none")

    @property
    def bound(self) -> float:
        """0; normalised, 1e-5 where no value is above 20 times the curve's spread (else more)."""
        return 0.0 if self.normalise == "none" else 1e-5

    def build(self) -> Encoder:
        from lom_timeseries.tokeniser import EpochEncoder

        return EpochEncoder(self)


class LightCurve(ModalityConfig, kind="light_curve"):
    """Irregular light curves, z-scored by the run, answered as a Gaussian an epoch.

    Args:
        bands, normalise, time_zero, weight_clip: of :class:`LightCurveEpochs`.
        unit: of the values, for pictures; ``mag`` grows downwards.
    """

    name: str = "light_curves"
    bands: tuple[str, ...] = ()
    normalise: Normalise = "none"
    time_zero: Literal["first", "mean"] = "first"
    weight_clip: float = Field(default=10.0, ge=1)
    unit: str = "mag"

    def defaults(self) -> dict[str, Any]:
        return {
            "tokeniser": {
                "kind": "light_curve_epochs",
                "bands": self.bands,
                "normalise": self.normalise,
                "time_zero": self.time_zero,
                "weight_clip": self.weight_clip,
            },
            "scale": "zscore",
            "position": {"kind": "time_and_band", "n_bands": len(self.bands)},
            "head": "gaussian",
        }

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        """``last_same_band``: the latest earlier value that was observed in the token's band."""
        from lom_timeseries.predictors import last_of_group

        group = tokens.positions[:, 1] if self.bands else np.zeros(len(tokens))
        return {"last_same_band": last_of_group(tokens, group)}

    def synth(self, rng: np.random.Generator) -> tuple[dict[str, Array], float]:
        """A transient at irregular epochs; its magnitude at peak."""
        n = 40
        peak = float(rng.uniform(17, 21))
        time = 59000 + np.sort(rng.uniform(0, 100, n))
        days = time - 59000 - rng.uniform(20, 40)
        decline = np.where(days < 0, -days / 8, days / 25)
        error = rng.uniform(0.02, 0.1, n)
        curve = {"time": time, "value": peak + decline + error * rng.normal(size=n), "error": error}
        if self.bands:
            curve["band"] = rng.choice(np.array(self.bands), n)
        return curve, peak

    def ahead(self, tokens: Tokens, amount: float) -> Array:
        """Every band at the curve's usual spacing, at least a day, for ``amount`` days."""
        from lom_timeseries.writing import epochs_ahead

        return epochs_ahead(tokens, amount, bool(self.bands))

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.ecsv``: time in days, band, value."""
        from lom_timeseries.writing import write_light_curve

        return write_light_curve(value, path, self.unit)

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_timeseries.pictures import draw_light_curve

        draw_light_curve(figure, truth, predicted, self.unit)


class _Banded(Position):
    """Days in the first coordinate, and with ``n_bands`` the band's number in the second."""

    n_bands: int = Field(default=0, ge=0)

    def check(self, positions: Array) -> str:
        if not self.n_bands:
            return ""
        if positions.shape[1] < 2:
            return "positions hold no band (n_bands of the position is set)"
        band = positions[:, 1]
        inside = ((band >= 0) & (band < self.n_bands)).all()
        return "" if inside else "a band number outside n_bands of the position"


class TimeAndBand(_Banded, kind="time_and_band"):
    """Sines and cosines of the days at log-spaced periods, and a learned vector for each band.

    Args:
        n_frequencies, min_period, max_period: as of the core's ``fourier``, in days.
        n_bands: 0 for curves of one band.
    """

    n_frequencies: int = Field(default=32, ge=1)
    min_period: float = Field(default=0.1, gt=0)
    max_period: float = Field(default=5000.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> TimeAndBand:
        if self.min_period >= self.max_period:
            raise ConfigError(
                f"min_period {self.min_period} must be below max_period {self.max_period}"
            )
        return self

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_timeseries.positions import TimeAndBandPosition

        return TimeAndBandPosition(self, n_embd)


class AstromerTime(_Banded, kind="astromer_time"):
    """AstroMer's encoding of time (Donoso-Oliva et al. 2023): fixed, no parameters but the bands'.

    Element j of d is sin(omega_j t) for even j and cos(omega_j t) for odd j, with
    omega_j = 10000^(-2j/d) (j itself, not floor(j/2) as in Vaswani et al. 2017), t in days since
    the mean of the curve: use ``time_zero: mean``. Meant for masked objectives: with next_token,
    current and asked position would add up to one sum of the same fixed vectors.

    Args:
        n_bands: adds a learned vector for each band; 0 (AstroMer's) for curves of one band.
    """

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_timeseries.positions import AstromerPosition

        return AstromerPosition(self, n_embd)


class AstromerMasked(Objective, kind="astromer_masked"):
    """AstroMer's masking (Donoso-Oliva et al. 2023), per observation and modality of L tokens.

    n = floor(probed L) tokens are probed. ceil(kept n) of those are kept: shown as they are.
    ceil(replaced (n - kept)) show, in their own slot and at their own position, the value of
    another token of the same observation. The rest show nothing. Full attention.

    Two deviations, both because no slot may see the content that it is asked for:

    1. Kept tokens are not asked for. AstroMer asks for them too, though the answer stands in the
       very slot of the question.
    2. Replacing values come from tokens that were not probed. AstroMer shuffles the whole window,
       so that a value hidden in one slot may be read in another.

    Args:
        probed, kept, replaced: shares, each 0 .. 1; the defaults are those of AstroMer's
            ``mask_dataset`` (msk_frac 0.5, same_frac 0.2, rnd_frac 0.2).
    """

    in_turn: ClassVar[bool] = False

    probed: float = Field(default=0.5, gt=0, lt=1)
    kept: float = Field(default=0.2, ge=0, lt=1)
    replaced: float = Field(default=0.2, ge=0, le=1)

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_timeseries.objectives import astromer_masked

        return astromer_masked(rows, layouts, self.probed, self.kept, self.replaced)
