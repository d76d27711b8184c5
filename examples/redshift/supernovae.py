"""Superluminous supernovae of the catalogue package slsne, a record an object.

``kind: supernovae:Supernovae`` in a run file constructs the data set with the fields beside the
kind. A record holds what a telescope saw, nothing that was brought to the rest frame: magnitudes
over days since the first epoch, a spectrum over observed wavelengths divided by its own median;
and, as the answer, the redshift. Dates, names, surveys and places on the sky are left out.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from lom_core import ConfigError, ModalityRegistry

Array = NDArray[Any]
BANDS = ("u", "g", "r", "i", "z", "y", "w", "G", "B", "V", "cyan", "orange")  # AB
VEGA = ("B", "V", "R", "I")
GRID = np.arange(3500.0, 9500.0, 10.0)  # Å, observed
EPOCHS = 64  # of an object at most, so that an observation fits in a row
DERIVED = re.compile(r".*_(bol|model|params|rest)\.txt")  # of models that know the redshift


def split_of(name: str) -> str:
    """``train`` (60%), ``val`` (20%) or ``test`` (20%) by a hash of the object's name."""
    share = hashlib.blake2b(name.encode(), digest_size=4).digest()[0] / 256
    return "train" if share < 0.6 else "val" if share < 0.8 else "test"


