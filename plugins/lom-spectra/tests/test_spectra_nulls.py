"""Whole numbers in FITS tables that stand for nothing (TNULL) are not observed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from lom_spectra import Spectra, SpectrumFiles

from lom_core import ModalityRegistry

REGISTRY = ModalityRegistry([Spectra(name="spectra")])


@pytest.mark.parametrize("scale", [None, 0.25])
def test_a_null_of_the_flux_weighs_nothing(tmp_path: Path, scale: float | None) -> None:
    wave = np.linspace(4000, 8000, 100)
    counts = np.arange(100, 200)
    counts[[3, 50]] = -99
    columns = [
        fits.Column("wave", "D", unit="Angstrom", array=wave),
        fits.Column("flux", "J", array=counts, null=-99),
    ]
    table = fits.BinTableHDU.from_columns(columns)
    if scale:
        table.header["TSCAL2"], table.header["TZERO2"] = scale, 7.0
    table.writeto(tmp_path / "a.fits")
    source = SpectrumFiles(paths=[str(tmp_path / "a.fits")]).build(REGISTRY)
    flux = np.asarray(source[0]["spectra"]["flux"])
    assert np.flatnonzero(np.isnan(flux)).tolist() == [3, 50]
    expected = np.arange(100, 200) * (scale or 1) + (7 if scale else 0)
    np.testing.assert_allclose(np.delete(flux, [3, 50]), np.delete(expected, [3, 50]))
    tokens = Spectra().tokeniser.build().encode(source[0]["spectra"])
    assert (~tokens.observed).any() and tokens.observed.any()
