"""Readers: what surveys publish -> flux, wavelength in vacuum micron, ivar, mask."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_spectra import SpectrumFiles

# Column names in the wild, lower case, in order of preference.
NAMES = {
    "flux": ("flux", "flam", "f_lambda", "spec", "intensity"),
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wl", "loglam", "log_lam", "loglambda"),
    "ivar": ("ivar", "invvar"),
    "error": ("error", "err", "sigma", "flux_error", "fluxerr", "flux_err", "uncertainty", "std"),
    "mask": ("and_mask", "mask", "qual", "flag"),
}
MICRON = {"angstrom": 1e-4, "nm": 1e-3, "micron": 1.0}
TEXT = (".txt", ".dat", ".csv", ".ascii")


def read_spectrum(config: SpectrumFiles, path: Path, row: int) -> dict[str, Array]:
    """The raw spectrum; wavelengths (n,) float64 in vacuum micron.

    A spectrum that is stored from red to blue is turned round. Wavelengths in any other disorder
    are left as they are, for the tokeniser to refuse.

    Errors:
        BadRecord: damaged file, no such HDU, column or row; says which there are.
    """
    if config.format == "text" or (config.format == "auto" and path.name.lower().endswith(TEXT)):
        parts, unit = read_text(path), "angstrom"
    else:
        with opened(path) as hdus:
            parts, unit = _read_fits(config, hdus, row)
    parts = {key: np.asarray(value) for key, value in parts.items()}
    wavelength = to_micron(parts["wavelength"], unit if config.unit == "auto" else config.unit)
    parts["wavelength"] = air_to_vacuum(wavelength) if config.medium == "air" else wavelength
    if "error" in parts:
        sigma = parts.pop("error").astype(np.float64)
        positive = sigma > 0  # an error of 0 or NaN is no measurement
        parts.setdefault("ivar", np.where(positive, 1 / np.where(positive, sigma, 1) ** 2, 0))
    if len(wavelength) > 1 and (np.diff(parts["wavelength"]) < 0).all():
        parts = {key: value[::-1] for key, value in parts.items()}
    if config.wavelength_range and len({len(v) for v in parts.values()}) == 1:
        low, high = config.wavelength_range
        inside = (parts["wavelength"] >= low) & (parts["wavelength"] <= high)
        if not inside.any():
            raise BadRecord("no pixel in wavelength_range", detail=f"[{low}, {high}] micron")
        parts = {key: value[inside] for key, value in parts.items()}
    return parts


def count_rows(path: Path) -> int:
    """Spectra in a stack; 1 for everything else, also for files that `read` will refuse."""
    if path.name.lower().endswith(TEXT):
        return 1
    try:
        with opened(path) as hdus:
            arms = stack_arms(hdus)
            shape = hdus[f"{arms[0]}FLUX"].shape if arms else ()
    except (OSError, BadRecord):
        return 1
    return int(shape[0]) if len(shape) == 2 else 1


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A FITS file; one that is cut short is a BadRecord (astropy only warns, and pads)."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        warnings.filterwarnings("error", message="Error validating header", category=Warning)
        try:
            with fits.open(path, memmap=False) as hdus:
                yield hdus
        except BadRecord:
            raise
        except (AstropyUserWarning, OSError, TypeError, ValueError) as error:
            raise BadRecord("damaged FITS file", detail=" ".join(str(error).split())) from error


def _read_fits(config: SpectrumFiles, hdus: Any, row: int) -> tuple[dict[str, Any], str]:
    arms = stack_arms(hdus)
    if config.format == "stack" or (config.format == "auto" and arms and config.hdu is None):
        return read_stack(hdus, arms, row)
    if config.format == "image":
        return read_wcs(_hdu(hdus, 0 if config.hdu is None else config.hdu))
    if config.hdu is not None:
        hdu = _hdu(hdus, config.hdu)
        is_table = hasattr(hdu, "columns")
        return read_table(config, hdu) if is_table else read_wcs(hdu)
    tables = [h for h in hdus if hasattr(h, "columns")]
    best = next((h for h in tables if _column(config, h, "flux")), None)
    if best is not None or (tables and config.format == "table"):
        return read_table(config, best if best is not None else tables[0])
    images = [h for h in hdus if h.is_image and h.data is not None and np.squeeze(h.data).ndim == 1]
    if images and not tables:
        return read_wcs(images[0])
    if tables:
        return read_table(config, tables[0])  # raises: names the columns that there are
    raise BadRecord("no spectrum", detail=f"HDUs: {_listed(hdus)}")


def read_table(config: SpectrumFiles, hdu: Any) -> tuple[dict[str, Any], str]:
    """Columns of a table, a pixel a row; or array columns of a table of one row."""
    found = {what: _column(config, hdu, what) for what in NAMES}
    for what in ("flux", "wavelength"):
        if found[what] is None:
            have = ", ".join(hdu.columns.names)
            raise BadRecord(f"no {what} column", detail=f"set {what}=NAME; the columns are {have}")
    parts = {k: np.squeeze(hdu.data[name]) for k, name in found.items() if name is not None}
    if "mask" in parts:
        parts["mask"] = parts["mask"] != 0
    name = str(found["wavelength"])
    return parts, _unit(hdu.columns[name].unit, name)


def _column(config: SpectrumFiles, hdu: Any, what: str) -> str | None:
    """The name of a column as the table spells it."""
    names = list(hdu.columns.names)
    wanted = getattr(config, what)
    if wanted is not None:
        if wanted not in names:
            have = ", ".join(names)
            raise BadRecord(f"no column {wanted}", detail=f"the columns are {have}")
        return str(wanted)
    lower = {name.lower(): name for name in reversed(names)}
    return next((lower[name] for name in NAMES[what] if name in lower), None)


def stack_arms(hdus: Any) -> list[str]:
    """The prefixes of HDUs [ARM_]WAVELENGTH that have a [ARM_]FLUX beside them."""
    names = {h.name for h in hdus}
    arms = [n.removesuffix("WAVELENGTH") for n in names if n.endswith("WAVELENGTH")]
    return sorted(arm for arm in arms if f"{arm}FLUX" in names)


def read_stack(hdus: Any, arms: list[str], row: int) -> tuple[dict[str, Any], str]:
    """Row ``row`` of each arm. Pixels that arms share are averaged by inverse variance."""
    if not arms:
        raise BadRecord("no HDUs [ARM_]WAVELENGTH and [ARM_]FLUX", detail=f"HDUs: {_listed(hdus)}")
    names = {h.name for h in hdus}
    gathered: dict[str, list[Array]] = {"wavelength": [], "flux": [], "ivar": []}
    for arm in arms:
        flux = np.atleast_2d(hdus[f"{arm}FLUX"].data)
        if not 0 <= row < len(flux):
            raise BadRecord(f"no row {row}", detail=f"the stack has {len(flux)}")
        weight = np.isfinite(flux[row]).astype(np.float64)
        if f"{arm}IVAR" in names:
            weight = weight * np.atleast_2d(hdus[f"{arm}IVAR"].data)[row]
        if f"{arm}MASK" in names:
            weight = weight * (np.atleast_2d(hdus[f"{arm}MASK"].data)[row] == 0)
        gathered["wavelength"].append(np.asarray(hdus[f"{arm}WAVELENGTH"].data, np.float64))
        gathered["flux"].append(np.nan_to_num(flux[row].astype(np.float64)))
        gathered["ivar"].append(weight)
    unit = _unit(hdus[f"{arms[0]}WAVELENGTH"].header.get("BUNIT"), "wavelength")
    wavelength, flux, ivar = (np.concatenate(gathered[k]) for k in ("wavelength", "flux", "ivar"))
    grid, where = np.unique(wavelength.round(4), return_inverse=True)
    total = np.bincount(where, ivar)
    mean = np.bincount(where, ivar * flux) / np.where(total > 0, total, 1)
    return {"wavelength": grid, "flux": np.where(total > 0, mean, np.nan), "ivar": total}, unit


def read_wcs(hdu: Any) -> tuple[dict[str, Any], str]:
    """A 1-D image: wavelength = CRVAL1 + (pixel - CRPIX1) CDELT1, or 10 to that (DC-FLAG = 1,
    CTYPE1 = WAVE-LOG in its log10 form as IRAF writes it)."""
    header = hdu.header
    if hdu.data is None or np.squeeze(hdu.data).ndim != 1:
        shape = None if hdu.data is None else hdu.data.shape
        raise BadRecord("no 1-D image", detail=f"HDU {hdu.name or 'PRIMARY'} has shape {shape}")
    flux = np.squeeze(hdu.data)
    step = header.get("CDELT1", header.get("CD1_1"))
    if step is None or "CRVAL1" not in header:
        raise BadRecord("no wavelength scale", detail="CRVAL1 and CDELT1 (or CD1_1) are needed")
    pixel = np.arange(1, len(flux) + 1) - header.get("CRPIX1", 1.0)
    wavelength = header["CRVAL1"] + pixel * step
    is_log = header.get("DC-FLAG") == 1 or str(header.get("CTYPE1", "")).upper().startswith("LOG")
    unit = "log10_angstrom" if is_log else _unit(header.get("CUNIT1"), "wavelength")
    return {"wavelength": wavelength, "flux": flux}, unit


def read_text(path: Path) -> dict[str, Any]:
    """Columns wavelength, flux and perhaps error; white space or commas; # comments; a header."""
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if rows:
                raise BadRecord("a line that is no number", row=number, detail=line[:60]) from None
    if not rows:
        raise BadRecord("no numbers")
    widths = {len(row) for row in rows}
    if len(widths) > 1 or min(widths) < 2:
        told = ", ".join(str(w) for w in sorted(widths))
        raise BadRecord("needs columns wavelength and flux", detail=f"lines have {told} columns")
    columns = np.array(rows).T
    return dict(zip(("wavelength", "flux", "error"), columns, strict=False))


