"""Spectra <-> windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from lom_core import BadRecord, Tokens
from lom_core.roles import Array
from lom_spectra.wavelengths import from_micron, to_micron

if TYPE_CHECKING:
    from lom_spectra import SpectrumWindows

LONGEST = 1000.0  # micron; beyond it, somebody's Ångström were read as micron
GAP = 1.5  # neighbouring windows whose spacings differ by more have a gap between them
LONE = 1e-4  # micron a pixel, where a spectrum of one pixel or window does not tell


class WindowEncoder:
    """What SpectrumWindows configures."""

    def __init__(self, config: SpectrumWindows) -> None:
        self.config = config
        self.size = config.patch_size

    def encode(self, value: Mapping[str, Any]) -> Tokens:
        """Content and weights (windows, p) float32; positions (windows, 1) or (windows, p) micron.

        Errors:
            BadRecord: flux or wavelength is missing, they differ in length, nothing was observed,
                or the wavelengths are not finite, positive, ascending and below 1000 micron.
        """
        flux, wavelength, weights = self._checked(value)
        pad = -len(flux) % self.size
        # Wavelengths go on evenly, so that a position means the same window, padded or not.
        step = np.median(np.diff(wavelength[-self.size - 1 :])) if len(wavelength) > 1 else LONE
        beyond = wavelength[-1] + step * np.arange(1, pad + 1)
        positions = self._windows(np.concatenate([wavelength, beyond]))
        if self.config.pos_input_size == 1:
            positions = positions.mean(axis=1, keepdims=True)
        return Tokens(
            self._windows(np.pad(flux, (0, pad))),
            positions.astype(np.float32),
            self._windows(np.pad(weights, (0, pad))),
        )

    def decode(self, tokens: Tokens) -> dict[str, Array]:
        """flux (windows x p,) float32, NaN where not observed, and wavelength, same shape, float64.

        Padding cannot be told from masked pixels: it stays, as NaN at the end.
        """
        observed = np.broadcast_to(tokens.observed, tokens.content.shape)
        flux = np.where(observed, tokens.content, np.nan).astype(np.float32)
        wavelength = rearrange(self._wavelengths(tokens), "n p -> (n p)")
        return {
            "flux": rearrange(flux, "n p -> (n p)"),
            "wavelength": from_micron(wavelength, self.config.wavelength_unit),
        }

    def _wavelengths(self, tokens: Tokens) -> Array:
        """(windows, p) float64 micron; per window, from the spacing to the windows beside it."""
        positions = tokens.positions.astype(np.float64)
        if self.config.pos_input_size == self.size:
            return positions
        centre = positions[:, 0]
        step = np.diff(centre) / self.size if len(centre) > 1 else np.array([LONE])
        left, right = np.append(step[0], step)[: len(centre)], np.append(step, step[-1])
        right = right[: len(centre)]
        near, far = np.minimum(left, right), np.maximum(left, right)
        step = np.where(far > GAP * near, near, (near + far) / 2)
        along = np.arange(self.size) - (self.size - 1) / 2
        return np.asarray(centre[:, None] + step[:, None] * along)

    def _checked(self, value: Mapping[str, Any]) -> tuple[Array, Array, Array]:
        """flux (n,) float32, wavelength (n,) float64 micron ascending, weights (n,) float32."""
        flux, wavelength = self._arrays(value)
        weights = self._weights(value, flux)
        known = np.isfinite(wavelength)
        if (weights[~known] > 0).any():
            raise BadRecord("an observed pixel without a wavelength")
        # Nothing was measured there and nobody knows where: such pixels say nothing.
        flux, wavelength, weights = flux[known], wavelength[known], weights[known]
        unit = self.config.wavelength_unit
        if wavelength[-1] > LONGEST:
            given = f"{value['wavelength'][0]:.6g} .. {value['wavelength'][-1]:.6g}"
            raise BadRecord(
                "wavelengths beyond 1000 micron",
                detail=f"{given} read as {unit}; set wavelength_unit of the modality",
            )
        backwards = np.flatnonzero(np.diff(wavelength, prepend=0) <= 0)
        if len(backwards):
            at = int(backwards[0])
            pair = f"{wavelength[at - 1]:.7g} is followed by {wavelength[at]:.7g} micron"
            if at == 0:
                raise BadRecord("wavelengths not positive", detail=f"{wavelength[0]:.7g} micron")
            raise BadRecord("wavelengths not ascending", detail=f"{pair} at pixel {at}")
        return flux, wavelength, weights

    def _arrays(self, value: Mapping[str, Any]) -> tuple[Array, Array]:
        """flux (n,) float32 and wavelength (n,) float64 micron, of one length that is not 0."""
        if not isinstance(value, Mapping):
            kind = type(value).__name__
            raise BadRecord("not a mapping of flux and wavelength", detail=f"a {kind}")
        missing = {"flux", "wavelength"} - set(value)
        if missing:
            raise BadRecord(f"no {' and no '.join(sorted(missing))}", detail=f"has {[*value]}")
        flux = _floats(value["flux"], "flux").astype(np.float32)
        wavelength = to_micron(
            _floats(value["wavelength"], "wavelength"), self.config.wavelength_unit
        )
        if len(flux) != len(wavelength):
            detail = f"flux has {len(flux)} values, wavelength {len(wavelength)}"
            raise BadRecord("flux and wavelength differ in length", detail=detail)
        if not len(flux):
            raise BadRecord("no pixel")
        return flux, wavelength

    def _weights(self, value: Mapping[str, Any], flux: Array) -> Array:
        """(n,) float32: 0 where not observed, mean 1 over the observed pixels."""
        good = np.isfinite(flux)
        if value.get("mask") is not None:
            good &= _same_length(value["mask"], flux, "mask") == 0
        weights = np.ones(len(flux))
        if value.get("ivar") is not None:
            weights = _same_length(value["ivar"], flux, "ivar")
            good &= np.isfinite(weights) & (weights > 0)
        if not good.any():
            detail = f"{len(flux)} pixels, all NaN, masked or of ivar 0"
            raise BadRecord("no observed flux", detail=detail)
        if self.config.ivar_clip:
            weights = np.minimum(weights, self.config.ivar_clip * np.median(weights[good]))
        weights = weights / weights[good].mean()
        # An observed pixel stays one, however small its weight is in float32.
        weights = np.maximum(weights, np.finfo(np.float32).tiny)
        return np.where(good, weights, 0).astype(np.float32)

    def _windows(self, values: Array) -> Array:
        return np.asarray(rearrange(values, "(n p) -> n p", p=self.size))


def _floats(values: Any, what: str) -> Array:
    """(n,) float64; masked entries and None become NaN."""
    try:
        numbers = np.ma.asarray(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise BadRecord(f"{what} is not numeric", detail=str(error)) from error
    return np.asarray(np.ma.filled(numbers, np.nan)).ravel()


def _same_length(values: Any, flux: Array, what: str) -> Array:
    numbers = _floats(values, what)
    if len(numbers) != len(flux):
        detail = f"flux has {len(flux)} values, {what} {len(numbers)}"
        raise BadRecord(f"flux and {what} differ in length", detail=detail)
    return numbers
