"""Readers: what surveys publish -> flux, wavelength in vacuum micron, ivar, mask."""

from __future__ import annotations

import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array
from lom_spectra.wavelengths import air_to_vacuum, to_micron

if TYPE_CHECKING:
    from lom_spectra import SpectrumFiles

# Column names in the wild, lower case, in order of preference.
NAMES = {
    "flux": ("flux", "flam", "f_lambda", "spec", "intensity"),
    "wavelength": ("wavelength", "wave", "lambda", "lam", "wl"),
    "loglam": ("loglam", "log_lam", "loglambda", "logwave"),
    "ivar": ("ivar", "invvar", "flux_ivar"),
    "error": ("error", "err", "sigma", "flux_error", "fluxerr", "flux_err", "uncertainty", "std"),
    "mask": ("and_mask", "mask"),
}
TEXT = (".txt", ".dat", ".csv", ".ascii")
NO_WAVELENGTH = ("FREQ", "ENER", "WAVN", "VRAD", "VOPT", "ZOPT", "VELO", "BETA")  # of CTYPE1
BLUEST = 0.09  # micron; below it stars are not seen, but nm, micron and log10 Å look like Å
SAME = 1e-7  # wavelengths of two arms that differ by less, relative, are one
# What astropy raises for damaged files, besides its warnings.
DAMAGED = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, zlib.error)

Parts = dict[str, Any]
"""Arrays (n,) under the keys of NAMES."""


def read_spectrum(config: SpectrumFiles, path: Path, row: int | None) -> dict[str, Array]:
    """flux (n,) float32, wavelength (n,) float64 vacuum micron, and ivar and mask if there are any.

    A spectrum that is stored from red to blue is turned round. Wavelengths in any other disorder
    are left as they are, for the tokeniser to refuse.

    Errors:
        BadRecord: damaged file, no such HDU, column or row; says which there are.
    """
    if config.format == "text" or (config.format == "auto" and path.name.lower().endswith(TEXT)):
        parts, unit = read_text(config, path)
    else:
        with opened(path) as hdus:
            parts, unit = _read_fits(config, hdus, row)
    parts = {what: np.asarray(values).ravel() for what, values in parts.items()}
    wavelength = _micron(parts["wavelength"], unit if config.unit == "auto" else config.unit)
    spectrum = {
        "flux": parts["flux"].astype(np.float32),
        "wavelength": air_to_vacuum(wavelength) if config.medium == "air" else wavelength,
    }
    if "ivar" in parts:
        spectrum["ivar"] = parts["ivar"].astype(np.float64)
    elif "error" in parts:
        spectrum["ivar"] = inverse_variance(parts["error"])
    if "mask" in parts:
        spectrum["mask"] = parts["mask"] != 0
    if len(wavelength) > 1 and (np.diff(wavelength) < 0).all():
        spectrum = {what: values[::-1] for what, values in spectrum.items()}
    return _cut(config, spectrum)


def _micron(values: Array, unit: str) -> Array:
    """(n,) float64 micron; values without a unit are taken for Å, if they can be."""
    wavelength = to_micron(values, unit or "angstrom")
    seen = wavelength[wavelength > 0]
    if not unit and len(seen) and seen.min() < BLUEST:
        raise BadRecord(
            "wavelengths without a unit that are hardly Å",
            detail=f"from {np.nanmin(values):.6g} to {np.nanmax(values):.6g}; "
            "set unit: angstrom, nm, micron or log10_angstrom",
        )
    return wavelength


