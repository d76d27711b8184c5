"""Readers: FITS, JPEG, PNG, and the sample that ships."""

from __future__ import annotations

import json
import warnings
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, Record
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_galaxies import GalaxyFiles


def read_galaxy(config: GalaxyFiles, path: Path) -> Any:
    """(H, W) or (H, W, C) as stored, or a mapping with its mask.

    Errors:
        BadRecord: a damaged or empty file, a wrong HDU, bands of different shapes.
    """
    bands = [read_image(config, file) for file in config.files(path)]
    if not config.bands:
        return crop(bands[0], config.image_size)
    images = [b["image"] if isinstance(b, dict) else b for b in bands]
    if len({image.shape for image in images}) > 1:
        told = ", ".join(f"{b} {i.shape}" for b, i in zip(config.bands, images, strict=True))
        raise BadRecord("bands of different shapes", detail=told)
    stacked = np.stack([np.squeeze(image) for image in images], axis=-1)
    masks = [b["mask"] for b in bands if isinstance(b, dict)]
    if masks:
        return crop({"image": stacked, "mask": np.stack(masks, axis=-1)}, config.image_size)
    return crop(stacked, config.image_size)


def read_image(config: GalaxyFiles, path: Path) -> Any:
    """One file, by its ending."""
    name = path.name.lower()
    if name.endswith((".jpg", ".jpeg")):
        return read_jpeg(path)
    if name.endswith(".png"):
        from PIL import Image

        with Image.open(path) as image:
            return np.asarray(image.convert("RGB") if image.mode in ("P", "RGBA") else image)
    return read_fits(path, config.hdu, config.mask_hdu)


def read_jpeg(path: Path) -> Array:
    """(H, W, 3) or (H, W, 1) uint8; a truncated file is an error, never filled with grey."""
    import simplejpeg

    data = path.read_bytes()
    if not simplejpeg.is_jpeg(data):
        raise BadRecord("no JPEG, or cut short", detail=f"{len(data)} bytes")
    colour = simplejpeg.decode_jpeg_header(data)[2]
    return np.asarray(simplejpeg.decode_jpeg(data, "GRAY" if colour == "Gray" else "RGB"))


def read_fits(path: Path, hdu: int | str | None, mask_hdu: int | str | None) -> Any:
    """(H, W), or (H, W, C) of a cube (C, H, W); ``{"image", "mask"}`` with a mask extension."""
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        # astropy fills or skips what is cut short and only warns.
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        warnings.filterwarnings("error", message="Error validating header", category=Warning)
        try:
            with fits.open(path, memmap=False) as hdus:
                image = _data(hdus, hdu)
                mask = None if mask_hdu is None else _data(hdus, mask_hdu) != 0
        except (AstropyUserWarning, OSError, TypeError, ValueError) as error:
            if isinstance(error, BadRecord):
                raise
            raise BadRecord("damaged FITS file", detail=" ".join(str(error).split())) from error
    if image.ndim == 3:
        image = np.moveaxis(image, 0, -1)
    return image if mask is None else {"image": image, "mask": mask}


def _data(hdus: Any, which: int | str | None) -> Array:
    """The image of an HDU; says which there are if it is not there."""
    listed = ", ".join(
        f"{i} {h.name or '-'} ({'image' if h.is_image and h.header.get('NAXIS') else 'no image'})"
        for i, h in enumerate(hdus)
    )
    if which is None:
        found = next((h for h in hdus if h.is_image and h.data is not None), None)
        if found is None:
            raise BadRecord("no HDU with an image", detail=f"it has {listed}")
    else:
        try:
            found = hdus[which]
        except (KeyError, IndexError):
            raise BadRecord(f"no HDU {which}", detail=f"it has {listed}") from None
        if not found.is_image or found.data is None:
            raise BadRecord(f"HDU {which} is no image", detail=f"it has {listed}")
    if found.data.ndim not in (2, 3):
        raise BadRecord("an image needs 2 or 3 axes", detail=f"shape {found.data.shape}")
    return np.asarray(found.data)


def crop(value: Any, side: int | None) -> Any:
    """The centre of an image, or of each array of a mapping."""
    if side is None:
        return value
    if isinstance(value, dict):
        return {key: crop(part, side) for key, part in value.items()}
    height, width = value.shape[:2]
    if height < side or width < side:
        raise BadRecord("image smaller than image_size", detail=f"{height} x {width}, {side} asked")
    top, left = (height - side) // 2, (width - side) // 2
    return value[top : top + side, left : left + side]


class SampleSource:
    """The tiles of a split's sheet, in the catalogue's order."""

    def __init__(self, split: str, modality: str) -> None:
        from PIL import Image

        folder = resources.files("lom_galaxies") / "samples"
        self.modality = modality
        self.catalogue = json.loads((folder / "catalogue.json").read_text(encoding="utf8"))[split]
        with (folder / f"{split}.png").open("rb") as file:
            self.sheet = np.asarray(Image.open(file))

    def __len__(self) -> int:
        return len(self.catalogue)

    def __getitem__(self, index: int) -> Record:
        side, across = 32, self.sheet.shape[1] // 32
        top, left = (side * i for i in divmod(index, across))
        x, y = self.catalogue[index]
        tile = self.sheet[top : top + side, left : left + side]
        return {self.modality: tile, "id": f"hdf-x{x:03}-y{y:03}"}
