"""Make the samples that ship: supernova spectra of slsne, and two rows of a DESI coadd.

    python tools/make_samples.py slsne-0.3-py3-none-any.whl specutils-2.4.0-py3-none-any.whl

The wheels are those of the packages slsne 0.3 (MIT) and specutils 2.4.0 (BSD); DATA_LICENSES holds
their notices. Nothing else is read, and the same wheels give the same samples.

Supernovae: every file of `ref_data/supernovae/OBJECT` that has a date in its name, is in physical
flux, covers 4300 to 8300 Å and has a signal-to-noise ratio above 5; there is one an object. Flux is
divided by 1e-17 erg/s/cm2/Å, averaged in bins of 10 Å (interpolated between pixels that are at most
60 Å apart, as those of the coarsest spectra; NaN in wider gaps and beyond the ends) and else
left as published: wavelengths as observed, not in the rest frame; air or vacuum unstated (they
differ by less than 3 Å); extinction and host galaxy in it. Errors are left out: few of the files
have some, and their third columns mean different things.

DESI: the rows of coadd-sv3-dark-26065 that were observed, in DESI's own layout with its own values,
cut to some pixels of each arm: B and R overlap as in the original, Z is apart from R.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

OUT = Path(__file__).parent.parent / "src" / "lom_spectra" / "samples"
GRID = np.arange(3600.0, 9200.0, 10.0)  # Å, centres of the pixels
WIDEST = 60.0  # Å between two pixels, beyond which nothing was observed between them
ARMS = {"B": slice(2200, 2751), "R": slice(0, 700), "Z": slice(0, 300)}
COADD = "specutils/io/default_loaders/tests/desi_test_data/coadd-sv3-dark-26065.fits"


@dataclass
class Spectrum:
    target: str
    name: str
    redshift: float
    flux: np.ndarray  # (len(GRID),) 1e-17 erg/s/cm2/Å


def supernovae(wheel: zipfile.ZipFile) -> list[Spectrum]:
    """Each published spectrum with physical flux and coverage, by object."""
    redshifts = read_redshifts(wheel.read("slsne/ref_data/sne_data.txt").decode())
    found = []
    for path in sorted(wheel.namelist()):
        match = re.fullmatch(r"slsne/ref_data/supernovae/([^/]+)/(.*\d{4}\.\d{4}.*)\.txt", path)
        if match is None:
            continue
        table = np.genfromtxt(io.BytesIO(wheel.read(path)))
        wave, flux = table[:, 0], table[:, 1] / 1e-17
        wave, flux = wave[np.isfinite(flux)], flux[np.isfinite(flux)]
        if (np.diff(wave) <= 0).any() or wave.min() >= 4300 or wave.max() <= 8300:
            continue
        binned = rebin(wave, flux)
        # erg/s/cm2/Å, not counts or a continuum of 1: a median of 1e-18 to 1e-14.
        if 0.1 < np.nanmedian(binned) < 1000 and signal_to_noise(binned) > 5:
            found.append(Spectrum(match[1], match[2], redshifts[match[1]], binned))
    return found


def read_redshifts(table: str) -> dict[str, float]:
    """Object -> redshift, of a table with a line of names."""
    rows = [line.split() for line in table.splitlines() if line.strip()]
    column = rows[0].index("Redshift")
    return {row[0]: float(row[column]) for row in rows[1:]}


def rebin(wave: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """The mean of the pixels in each bin of 10 Å; see above for bins that have none."""
    which = np.floor((wave - GRID[0] + 5) / 10).astype(int)
    inside = (which >= 0) & (which < len(GRID))
    count = np.bincount(which[inside], minlength=len(GRID))
    total = np.bincount(which[inside], flux[inside], minlength=len(GRID))
    after = np.clip(np.searchsorted(wave, GRID), 1, len(wave) - 1)
    gap = wave[after] - wave[after - 1] > WIDEST
    between = np.where(gap, np.nan, np.interp(GRID, wave, flux, left=np.nan, right=np.nan))
    return np.where(count > 0, total / np.maximum(count, 1), between)


def signal_to_noise(flux: np.ndarray) -> float:
    """Median flux over the noise that neighbouring pixels tell."""
    noise = np.abs(flux[1:-1] - (flux[:-2] + flux[2:]) / 2) / np.sqrt(1.5)
    return float(np.nanmedian(flux) / (1.4826 * np.nanmedian(noise)))


def is_val(target: str) -> bool:
    """One object in five, by a hash of its name."""
    return hashlib.blake2b(target.encode(), digest_size=4).digest()[0] % 5 == 0


def write_supernovae(found: list[Spectrum]) -> None:
    """One stack a split; the objects of `val` are in no other."""
    for split in ("train", "val"):
        chosen = [s for s in found if is_val(s.target) == (split == "val")]
        flux = fits.ImageHDU(np.stack([s.flux.astype(np.float32) for s in chosen]), name="FLUX")
        flux.header["BUNIT"] = "1e-17 erg/(s cm2 Angstrom)"
        wave = fits.ImageHDU(GRID, name="WAVELENGTH")
        wave.header["BUNIT"] = "Angstrom"
        columns = [
            fits.Column("NAME", "64A", array=np.array([s.name for s in chosen])),
            fits.Column("OBJECT", "16A", array=np.array([s.target for s in chosen])),
            fits.Column("REDSHIFT", "E", array=np.array([s.redshift for s in chosen])),
        ]
        table = fits.BinTableHDU.from_columns(columns, name="CATALOGUE")
        hdus = fits.HDUList([fits.PrimaryHDU(), wave, flux, table])
        hdus.writeto(OUT / f"supernovae_{split}.fits", overwrite=True)
        ratios = np.percentile([signal_to_noise(s.flux) for s in chosen], [10, 50, 90])
        unseen = np.mean([np.isnan(s.flux).mean() for s in chosen])
        told = f"signal-to-noise (10, 50, 90%) {ratios.round(1)}, {unseen:.1%} not observed"
        print(split, len(chosen), "spectra of", len({s.target for s in chosen}), "objects,", told)


def write_desi(coadd: bytes) -> None:
    """The observed rows of a DESI coadd in its own layout, fewer pixels of each arm."""
    with fits.open(io.BytesIO(coadd)) as source:
        rows = np.flatnonzero(np.median(source["R_IVAR"].data, axis=1) > 0)
        targets = source["FIBERMAP"].data["TARGETID"][rows]
        column = fits.Column("TARGETID", "K", array=targets)
        kept = [fits.PrimaryHDU(), fits.BinTableHDU.from_columns([column], name="FIBERMAP")]
        for arm, cut in ARMS.items():
            for what in ("WAVELENGTH", "FLUX", "IVAR", "MASK"):
                hdu = source[f"{arm}_{what}"]
                data = hdu.data[cut] if what == "WAVELENGTH" else hdu.data[rows][:, cut]
                new = fits.ImageHDU(np.ascontiguousarray(data), name=hdu.name)
                if "BUNIT" in hdu.header:
                    new.header["BUNIT"] = hdu.header["BUNIT"]
                kept.append(new)
    fits.HDUList(kept).writeto(OUT / "desi-coadd.fits", overwrite=True)
    print("DESI rows", rows, "targets", targets)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with zipfile.ZipFile(sys.argv[1]) as slsne:
        write_supernovae(supernovae(slsne))
    with zipfile.ZipFile(sys.argv[2]) as specutils:
        write_desi(specutils.read(COADD))
