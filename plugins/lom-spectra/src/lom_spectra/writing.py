"""Spectra -> FITS tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lom_core.roles import Array

UNITS = {"angstrom": "Angstrom", "nm": "nm", "micron": "um"}


def write_spectrum(spectrum: Mapping[str, Array], path: Path, wavelength: str, flux: str) -> Path:
    """``PATH.fits``: a table with columns WAVELENGTH and FLUX.

    Args:
        wavelength: its unit, as of the tokeniser.
        flux: its unit, in words; FITS headers are plain ASCII, so that exponents become numbers.
    """
    from astropy.io import fits

    columns = [
        fits.Column("WAVELENGTH", "D", UNITS.get(wavelength), array=spectrum["wavelength"]),
        fits.Column("FLUX", "E", array=np.asarray(spectrum["flux"], np.float32)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="SPECTRUM")
    if flux:
        table.header["TUNIT2"] = _ascii(flux)
    path = path.with_name(path.name + ".fits")
    table.writeto(path, overwrite=True)
    return path


def _ascii(unit: str) -> str:
    """``10⁻¹⁷ erg/s/cm²/Å`` -> ``10**-17 erg/s/cm2/Angstrom``, which astropy reads."""
    unit = unit.replace("10⁻", "10**⁻").replace("Å", "Angstrom")
    unit = unit.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    return unit.encode("ascii", errors="ignore").decode()
