"""Galaxy images: a modality, its patches, and readers for FITS, JPEG and PNG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

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
from lom_core.files import FileSource
from lom_core.roles import Array, Encoder

Order = Literal["raster", "spiral"]
Positions = Literal["grid", "index"]


class ImagePatches(Tokeniser, kind="image_patches"):
    """Patches of an image, channels interleaved (last axis fastest).

    An image is an array (H, W) or (H, W, C), C first accepted where it cannot be mistaken, a masked
    array, a PIL image, the ``{"bytes": ...}`` of Hugging Face, or ``{"image": ..., "mask": True =
    bad, "weight": ...}``. NaN, masked and padded pixels have weight 0. ``decode(encode(image))`` is
    exact, on whole patches: (rows x patch_size, columns x patch_width, C), NaN where not observed.

    Args:
        patch_size, patch_width: height and width of a patch in pixels; square without a width.
        n_chan: channels.
        order: ``raster``, or ``spiral`` from the centre outwards.
        positions: ``grid``, (patch row, patch column), or ``index``, the place in the order.
        grid_shape: rows and columns of patches, which ``index`` positions do not tell; needed
            where images are not square, or longer than a row of the run and so cropped.
    """

    patch_size: int = Field(default=16, ge=1)
    patch_width: int | None = Field(default=None, ge=1)
    n_chan: int = Field(default=3, ge=1)
    order: Order = "raster"
    positions: Positions = "grid"
    grid_shape: tuple[int, int] | None = None

    @property
    def width(self) -> int:
        return self.patch_size * (self.patch_width or self.patch_size) * self.n_chan

    @property
    def pos_width(self) -> int:
        return 2 if self.positions == "grid" else 1

    @property
    def n_channels(self) -> int:
        return self.n_chan

    def build(self) -> Encoder:
        from lom_galaxies.tokeniser import PatchEncoder

        return PatchEncoder(self)


class GalaxyImages(ModalityConfig, kind="galaxy_images"):
    """Images as patches, arcsinh-scaled per channel, predicted under a Huber loss.

    Args:
        patch_size, patch_width, n_chan, positions, grid_shape: of :class:`ImagePatches`.
        spiral: the guide's name for ``order: spiral``.
    """

    name: str = "images"
    patch_size: int = Field(default=16, ge=1)
    patch_width: int | None = Field(default=None, ge=1)
    n_chan: int = Field(default=3, ge=1)
    spiral: bool = False
    positions: Positions = "grid"
    grid_shape: tuple[int, int] | None = None

    def defaults(self) -> dict[str, Any]:
        grid = {"kind": "fourier", "n_frequencies": 24, "min_period": 2.0, "max_period": 128.0}
        return {
            "tokeniser": {
                "kind": "image_patches",
                "patch_size": self.patch_size,
                "patch_width": self.patch_width,
                "n_chan": self.n_chan,
                "order": "spiral" if self.spiral else "raster",
                "positions": self.positions,
                "grid_shape": self.grid_shape,
            },
            "scale": "arcsinh",
            "position": grid if self.positions == "grid" else "index",
            "head": "huber",
        }

    def synth(self, rng: np.random.Generator) -> tuple[Array, float]:
        """A round galaxy with a Gaussian profile on a noisy sky; its radius in pixels."""
        high, wide = 4 * self.patch_size, 4 * (self.patch_width or self.patch_size)
        radius = float(rng.uniform(0.05, 0.3) * min(high, wide))
        y, x = np.ogrid[:high, :wide]
        offset = (x - wide / 2 + 0.5) ** 2 + (y - high / 2 + 0.5) ** 2
        galaxy = 200.0 * np.exp(-offset / (2 * radius**2))
        image = galaxy[..., None] + rng.normal(20.0, 4.0, (high, wide, self.n_chan))
        return np.clip(image, 0, 255).astype(np.uint8), radius

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.fits``: (C, H, W), NaN where not observed."""
        from lom_galaxies.writing import write_image

        return write_image(value, path)

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_galaxies.pictures import draw_image

        draw_image(figure, truth, predicted)


class GalaxyFiles(FileDataset, kind="galaxy_files"):
    """Images from FITS, JPEG and PNG files, as (H, W, C) in the dtype they were stored in.

    Args:
        hdu: number or name of the FITS extension; the first with an image without it. Cubes are
            (C, H, W), as FITS stores them.
        bands: one file a band: each path holds ``{band}``, replaced by each name in turn. Every
            band is one image of one shape.
        mask_hdu: extension of the same file in which every pixel that is not 0 is bad.
        weight_hdu: extension of the same file with the weight of each pixel, such as its inverse
            variance; 0 is not observed.
        image_size: side of a centred crop; an image that is smaller is a bad record.
    """

    suffixes: ClassVar[tuple[str, ...]] = (
        *(".fits", ".fits.gz", ".fits.fz", ".fit", ".fts"),
        *(".jpg", ".jpeg", ".png"),
    )

    modality: str = "images"
    hdu: int | str | None = None
    bands: list[str] = []
    mask_hdu: int | str | None = None
    weight_hdu: int | str | None = None
    image_size: int | None = Field(default=None, ge=1)

    def build(self, registry: ModalityRegistry) -> Source:
        source = super().build(registry)
        assert isinstance(source, FileSource)
        for path, _ in source.items if self.bands else ():
            if path is not None and "{band}" not in str(path):
                raise ConfigError(f"bands are set, so each path must hold {{band}}: {path}")
        return source

    def files(self, path: Path) -> list[Path]:
        """One file, or one for each band."""
        found = [Path(str(path).replace("{band}", band)) for band in self.bands] or [path]
        if self.bands and isinstance(self.paths, str) and not path.is_absolute():
            # A path list may stand beside its files; its reader cannot look for a pattern.
            beside = [Path(self.paths).expanduser().parent / file for file in found]
            if not found[0].exists() and beside[0].exists():
                return beside
        return found

    def stem(self, path: Path) -> str:
        """``ngc1300`` of ``ngc1300_{band}.fits``."""
        return re.sub(r"[-_.]?\{band\}[-_.]?", "", super().stem(path))

    def read(self, path: Path, row: int) -> Any:
        from lom_galaxies.datasets import read_galaxy

        return read_galaxy(self, path)


class GalaxySamples(Dataset, kind="galaxy_samples"):
    """Galaxies of the Hubble eXtreme Deep Field, 32 x 32 pixels, 3 channels, uint8 (see README).

    Args:
        split: ``train`` and ``val`` are disjoint strips of the sky.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "images"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_galaxies.datasets import SampleSource

        registry.get_config(self.modality)
        return SampleSource(self.split, self.modality)


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (GalaxyImages, ImagePatches, GalaxyFiles, GalaxySamples):
        register(cls)


__all__ = ["GalaxyFiles", "GalaxyImages", "GalaxySamples", "ImagePatches"]