class Supernovae(Dataset[dict[str, Any]]):
    """Objects of one or more splits.

    Args:
        folder: the folder of the package slsne 0.3, which holds ref_data; that which is installed
            if empty. Nothing of the package is imported.
        split: ``train``, ``val``, ``test``, or several: ``val+test``.
        copies: how often each object is read in an epoch, each time changed by a seed of its own.
        jitter: standard deviation of the change of ln(1 + z): wavelengths and times are stretched,
            magnitudes follow the distance. 0 leaves objects as they are.
        thin: the share of epochs that a copy loses is drawn from 0 to this.
    """

    def __init__(
        self,
        modality_registry: ModalityRegistry,
        folder: str = "",
        split: str = "train",
        copies: int = 1,
        jitter: float = 0.0,
        thin: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.objects = [o for o in read_objects(folder) if split_of(o["id"]) in split.split("+")]
        self.copies, self.jitter, self.thin = copies, jitter, thin
        self.seed = seed

    def __len__(self) -> int:
        return len(self.objects) * self.copies

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, copy = index % len(self.objects), index // len(self.objects)
        rng = np.random.default_rng([self.seed, number, copy])
        return observe(self.objects[number], rng, self.jitter, self.thin)


def observe(
    found: dict[str, Any], rng: np.random.Generator, jitter: float, thin: float
) -> dict[str, Any]:
    """A record of an object, as it would be seen at a redshift near its own if ``jitter``."""
    z = found["redshift"]
    new = z if jitter == 0 else float(np.clip((1 + z) * np.exp(rng.normal(0, jitter)) - 1, 0.02, 4))
    stretch = (1 + new) / (1 + z)
    record: dict[str, Any] = {"id": found["id"], "redshift": new}
    if found["curve"] is not None:
        curve = dict(found["curve"])
        keep = rng.random(len(curve["time"])) >= (thin and rng.uniform(0, thin))
        if keep.any():
            curve = {name: column[keep] for name, column in curve.items()}
        # Flux per frequency from a spectrum that is flat in it: (1 + z) / distance squared.
        far = distance_modulus(new) - distance_modulus(z) - 2.5 * np.log10(stretch)
        curve["time"], curve["value"] = curve["time"] * stretch, curve["value"] + far
        record["light_curves"] = curve
    if found["spectrum"] is not None:
        wavelength, flux = found["spectrum"]
        binned = rebin(wavelength * stretch, flux)
        if usable(binned):
            record["spectra"] = {
                "flux": (binned / np.nanmedian(binned)).astype(np.float32),
                "wavelength": GRID * 1e-4,
            }
    return record


def distance_modulus(z: float) -> float:
    """Magnitudes; Planck 2018, between redshifts 0.01 and 5 (within 0.001 mag)."""
    grid, modulus = _moduli()
    return float(np.interp(np.log(z), grid, modulus))


@lru_cache(maxsize=1)
def _moduli() -> tuple[Array, Array]:
    from astropy.cosmology import Planck18

    z = np.geomspace(0.01, 5, 500)
    return np.log(z), Planck18.distmod(z).value


def rebin(wavelength: Array, flux: Array) -> Array:
    """(len(GRID),): the mean of the pixels in each bin, between them the line, NaN beyond."""
    edges = np.concatenate([GRID - 5, [GRID[-1] + 5]])
    which = np.searchsorted(edges, wavelength, side="right") - 1
    inside = (which >= 0) & (which < len(GRID))
    count = np.bincount(which[inside], minlength=len(GRID))
    total = np.bincount(which[inside], flux[inside], minlength=len(GRID))
    between = np.interp(GRID, wavelength, flux, left=np.nan, right=np.nan)
    return np.where(count > 0, total / np.maximum(count, 1), between)


# ------------------------------------------------------------------------------ the package's files


def read_objects(folder: str) -> list[dict[str, Any]]:
    """Each object with a spectroscopic redshift and a light curve or a spectrum, by name."""
    spec = None if folder else find_spec("slsne")
    root = Path(folder or (spec and spec.origin and Path(spec.origin).parent) or ".") / "ref_data"
    if not (root / "sne_data.txt").is_file():
        raise ConfigError(
            f"{root}/sne_data.txt is not there: pip install --no-deps slsne==0.3, or name its "
            "folder with folder"
        )
    rows = [line.split() for line in (root / "sne_data.txt").read_text().splitlines() if line]
    column = {name: i for i, name in enumerate(rows[0])}
    found = []
    for row in sorted(rows[1:]):
        name, method = row[column["Name"]], row[column["Method"]]
        place = root / "supernovae" / name
        if method in ("Photo-z", "Unknown") or not place.is_dir():
            continue
        paths = sorted(p for p in place.glob(f"{name}_*.txt") if not DERIVED.fullmatch(p.name))
        spectrum = read_spectrum(paths[0]) if paths else None  # 0.3 has one an object at most
        curve = read_curve(place / f"{name}.txt")
        if curve is not None or spectrum is not None:
            z = float(row[column["Redshift"]])
            found.append({"id": name, "redshift": z, "curve": curve, "spectrum": spectrum})
    return found


def read_curve(path: Path) -> dict[str, Array] | None:
    """Nightly means of each band of what was detected; None of fewer than three.

    Magnitudes are as observed but for the dust of our own galaxy.
    """
    nights: dict[tuple[int, str], list[tuple[float, float, float]]] = {}
    for row in (line.split() for line in path.read_text().splitlines()[1:]):
        time, mag, error, band, limit, system, ignore = (
            *(float(row[i]) for i in (0, 1, 3)),
            *row[6:10],
        )
        known = band in BANDS if system == "AB" else system == "Vega" and band in VEGA
        if known and limit == ignore == "False" and np.isfinite([mag, error]).all() and error > 0:
            key = int(np.floor(time)), band if system == "AB" else f"{band}_vega"
            nights.setdefault(key, []).append((time, mag, max(error, 0.02)))
    if len(nights) < 3:
        return None
    means = []
    for (_, band), seen in nights.items():
        time, mag, error = np.array(seen).T
        weight = 1 / error**2
        told = np.average(time, weights=weight), np.average(mag, weights=weight)
        means.append((*told, weight.sum() ** -0.5, band))
    means.sort()
    if len(means) > EPOCHS:
        means = [means[i] for i in np.linspace(0, len(means) - 1, EPOCHS).round().astype(int)]
    time, value, error, band = zip(*means, strict=True)
    days = np.array(time) - time[0]
    return {
        "time": days,
        "value": np.array(value),
        "error": np.array(error),
        "band": np.array(band),
    }


def read_spectrum(path: Path) -> tuple[Array, Array] | None:
    """Å as observed and flux in any unit; None where less than 2000 Å of the grid were observed."""
    table = np.genfromtxt(path, comments="#", usecols=(0, 1), invalid_raise=False)
    table = table[np.isfinite(table).all(axis=1)]
    wavelength, first = np.unique(table[:, 0], return_index=True)
    binned = rebin(wavelength, table[first, 1])
    return (wavelength, table[first, 1]) if usable(binned) else None


def usable(binned: Array) -> bool:
    """Whether 2000 Å of the grid were observed, with flux in them."""
    return bool(np.isfinite(binned).sum() >= 200 and np.nanmedian(binned) > 0)
