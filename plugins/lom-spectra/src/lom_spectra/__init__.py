"""Spectra: a modality, its windows over wavelength, and readers for what surveys publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
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
from lom_core.roles import Array, Encoder
from lom_spectra.wavelengths import Unit, from_micron


class SpectrumWindows(Tokeniser, kind="spectrum_windows"):
    """Windows of neighbouring pixels; position = wavelength in micron.

    A spectrum is ``{"flux": (n,), "wavelength": (n,), strictly ascending}`` and optionally
    ``"ivar"`` (n,) and ``"mask"`` (n,), True = bad. NaN, masked and padded pixels and those of
    ivar <= 0 have weight 0, the others their inverse variance, normalised to mean 1.

    Decoding gives flux exactly (float32), NaN where not observed. Wavelengths come back within
    float32 (6e-8, relative) with a position per pixel. With one per window, pixels are set evenly
    about its mean: within float32 on an even grid; within wavelength x (patch_size x step)^2 / 3 on
    one that is even in ln(wavelength) with that step (0.1 Å for 32 pixels of SDSS at 6000 Å); in
    any case within the window and the two beside it. A lone window does not tell its spacing: 1 Å.

    Args:
        patch_size: pixels in a window. The last one is padded; its position is that of a full one.
        pos_input_size: 1, the window's mean wavelength, or ``patch_size``, that of each pixel.
        ivar_clip: weights above so many times their median are cut to that: inverse variances span
            decades, and a few pixels of a bright line would be all of the loss. 0 never cuts.
        wavelength_unit: of the spectra that are encoded and decoded; positions are in micron
            whatever it is. The data sets of this plugin give micron; a column of a Hugging Face
            data set may hold Ångström.
    """

    patch_size: int = Field(default=32, ge=1)
    pos_input_size: int = Field(default=1, ge=1)
    ivar_clip: float = Field(default=5.0, ge=0)
    wavelength_unit: Unit = "micron"

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
        patch_size, pos_input_size, ivar_clip, wavelength_unit: of :class:`SpectrumWindows`.
        unit: of the flux, for axis labels.
    """

    name: str = Field(default="spectra", pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    patch_size: int = Field(default=32, ge=1)
    pos_input_size: int = Field(default=1, ge=0)
    ivar_clip: float = Field(default=5.0, ge=0)
    wavelength_unit: Unit = "micron"
    unit: str = "10⁻¹⁷ erg/s/cm²/Å"

    def defaults(self) -> dict[str, Any]:
        tokeniser = self.tokeniser or SpectrumWindows(
            patch_size=self.patch_size,
            pos_input_size=self.pos_input_size or 1,
            ivar_clip=self.ivar_clip,
            wavelength_unit=self.wavelength_unit,
        )
        # Windows are 0.002 (DESI) to 0.02 micron wide (the samples), the optical 0.3 to 1 micron.
        per_window = {"kind": "fourier", "min_period": 0.004, "max_period": 4.0}
        per_pixel = {"kind": "mlp", "offset": 0.65, "unit": 0.35}
        return {
            "tokeniser": tokeniser,
            "scale": "arcsinh",
            "position": per_pixel if tokeniser.pos_width > 1 else per_window,
            "head": "gaussian",
        }

    def synth(self, rng: np.random.Generator) -> tuple[dict[str, Array], float]:
        """A red continuum with a broad line; the line's place in micron."""
        n = 12 * self.patch_size
        wavelength = np.linspace(0.4, 0.9, n)
        line = float(rng.uniform(0.45, 0.85))
        flux = 5 * wavelength + 10 * np.exp(-0.5 * ((wavelength - line) / 0.02) ** 2)
        flux = (flux + rng.normal(0, 0.3, n)).astype(np.float32)
        return {"flux": flux, "wavelength": from_micron(wavelength, self.wavelength_unit)}, line

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.fits``: a table of WAVELENGTH and FLUX with their units."""
        from lom_spectra.writing import write_spectrum

        unit = getattr(self.tokeniser, "wavelength_unit", "micron")
        return write_spectrum(value, path, unit, self.unit)

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_spectra.pictures import draw_spectrum
        from lom_spectra.wavelengths import to_micron

        unit = getattr(self.tokeniser, "wavelength_unit", "micron")
        at = to_micron(truth["wavelength"], unit)
        draw_spectrum(figure, {**truth, "wavelength": at}, predicted, self.unit)


class SpectrumFiles(FileDataset, kind="spectrum_files"):
    """Spectra from FITS tables, DESI's stacked images, 1-D FITS images and text.

    ``auto`` takes, in this order: ``text`` by its ending; ``desi``, HDUs named [ARM_]WAVELENGTH and
    [ARM_]FLUX, with [ARM_]IVAR and [ARM_]MASK if there are any (coadds, spectra); ``table``, the
    first table with a flux column (SDSS ``spec-*.fits``, the guide's ``Flux`` / ``Wave``);
    ``image``, the first 1-D image, with a WCS.

    Args:
        format: one of these instead.
        flux, wavelength, loglam, ivar, error, mask: names of columns; known ones are found by
            themselves. An ``error`` becomes an ivar; any bit of a mask is bad. Of an ``image``,
            ivar, error and mask name HDUs.
        hdu: number or name of the FITS extension to take.
        unit: of the wavelengths; ``auto`` believes the file, else log10 Å for ``loglam``, else Å
            where they begin at 900 or more: nm, micron or log10 Å would be taken for Å below.
        medium: ``air`` wavelengths are converted to vacuum; SDSS and DESI are in vacuum.
        row: which spectrum of a file that holds many, from 0, or ``all``: a record for each.
            Without it such a file is a bad record, so that none is left out unseen.
        arms: of a DESI file, for instance [B, R]; all by default. Pixels that they share are
            averaged by inverse variance.
        wavelength_range: [from, to] in vacuum micron; pixels outside are left out.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".fits", ".fits.gz", ".fits.fz", ".fit"),
        *(".txt", ".dat", ".csv", ".ascii"),
    )

    modality: str = "spectra"
    format: Literal["auto", "text", "desi", "table", "image"] = "auto"
    flux: str | None = None
    wavelength: str | None = None
    loglam: str | None = None
    ivar: str | None = None
    error: str | None = None
    mask: str | None = None
    hdu: int | str | None = None
    unit: Literal["auto", "angstrom", "nm", "micron", "log10_angstrom"] = "auto"
    medium: Literal["vacuum", "air"] = "vacuum"
    row: Annotated[int, Field(ge=0)] | Literal["all"] | None = None
    arms: list[str] | None = Field(default=None, min_length=1)
    wavelength_range: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _ascending(self) -> SpectrumFiles:
        if self.wavelength_range and not self.wavelength_range[0] < self.wavelength_range[1]:
            raise ConfigError(
                f"wavelength_range {list(self.wavelength_range)} must be [from, to] in micron"
            )
        return self

    def count(self, path: Path) -> int:
        from lom_spectra.readers import count_rows

        return count_rows(self, path) if self.row == "all" else 1

    def read(self, path: Path, row: int) -> Any:
        from lom_spectra.readers import read_spectrum

        return read_spectrum(self, path, row if self.row == "all" else self.row)


class SpectrumSamples(Dataset, kind="spectrum_samples"):
    """Superluminous supernovae, 10 Å pixels, flux in 10⁻¹⁷ erg/s/cm²/Å (see README).

    Each record has the label ``redshift``.

    Args:
        split: ``train`` and ``val`` have no object in common.
        modality: the modality of the run that they are.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "spectra"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_spectra.datasets import SampleSource

        registry.get_config(self.modality)
        return SampleSource(self.split, self.modality)


class SndataSpectra(Dataset, kind="sndata_spectra"):
    """The spectra of the SDSS-II supernova survey (Sako et al. 2018) in the package ``sndata``.

    Flux is in 10⁻¹⁷ erg/s/cm²/Å. Record ids are ``gal5103-1234`` for a host galaxy and
    ``sn5103-1234`` for a supernova: object, then spectrum; the labels ``class`` (supernova or
    galaxy: what it was extracted for) and ``object_id`` say the same. 66 of the 1,566 are not
    calibrated and are bad records; a run needs ``max_bad_fraction: 0.1``.

    Args:
        split: objects are drawn by a hash of their number: 80% train, 10% val, 10% test.
        modality: the modality of the run that they are.

    Errors:
        ConfigError: the package is not installed; says how to get it.
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
