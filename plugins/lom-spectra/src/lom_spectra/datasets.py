"""The spectra that ship, and those of the package sndata."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import zipfile
from importlib import resources
from pathlib import Path, PurePosixPath

import numpy as np

from lom_core import BadRecord, ConfigError, ModalityRegistry, Record, Source
from lom_spectra import SpectrumFiles
from lom_spectra.readers import opened


def open_samples(split: str, modality: str, registry: ModalityRegistry) -> Source:
    """The stack of a split, with the objects' names as ids."""
    path = Path(str(resources.files("lom_spectra") / "samples" / f"supernovae_{split}.fits"))
    stack = SpectrumFiles(paths=[str(path)], row="all", modality=modality).build(registry)
    with opened(path) as hdus:
        names = [str(name) for name in hdus["CATALOGUE"].data["NAME"]]
    return NamedSource(stack, names)


class NamedSource:
    """A source under ids of its own."""

    def __init__(self, source: Source, names: list[str]) -> None:
        self.source, self.names = source, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        return {**self.source[index], "id": self.names[index]}


def open_sndata(split: str, modality: str) -> Source:
    """ConfigError without the package; it is found, never imported (its imports are heavy)."""
    spec = importlib.util.find_spec("sndata")
    folders = list(spec.submodule_search_locations or []) if spec else []
    archive = Path(folders[0]) / "sdss" / "Spectra_txt.zip" if folders else None
    if archive is None or not archive.is_file():
        raise ConfigError("dataset 'sndata_spectra' needs `pip install lom-spectra[sndata]`")
    return ZipSource(archive, split, modality)


class ZipSource:
    """Two-column text (wavelength in Å, flux) in a zip, opened anew in each worker.

    Members are only read in memory, never extracted.
    """

    def __init__(self, archive: Path, split: str, modality: str) -> None:
        self.archive, self.modality = archive, modality
        self._open: zipfile.ZipFile | None = None
        with zipfile.ZipFile(archive) as file:
            names = sorted(n for n in file.namelist() if n.endswith(".txt"))
        self.names = [n for n in names if split in ("all", split_of(n))]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Record:
        name = self.names[index]
        self._open = self._open or zipfile.ZipFile(self.archive)
        try:
            table = np.loadtxt(io.BytesIO(self._open.read(name)), usecols=(0, 1), ndmin=2)
        except (ValueError, zipfile.BadZipFile) as error:
            raise BadRecord("cannot be read", file=name, detail=str(error)) from error
        table = table[::-1] if _reversed(table) else table
        value = {"wavelength": table[:, 0] * 1e-4, "flux": table[:, 1].astype(np.float32)}
        return {self.modality: value, "id": PurePosixPath(name).stem}


def _reversed(table: np.ndarray) -> bool:
    return bool(len(table) > 1 and (np.diff(table[:, 0]) < 0).all())


def split_of(name: str) -> str:
    """train, val or test, by the object alone: ``gal5103-12`` and ``sn5103-7`` go together."""
    target = PurePosixPath(name).stem.split("-")[0].removeprefix("gal").removeprefix("sn")
    draw = hashlib.blake2b(target.encode(), digest_size=4).digest()[0] % 10
    return {0: "val", 1: "test"}.get(draw, "train")