def inverse_variance(error: Array) -> Array:
    """1 / error^2 (n,) float64, and 0 where the error is none: not above 0, or not finite."""
    sigma = error.astype(np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return np.asarray(np.where(np.isfinite(sigma) & (sigma > 0), sigma**-2.0, 0))


def _cut(config: SpectrumFiles, spectrum: dict[str, Array]) -> dict[str, Array]:
    """The part inside wavelength_range. The tokeniser refuses lengths that differ."""
    if config.wavelength_range is None or len({len(v) for v in spectrum.values()}) > 1:
        return spectrum
    low, high = config.wavelength_range
    at = spectrum["wavelength"]
    inside = (at >= low) & (at <= high)
    if not inside.any():
        there = f"it has {at.min():.4g} to {at.max():.4g} micron" if len(at) else "it has no pixel"
        raise BadRecord("no pixel in wavelength_range", detail=f"[{low}, {high}]; {there}")
    return {what: values[inside] for what, values in spectrum.items()}


# ---------------------------------------------------------------------------------------- FITS


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The HDUs of a FITS file; a damaged one is a BadRecord (astropy only warns, and goes on)."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        for message in (".*truncated", "Error validating header", ".*file may be corrupted"):
            warnings.filterwarnings("error", message=message, category=Warning)
        try:
            with fits.open(path, memmap=False) as hdus:
                len(hdus)  # reads all headers: only then is a missing end noticed
                yield hdus
        except BadRecord:
            raise
        except (*DAMAGED, AstropyUserWarning, fits.VerifyError) as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadRecord("damaged FITS file", detail=told) from error


def count_rows(config: SpectrumFiles, path: Path) -> int:
    """Spectra in a file; 1 too for a file that `read_spectrum` will refuse."""
    if config.format == "text" or path.name.lower().endswith(TEXT):
        return 1
    try:
        with opened(path) as hdus:
            arms, table = find_arms(hdus), _find_table(config, hdus)
            if config.format != "table" and arms and config.hdu is None:
                return _rows(hdus[f"{arms[0]}FLUX"])
            if table is not None:
                name = pick(table.columns.names, "flux", config.flux)
                one_a_row = table.columns.dtype[name].shape != ()  # known without reading it
                return int(table.header["NAXIS2"]) if one_a_row else 1
    except BadRecord:
        pass  # raised again, and reported, when it is read
    return 1


def _rows(image: Any) -> int:
    return int(image.shape[0]) if len(image.shape) == 2 else 1


def _read_fits(config: SpectrumFiles, hdus: Any, row: int | None) -> tuple[Parts, str]:
    """The parts of a spectrum and the unit of its wavelengths."""
    arms = find_arms(hdus)
    if config.format == "desi" or (config.format == "auto" and arms and config.hdu is None):
        return read_arms(hdus, _chosen_arms(config, hdus, arms), row)
    chosen = list(hdus) if config.hdu is None else [_hdu(hdus, config.hdu)]
    tables = [hdu for hdu in chosen if hasattr(hdu, "columns")]
    images = [hdu for hdu in chosen if hdu.is_image and sum(n > 1 for n in hdu.shape) == 1]
    if tables and config.format in ("auto", "table"):
        return read_table(config, _find_table(config, hdus) or tables[0], row)
    if images and config.format in ("auto", "image"):
        return read_image(config, hdus, images[0])
    what = {"table": "table", "image": "1-D image"}.get(config.format, "spectrum")
    where = "" if config.hdu is None else f" in HDU {config.hdu}"
    raise BadRecord(f"no {what}{where}", detail=f"HDUs: {_listed(hdus)}")


def read_table(config: SpectrumFiles, table: Any, row: int | None) -> tuple[Parts, str]:
    """A pixel a row; or a spectrum a row, where the columns hold arrays."""
    found, is_log = _roles(config, list(table.columns.names))
    parts = {}
    for what, name in found.items():
        values = _observed(table.data[name], table.columns[name])
        array_a_row = np.ndim(values) == 2 or values.dtype == object  # of one length, or of many
        parts[what] = _take(values, row) if array_a_row else values
    return parts, _unit(table.columns[found["wavelength"]].unit, is_log)


def _observed(values: Array, column: Any) -> Array:
    """NaN where whole numbers are the column's TNULL, which stands for what was not observed."""
    if column.null is None or values.dtype.kind not in "iuf":
        return values
    scale, zero = column.bscale or 1, column.bzero or 0  # astropy has applied both
    return np.where(values == column.null * scale + zero, np.nan, values)


def _roles(config: SpectrumFiles, names: list[str]) -> tuple[dict[str, str], bool]:
    """The column of each part of a spectrum, and whether its wavelengths are logarithms."""
    found = {what: pick(names, what, getattr(config, what)) for what in NAMES}
    for what in NAMES:
        wanted = getattr(config, what)
        if wanted is not None and found[what] is None:
            raise BadRecord(f"no column {wanted}", detail=f"the columns are {', '.join(names)}")
    log = found.pop("loglam")
    if found["wavelength"] is None or (config.loglam and not config.wavelength):
        found["wavelength"] = log
    for what in ("flux", "wavelength"):
        if found[what] is None:
            told = f"set {what}: NAME; the columns are {', '.join(names)}"
            raise BadRecord(f"no {what} column", detail=told)
    chosen = {what: name for what, name in found.items() if name is not None}
    return chosen, chosen["wavelength"] == log


def _find_table(config: SpectrumFiles, hdus: Any) -> Any:
    """The first table with a flux column, or None."""
    chosen = hdus if config.hdu is None else [_hdu(hdus, config.hdu)]
    tables = (hdu for hdu in chosen if hasattr(hdu, "columns"))
    return next((t for t in tables if pick(t.columns.names, "flux", config.flux)), None)


def pick(names: list[str], what: str, wanted: str | None) -> str | None:
    """Which of the names is asked for, or else is known for it; whatever its case."""
    lower = {name.lower(): name for name in reversed(names)}
    if wanted is not None:
        return wanted if wanted in names else lower.get(wanted.lower())
    return next((lower[name] for name in NAMES[what] if name in lower), None)


def _take(values: Array, row: int | None) -> Array:
    return np.asarray(values[_row_of(row, len(values))])


def _row_of(row: int | None, n: int) -> int:
    """The row asked for, of n; without one, the only one there is."""
    if row is None and n > 1:
        told = f"{n}; set row: all, a record for each, or row: NUMBER, from 0"
        raise BadRecord("several spectra in one file", detail=told)
    if not 0 <= (row or 0) < n:
        raise BadRecord("no such row", row=row, detail=f"it has {n}, from 0")
    return row or 0


def find_arms(hdus: Any) -> list[str]:
    """The prefixes of HDUs [ARM_]WAVELENGTH that have a [ARM_]FLUX beside them, as in the file."""
    names = [hdu.name for hdu in hdus]
    arms = [name.removesuffix("WAVELENGTH") for name in names if name.endswith("WAVELENGTH")]
    return [arm for arm in arms if f"{arm}FLUX" in names]


def _chosen_arms(config: SpectrumFiles, hdus: Any, arms: list[str]) -> list[str]:
    if not arms:
        raise BadRecord("no HDUs [ARM_]WAVELENGTH and [ARM_]FLUX", detail=f"HDUs: {_listed(hdus)}")
    chosen = arms if config.arms is None else [f"{arm.upper()}_" for arm in config.arms]
    missing = [arm for arm in chosen if arm not in arms]
    if missing:
        told = f"{', '.join(missing)} asked, it has {', '.join(arms)}".replace("_", "")
        raise BadRecord("no such arm", detail=told)
    return chosen


def read_arms(hdus: Any, arms: list[str], row: int | None) -> tuple[Parts, str]:
    """Row ``row`` of each arm, in one sequence of ascending wavelength.

    Pixels that arms share (DESI's grids coincide where they overlap) are averaged by inverse
    variance, as DESI itself coadds; pixels that lie between one another's stay as they are.
    """
    names = {hdu.name for hdu in hdus}
    gathered: dict[str, list[Array]] = {"wavelength": [], "flux": [], "ivar": []}
    for arm in arms:
        flux = _image_row(hdus[f"{arm}FLUX"], row).astype(np.float64)
        ivar = np.ones(len(flux))
        if f"{arm}IVAR" in names:
            ivar = _image_row(hdus[f"{arm}IVAR"], row).astype(np.float64)
        good = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        if f"{arm}MASK" in names:
            good &= _image_row(hdus[f"{arm}MASK"], row) == 0
        gathered["wavelength"].append(np.asarray(hdus[f"{arm}WAVELENGTH"].data, np.float64))
        gathered["flux"].append(np.where(good, flux, 0))
        gathered["ivar"].append(np.where(good, ivar, 0))
    wavelength, flux, ivar = (np.concatenate(values) for values in gathered.values())
    if len(wavelength) != len(flux):
        return {"wavelength": wavelength, "flux": flux}, "angstrom"  # the tokeniser refuses it
    order = np.argsort(wavelength, kind="stable")
    wavelength, flux, ivar = wavelength[order], flux[order], ivar[order]
    first = np.diff(wavelength, prepend=-np.inf) > SAME * wavelength
    group = np.cumsum(first) - 1
    total = np.bincount(group, ivar)
    mean = np.bincount(group, ivar * flux) / np.where(total > 0, total, 1)
    unit = _unit(hdus[f"{arms[0]}WAVELENGTH"].header.get("BUNIT"))
    flux = np.where(total > 0, mean, np.nan)
    return {"wavelength": wavelength[first], "flux": flux, "ivar": total}, unit


def _image_row(image: Any, row: int | None) -> Array:
    """(n,) of an image (rows, n), reading no other row; or the whole image (n,)."""
    if len(image.shape) == 1:
        return _take(image.data[None], row)
    return np.asarray(image.section[_row_of(row, image.shape[0])])


def read_image(config: SpectrumFiles, hdus: Any, image: Any) -> tuple[Parts, str]:
    """A 1-D image with a WCS; ivar, error and mask from HDUs, where the config names them.

    w = CRVAL1 + (pixel - CRPIX1) CD1_1 (or CDELT1). Wavelength is w itself; 10^w, where IRAF's
    DC-FLAG is 1 or CTYPE1 begins with LOG; CRVAL1 exp((w - CRVAL1) / CRVAL1) for WAVE-LOG
    (Greisen et al. 2006, A&A 446, 747, eq. 5).
    """
    header = image.header
    flux = np.squeeze(image.data)
    step = header.get("CD1_1") or header.get("CDELT1")
    start = header.get("CRVAL1")
    if not step or start is None:
        raise BadRecord("no wavelength scale", detail="CRVAL1 and CDELT1 (or CD1_1) are needed")
    wavelength = start + (np.arange(1, len(flux) + 1) - header.get("CRPIX1", 1.0)) * step
    axis, _, algorithm = str(header.get("CTYPE1", "")).strip(" -").upper().partition("-")
    if axis[:4] in NO_WAVELENGTH or (axis in ("WAVE", "AWAV") and algorithm not in ("", "LOG")):
        raise BadRecord("the axis is no wavelength", detail=f"CTYPE1 = {header['CTYPE1']}")
    if axis == "AWAV" and config.medium != "air":
        raise BadRecord("wavelengths in air", detail="CTYPE1 = AWAV; set medium: air")
    if axis in ("WAVE", "AWAV") and algorithm == "LOG":
        wavelength = start * np.exp((wavelength - start) / start)
    parts = {"wavelength": wavelength, "flux": flux}
    for what in ("ivar", "error", "mask"):
        if (name := getattr(config, what)) is not None:
            parts[what] = np.squeeze(_hdu(hdus, name).data)
    return parts, _unit(header.get("CUNIT1"), header.get("DC-FLAG") == 1 or axis[:3] == "LOG")


def _unit(given: Any, is_log: bool = False) -> str:
    """The unit of wavelengths that the file states, or of their log10 (Å, where it says no more).

    Empty if it states none.
    """
    stated = str(given or "").strip()
    if is_log or "log" in stated.lower() or "dex" in stated.lower():
        linear = re.sub(r"log(10)?|dex|\W", "", stated.lower())
        return f"log10_{linear if linear in ('nm', 'um', 'micron') else 'angstrom'}"
    return stated


def _hdu(hdus: Any, which: int | str) -> Any:
    try:
        return hdus[which]
    except (KeyError, IndexError):
        raise BadRecord(f"no HDU {which}", detail=f"HDUs: {_listed(hdus)}") from None


def _listed(hdus: Any) -> str:
    told = (f"{i} {h.name or '-'} {getattr(h, 'shape', '') or ''}" for i, h in enumerate(hdus))
    return ", ".join(line.strip() for line in told)


# ---------------------------------------------------------------------------------------- text


def read_text(config: SpectrumFiles, path: Path) -> tuple[Parts, str]:
    """Columns wavelength, flux and perhaps error, or those that one line of names says.

    White space or commas between them; ``#`` begins a comment. More than three columns need the
    line of names. Wavelengths are in Ångström (log10 of it under a name like loglam).
    """
    names, rows = _numbers(path)
    if not names:
        if len(rows[0]) > 3:
            raise BadRecord("no names of columns", detail=f"{len(rows[0])} columns need them")
        names = ["wavelength", "flux", "error"][: len(rows[0])]
    columns = dict(zip(names, np.array(rows).T, strict=True))
    found, is_log = _roles(config, names)
    return {what: columns[name] for what, name in found.items()}, _unit(None, is_log)


def _numbers(path: Path) -> tuple[list[str], list[list[float]]]:
    """The names, if a line says them, and the rows of numbers, all of one length from 2 on."""
    names: list[str] = []
    rows: list[list[float]] = []
    text = path.read_text(encoding="utf8", errors="replace")
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split("#")[0].replace(",", " ").split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError:
            if names or rows:
                raise BadRecord("a line that is no number", row=number, detail=line[:60]) from None
            names = words
            continue
        expected = len(names) or len(rows[0])
        if len(words) < 2 or len(words) != expected:
            told = f"{len(words)} instead of {max(expected, 2)}: {line[:60]}"
            raise BadRecord("a line with another number of columns", row=number, detail=told)
    if not rows:
        raise BadRecord("no line of numbers", detail="needs columns wavelength and flux")
    return names, rows
