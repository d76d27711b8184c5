"""Spectra: a modality, its windows over wavelength, and readers for what surveys publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from lom_core import (
    Component,
    ConfigError,
    Dataset,
    FileDataset,
    ModalityConfig,
    ModalityRegistry,
    Source,
    Tokeniser,
    hookimpl,
)
from lom_core.roles import Encoder


class SpectrumWindows(Tokeniser, kind="spectrum_windows"):
    """Windows of neighbouring pixels; position = wavelength in micron.

    A spectrum is ``{"flux": (n,), "wavelength": (n,) micron, ascending}`` and optionally ``"ivar"``
    and ``"mask"`` (True = bad). NaN, masked and padded pixels and those of ivar <= 0 have weight 0,
    the others their inverse variance, normalised to mean 1. Decoding gives flux exactly, NaN where
    not observed; wavelengths exactly (float32) with a position per pixel, and with one per window
    exactly on an even grid, else within the window's own unevenness.

    Args:
        patch_size: pixels in a window; the last one is padded.
        pos_input_size: 1, the window's mean wavelength, or ``patch_size``, that of each pixel.
        ivar_clip: weights above so many times their median are cut to that: inverse variances span
            decades, and a few pixels of a bright line would be all of the loss. 0 never cuts.
    """

    patch_size: int = Field(default=32, ge=1)
    pos_input_size: int = Field(default=1, ge=1)
    ivar_clip: float = Field(default=5.0, ge=0)

    @model_validator(mode="after")
    def _position_per_token_or_pixel(self) -> SpectrumWindows:
        if self.pos_input_size not in (1, self.patch_size):
            raise ConfigError(
                f"pos_input_size={self.pos_input_size} must be 1 (a wavelength per window) or "
                f"patch_size={self.patch_size} (one per pixel)"
            )
        return self

    @property
    def width(self) -> int:
        return self.patch_size

    @property
    def pos_width(self) -> int:
        return self.pos_input_size

    def build(self) -> Encoder:
        from lom_spectra.tokeniser import WindowEncoder

        return WindowEncoder(self)


class Spectra(ModalityConfig, kind="spectra"):
    """Spectra in windows, arcsinh-scaled, predicted as a Gaussian for each pixel.

    Args:
        patch_size, pos_input_size, ivar_clip: of :class:`SpectrumWindows`.
        unit: of the flux, for axis labels.
    """

    name: str = "spectra"
    patch_size: int = Field(default=32, ge=1)
    pos_input_size: int = Field(default=1, ge=0)
    ivar_clip: float = Field(default=5.0, ge=0)
    unit: str = "10⁻¹⁷ erg/s/cm²/Å"

    def defaults(self) -> dict[str, Any]:
        per_window = {"kind": "fourier", "min_period": 0.004, "max_period": 4.0}
        per_pixel = {"kind": "mlp", "offset": 0.65, "unit": 0.35}
        return {
            "tokeniser": {
                "kind": "spectrum_windows",
                "patch_size": self.patch_size,
                "pos_input_size": self.pos_input_size or 1,
                "ivar_clip": self.ivar_clip,
            },
            "scale": "arcsinh",
            "position": per_pixel if self.pos_input_size > 1 else per_window,
            "head": "gaussian",
        }

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_spectra.pictures import draw_spectrum

        draw_spectrum(figure, truth, predicted, self.unit)


class SpectrumFiles(FileDataset, kind="spectrum_files"):
    """Spectra from FITS tables, stacked FITS images, 1-D FITS images and text.

    ``auto`` takes, in this order: text by its ending; ``stack``, HDUs named [ARM_]WAVELENGTH and
    [ARM_]FLUX (DESI coadds: B, R, Z); ``table``, the first table with a flux column (SDSS
    ``spec-*.fits``, the guide's ``Flux`` / ``Wave``); ``image``, a 1-D image with a WCS.

    Args:
        format: one of these instead.
        flux, wavelength, ivar, error, mask: column names; known ones are found by themselves.
        hdu: number or name of the FITS extension.
        unit: of the wavelengths; ``auto`` believes the file, else log10 Å for ``loglam``, else Å.
        medium: ``air`` wavelengths are converted to vacuum; SDSS and DESI are in vacuum.
        row: which spectrum of a stack, or ``all``: a record for each.
        wavelength_range: [from, to] in micron; pixels outside are left out.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".fits", ".fits.gz", ".fit"),
        *(".txt", ".dat", ".csv", ".ascii"),
    )

    modality: str = "spectra"
    format: Literal["auto", "text", "stack", "table", "image"] = "auto"
    flux: str | None = None
    wavelength: str | None = None
    ivar: str | None = None
    error: str | None = None
    mask: str | None = None
    hdu: int | str | None = None
    unit: Literal["auto", "angstrom", "nm", "micron", "log10_angstrom"] = "auto"
    medium: Literal["vacuum", "air"] = "vacuum"
    row: int | Literal["all"] = 0
    wavelength_range: tuple[float, float] | None = None

    def count(self, path: Path) -> int:
        from lom_spectra.readers import count_rows

        return count_rows(path) if self.row == "all" else 1

    def read(self, path: Path, row: int) -> Any:
        from lom_spectra.readers import read_spectrum

        return read_spectrum(self, path, row if self.row == "all" else self.row)


class SpectrumSamples(Dataset, kind="spectrum_samples"):
    """Superluminous supernovae, 10 Å pixels, flux in 10⁻¹⁷ erg/s/cm²/Å (see README).

    Args:
        split: ``train`` and ``val`` have no object in common.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "spectra"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_spectra.datasets import open_samples

        return open_samples(self.split, self.modality, registry)


class SndataSpectra(Dataset, kind="sndata_spectra"):
    """The spectra of the SDSS-II supernova survey (Sako et al. 2018) in the package ``sndata``.

    Record ids are ``gal5103-1234`` for a host galaxy and ``sn5103-1234`` for a supernova: object,
    then spectrum.

    Args:
        split: objects are drawn by a hash of their number: 80% train, 10% val, 10% test.
    """

    split: Literal["train", "val", "test", "all"] = "train"
    modality: str = "spectra"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_spectra.datasets import open_sndata

        registry.get_config(self.modality)
        return open_sndata(self.split, self.modality)


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (Spectra, SpectrumWindows, SpectrumFiles, SpectrumSamples, SndataSpectra):
        register(cls)


__all__ = ["SndataSpectra", "Spectra", "SpectrumFiles", "SpectrumSamples", "SpectrumWindows"]
