"""Make the samples that ship: supernova spectra of slsne, and three rows of a DESI coadd.

    python tools/make_samples.py FOLDER/OF/slsne FOLDER/OF/specutils

The folders are the packages as installed or unzipped: slsne (MIT) and specutils (BSD).
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

OUT = Path(__file__).parent.parent / "src" / "lom_spectra" / "samples"
GRID = np.arange(3600.0, 9200.0, 10.0)  # Å, centres of the pixels
ARMS = {"B": slice(2200, 2751), "R": slice(0, 700), "Z": slice(0, 300)}


def supernovae(package: Path) -> list[tuple[str, str, np.ndarray]]:
    """(object, name, flux on GRID) of each published spectrum with physical flux and coverage."""
    found = []
    for path in sorted((package / "ref_data" / "supernovae").glob("*/*.txt")):
        if not re.search(r"\d{4}\.\d{4}", path.name):
            continue
        table = np.genfromtxt(path)
        wave, flux = table[:, 0], table[:, 1] / 1e-17
        good = np.isfinite(flux)
        wave, flux = wave[good], flux[good]
        covers = wave.min() < 4300 and wave.max() > 8300
        if (np.diff(wave) <= 0).any() or not covers:
            continue
        rebinned = rebin(wave, flux)
        # erg/s/cm2/Å, not counts or a continuum of 1: a median of 1e-18 to 1e-14.
        if 0.1 < np.nanmedian(rebinned) < 1000 and signal_to_noise(rebinned) > 5:
            found.append((path.parent.name, path.stem, rebinned.astype(np.float32)))
    return found


def rebin(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """The mean of the pixels in each bin of 10 Å, interpolated where a bin has none."""
    which = np.floor((wave - GRID[0] + 5) / 10).astype(int)
    inside = (which >= 0) & (which < len(GRID))
    count = np.bincount(which[inside], minlength=len(GRID))
    total = np.bincount(which[inside], flux[inside], minlength=len(GRID))
    mean = np.where(count > 0, total / np.maximum(count, 1), np.interp(GRID, wave, flux))
    return np.where((GRID < wave[0]) | (GRID > wave[-1]), np.nan, mean)


def signal_to_noise(flux: np.ndarray) -> float:
    """Median flux over the noise that neighbouring pixels tell."""
    noise = np.abs(flux[1:-1] - (flux[:-2] + flux[2:]) / 2) / np.sqrt(1.5)
    return float(np.nanmedian(flux) / (1.4826 * np.nanmedian(noise)))


def write_supernovae(found: list[tuple[str, str, np.ndarray]]) -> None:
    """One stack a split; the objects of `val` (one in five, by a hash) are in no other."""
    for split in ("train", "val"):
        chosen = [row for row in found if is_val(row[0]) == (split == "val")]
        names = [name for _, name, _ in chosen]
        objects = [target for target, _, _ in chosen]
        flux = fits.ImageHDU(np.stack([f for *_, f in chosen]), name="FLUX")
        flux.header["BUNIT"] = "1e-17 erg/(s cm2 Angstrom)"
        wave = fits.ImageHDU(GRID, name="WAVELENGTH")
        wave.header["BUNIT"] = "Angstrom"
        columns = [
            fits.Column("NAME", "64A", array=np.array(names)),
            fits.Column("OBJECT", "16A", array=np.array(objects)),
        ]
        table = fits.BinTableHDU.from_columns(columns, name="CATALOGUE")
        hdus = fits.HDUList([fits.PrimaryHDU(), wave, flux, table])
        hdus.writeto(OUT / f"supernovae_{split}.fits", overwrite=True)
        print(split, len(chosen), "spectra of", len(set(objects)), "objects")


def is_val(target: str) -> bool:
    return hashlib.blake2b(target.encode(), digest_size=4).digest()[0] % 5 == 0


def write_desi(package: Path) -> None:
    """The observed rows of a DESI coadd in its own layout, fewer pixels of each arm."""
    folder = package / "io" / "default_loaders" / "tests" / "desi_test_data"
    with fits.open(folder / "coadd-sv3-dark-26065.fits") as source:
        rows = np.flatnonzero(np.median(source["R_IVAR"].data, axis=1) > 0)
        kept = [fits.PrimaryHDU()]
        targets = source["FIBERMAP"].data["TARGETID"][rows]
        column = fits.Column("TARGETID", "K", array=targets)
        kept.append(fits.BinTableHDU.from_columns([column], name="FIBERMAP"))
        for arm, cut in ARMS.items():
            for what in ("WAVELENGTH", "FLUX", "IVAR", "MASK"):
                hdu = source[f"{arm}_{what}"]
                data = hdu.data[cut] if what == "WAVELENGTH" else hdu.data[rows][:, cut]
                new = fits.ImageHDU(np.ascontiguousarray(data), name=hdu.name)
                if "BUNIT" in hdu.header:
                    new.header["BUNIT"] = hdu.header["BUNIT"]
                kept.append(new)
        fits.HDUList(kept).writeto(OUT / "desi-coadd.fits", overwrite=True)
        print("DESI rows", rows, targets)


if __name__ == "__main__":
    write_supernovae(supernovae(Path(sys.argv[1])))
    write_desi(Path(sys.argv[2]))
