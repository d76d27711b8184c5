"""Spectra <-> windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from lom_core import BadRecord, Tokens
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_spectra import SpectrumWindows


class WindowEncoder:
    """What SpectrumWindows configures."""

    def __init__(self, config: SpectrumWindows) -> None:
        self.config = config
        self.size = config.patch_size

    def encode(self, value: Mapping[str, Any]) -> Tokens:
        """Tokens (windows, patch_size); positions (windows, 1) or (windows, patch_size) micron.

        Errors:
            BadRecord: lengths differ, wavelengths not ascending or not finite, nothing observed.
        """
        flux, wavelength = _checked(value)
        weights = self._weights(value, flux)
        pad = -len(flux) % self.size
        # Wavelengths go on evenly, so that a padded window's mean is where it would be.
        step = wavelength[-1] - wavelength[-2] if len(wavelength) > 1 else 1e-4
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
        """flux and wavelength (windows x patch_size,), flux NaN where not observed."""
        observed = np.broadcast_to(tokens.observed, tokens.content.shape)
        flux = np.where(observed, tokens.content, np.nan).astype(np.float32)
        return {
            "flux": rearrange(flux, "n p -> (n p)"),
            "wavelength": rearrange(self._wavelengths(tokens), "n p -> (n p)"),
        }

    def _wavelengths(self, tokens: Tokens) -> Array:
        """(windows, patch_size) float64 micron."""
        positions = tokens.positions.astype(np.float64)
        if self.config.pos_input_size > 1 or self.size == 1:
            return positions
        centre = positions[:, 0]
        step = np.gradient(centre) / self.size if len(centre) > 1 else np.array([1e-4])
        along = np.arange(self.size) - (self.size - 1) / 2
        return np.asarray(centre[:, None] + step[:, None] * along)

    def _weights(self, value: Mapping[str, Any], flux: Array) -> Array:
        """(n,) float32, mean 1 over the observed pixels."""
        good = np.isfinite(flux)
        if value.get("mask") is not None:
            good &= ~_same_length(value["mask"], flux, "mask").astype(bool)
        weights = good.astype(np.float32)
        if value.get("ivar") is not None:
            ivar = _same_length(value["ivar"], flux, "ivar").astype(np.float64)
            good &= np.isfinite(ivar) & (ivar > 0)
            weights = np.where(good, ivar, 0)
            if good.any() and self.config.ivar_clip:
                weights = np.minimum(weights, self.config.ivar_clip * np.median(weights[good]))
        if not good.any():
            raise BadRecord("no observed flux", detail=f"{len(flux)} pixels, all NaN or masked")
        return np.asarray(weights / weights[good].mean(), dtype=np.float32)

    def _windows(self, values: Array) -> Array:
        return np.asarray(rearrange(values, "(n p) -> n p", p=self.size))


def _checked(value: Mapping[str, Any]) -> tuple[Array, Array]:
    """flux (n,) float32 and wavelength (n,) float64."""
    missing = {"flux", "wavelength"} - set(value)
    if missing:
        raise BadRecord(f"no {' and no '.join(sorted(missing))}", detail=f"it has {sorted(value)}")
    flux = np.asarray(np.ma.filled(value["flux"], np.nan), dtype=np.float32).ravel()
    wavelength = np.asarray(value["wavelength"], dtype=np.float64).ravel()
    if len(flux) != len(wavelength):
        raise BadRecord(
            "flux and wavelength of different length", detail=f"{len(flux)} and {len(wavelength)}"
        )
    if not len(flux):
        raise BadRecord("no pixel")
    if not np.isfinite(wavelength).all():
        raise BadRecord("a wavelength that is not finite")
    backwards = np.flatnonzero(np.diff(wavelength) <= 0)
    if len(backwards):
        at = int(backwards[0])
        pair = f"{wavelength[at]:.6g} is followed by {wavelength[at + 1]:.6g} micron at pixel {at}"
        raise BadRecord("wavelengths not ascending", detail=pair)
    return flux, wavelength


def _same_length(extra: Any, flux: Array, what: str) -> Array:
    extra = np.asarray(extra).ravel()
    if len(extra) != len(flux):
        detail = f"{len(extra)} and {len(flux)}"
        raise BadRecord(f"{what} and flux of different length", detail=detail)
    return extra
