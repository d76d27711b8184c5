"""Units of wavelength, air and vacuum. Everything else in this plugin is in vacuum micron."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array

Unit = Literal["micron", "nm", "angstrom", "log10_angstrom"]
MICRON = {"micron": 1.0, "nm": 1e-3, "angstrom": 1e-4}


def to_micron(values: Array, unit: str) -> Array:
    """(n,) float64 micron.

    Args:
        values: (n,) in ``unit``.
        unit: a Unit, or what a file states ("m", "Angstrom", "0.1 nm"); ``log10_`` before it
            takes the values as decimal logarithms.

    Errors:
        BadRecord: a unit that is none of length.
    """
    linear = unit.removeprefix("log10_")
    values = np.asarray(values, dtype=np.float64)
    if linear != unit:
        with np.errstate(over="ignore"):
            values = 10.0**values
    return np.asarray(values * _factor(linear))


def from_micron(values: Array, unit: Unit) -> Array:
    """The inverse of `to_micron`, (n,) float64."""
    linear = values / MICRON[unit.removeprefix("log10_")]
    return np.asarray(np.log10(linear) if unit.startswith("log10_") else linear)


def _factor(unit: str) -> float:
    if unit in MICRON:
        return MICRON[unit]
    from astropy import units

    given = units.Unit(unit, parse_strict="silent")
    if isinstance(given, units.UnrecognizedUnit) or not given.is_equivalent(units.um):
        raise BadRecord(
            "the unit of wavelength is none of length",
            detail=f"'{unit}'; state it: unit: angstrom, nm, micron or log10_angstrom",
        )
    return float(given.to(units.um))


def air_to_vacuum(wavelength: Array) -> Array:
    """Micron in standard air -> micron in vacuum; below 0.2 micron they are vacuum by convention.

    The refractive index is that of Ciddor (1996, Applied Optics 35, 1566, eq. 1) as a function of
    the wavelength in air, in the fit of N. Piskunov for VALD3. The two agree
    within 1e-8 from 0.3 micron on, within 1e-7 before.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        s2 = wavelength**-2.0
        index = (
            1
            + 8.336624212083e-5
            + 0.02408926869968 / (130.1065924522 - s2)
            + 1.599740894897e-4 / (38.92568793293 - s2)
        )
    return np.asarray(np.where(wavelength >= 0.2, wavelength * index, wavelength))