def to_micron(wavelength: Array, unit: str) -> Array:
    values = wavelength.astype(np.float64)
    return np.asarray(10**values * 1e-4 if unit == "log10_angstrom" else values * MICRON[unit])


def air_to_vacuum(wavelength: Array) -> Array:
    """Micron in air to micron in vacuum: the inverse of Ciddor (1996, Applied Optics 35, 1566) as
    fitted by N. Piskunov for VALD3; between 0.2 and 10 micron."""
    s2 = (1 / wavelength) ** 2
    n = (
        1
        + 0.00008336624212083
        + 0.02408926869968 / (130.1065924522 - s2)
        + 0.0001599740894897 / (38.92568793293 - s2)
    )
    return np.asarray(wavelength * n)


def _unit(given: Any, name: str) -> str:
    """The unit that a file states, or that the column's name implies."""
    if "log" in name.lower():
        return "log10_angstrom"
    if not given:
        return "angstrom"
    from astropy import units

    factor = units.Unit(str(given), parse_strict="silent")
    for unit, micron in MICRON.items():
        if factor.is_equivalent(units.um) and np.isclose(factor.to(units.um), micron):
            return unit
    raise BadRecord("unknown unit of wavelength", detail=f"'{given}'; set unit= in the run file")


def _hdu(hdus: Any, which: int | str) -> Any:
    try:
        return hdus[which]
    except (KeyError, IndexError):
        raise BadRecord(f"no HDU {which}", detail=f"HDUs: {_listed(hdus)}") from None


def _listed(hdus: Any) -> str:
    return ", ".join(f"{i} {h.name or '-'}" for i, h in enumerate(hdus))
