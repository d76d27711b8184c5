"""Readers: FITS, JPEG, PNG, and the sample that ships."""

from __future__ import annotations

import gzip
import io
import json
import struct
import warnings
import zlib
from importlib import resources
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lom_core import BadRecord, Record
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_galaxies import GalaxyFiles

Parts: TypeAlias = dict[str, Array]
"""``image``, and ``mask`` (True = bad) and ``weight`` where there are any."""

PNG, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"

# What Pillow and astropy raise for damaged files, besides exceptions of their own.
DAMAGED = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError),
    *(struct.error, zlib.error),
)


def read_galaxy(config: GalaxyFiles, path: Path) -> Any:
    """(H, W) or (H, W, C) as stored, or a mapping of it and its ``mask``, ``weight`` or both.

    Errors:
        BadRecord: a damaged or empty file, a wrong HDU, bands of different shapes.
    """
    read = [read_parts(config, file) for file in config.files(path)]
    parts = _stack(config.bands, read) if config.bands else read[0]
    parts = {name: crop(part, config.image_size) for name, part in parts.items()}
    return parts if len(parts) > 1 else parts["image"]


def read_parts(config: GalaxyFiles, path: Path) -> Parts:
    """What one file holds, by its ending; errors name this file, be it one band of many."""
    try:
        if not path.name.lower().endswith((".jpg", ".jpeg", ".png")):
            return read_fits(path, config.hdu, config.mask_hdu, config.weight_hdu)
        if config.mask_hdu is not None or config.weight_hdu is not None:
            raise BadRecord("a picture has no HDU", detail="mask_hdu and weight_hdu need FITS")
        return {"image": decode_picture(path.read_bytes())}
    except BadRecord as error:
        raise BadRecord(error.reason, file=path, row=error.row, detail=error.detail) from error


def _stack(names: list[str], bands: list[Parts]) -> Parts:
    """Bands as one image (H, W, C), with a mask and weight of its shape where they have them."""
    planes = [{name: _plane(part) for name, part in band.items()} for band in bands]
    shapes = [plane["image"].shape for plane in planes]
    if len(shapes[0]) != 2 or len(set(shapes)) > 1:
        told = ", ".join(f"{n} {shape}" for n, shape in zip(names, shapes, strict=True))
        reason = "bands of different shapes" if len(shapes[0]) == 2 else "a band needs one channel"
        raise BadRecord(reason, detail=told)
    return {name: np.stack([p[name] for p in planes], axis=-1) for name in planes[0]}


def _plane(image: Array) -> Array:
    return image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image


def decode_picture(data: bytes) -> Array:
    """(H, W) or (H, W, 3) of a JPEG or PNG in memory, or what a FITS file in memory holds.

    Errors:
        BadRecord: it is damaged or cut short; nothing is ever filled with grey.
    """
    from PIL import Image

    try:
        if data.startswith(b"\xff\xd8\xff"):
            import simplejpeg

            grey = simplejpeg.decode_jpeg_header(data)[2] == "Gray"
            return _plane(simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB"))
        if data.startswith(b"SIMPLE  ="):
            return read_fits(io.BytesIO(data))["image"]
        if data.startswith(PNG) and PNG_END not in data:  # Pillow may not miss it
            raise BadRecord("damaged image", detail="cut short: no IEND chunk")
        with Image.open(io.BytesIO(data)) as image:
            return picture_pixels(image)
    except BadRecord:
        raise
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise BadRecord("damaged image", detail=_told(error)) from error


def picture_pixels(image: Any) -> Array:
    """(H, W) or (H, W, 3) of a PIL image: palettes become colours, transparency is dropped.

    Errors:
        BadRecord: it is damaged, or of a kind whose numbers Pillow changes.
    """
    if image.format == "FITS":  # Pillow flips it and knows neither signs, BZERO nor cubes
        raise BadRecord("FITS opened by Pillow", detail="pass its bytes, or use galaxy_files")
    if image.mode in ("RGB", "RGBA", "LA") and ";16" in str(getattr(image, "tile", "")):
        raise BadRecord("16 bits a colour", detail="Pillow keeps 8; store FITS, or one band a file")
    try:
        image.load()  # Pillow decodes late: a damaged image fails here, not in open()
    except DAMAGED as error:
        raise BadRecord("damaged image", detail=_told(error)) from error
    if image.mode not in ("1", "L", "I", "F", "RGB") and not image.mode.startswith("I;16"):
        image = image.convert("L" if image.mode in ("LA", "La") else "RGB")
    return np.asarray(image)


def read_fits(
    source: Path | IO[bytes],
    hdu: int | str | None = None,
    mask_hdu: int | str | None = None,
    weight_hdu: int | str | None = None,
) -> Parts:
    """Image (H, W), or (H, W, C) of a cube (C, H, W), and the mask and weight asked for.

    Errors:
        BadRecord: cut short or otherwise damaged, or without the HDUs asked for.
    """
    from astropy.io import fits
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        # astropy fills or skips what is cut short and only warns.
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        warnings.filterwarnings("error", message="Error validating header", category=Warning)
        try:
            with _opened(source) as file, fits.open(file, memmap=False) as hdus:
                parts = {"image": _data(hdus, hdu)}
                if mask_hdu is not None:
                    parts["mask"] = _data(hdus, mask_hdu) != 0
                if weight_hdu is not None:
                    parts["weight"] = _data(hdus, weight_hdu)
        except BadRecord:
            raise
        except (*DAMAGED, AstropyUserWarning, fits.VerifyError) as error:
            raise BadRecord("damaged FITS file", detail=_told(error)) from error
    shape = parts["image"].shape
    for name, part in parts.items():
        if part.shape not in (shape, shape[:2]):
            raise BadRecord(f"{name} of another shape", detail=f"{part.shape} for {shape}")
    return parts


def _opened(source: Path | IO[bytes]) -> IO[bytes]:
    """The file, which astropy itself would leave open on an error."""
    if not isinstance(source, Path):
        return source
    if source.name.lower().endswith(".gz"):  # as a whole, or its checksum is never read
        return io.BytesIO(gzip.decompress(source.read_bytes()))
    return source.open("rb")


def _data(hdus: Any, which: int | str | None) -> Array:
    """The image of an HDU, channels last; says which HDUs there are if it is not there."""
    if which is None:
        found = next((h for h in hdus if h.is_image and h.data is not None), None)
        if found is None:
            raise BadRecord("no HDU with an image", detail=_listed(hdus))
    else:
        try:
            found = hdus[which]
        except (KeyError, IndexError):
            raise BadRecord(f"no HDU {which}", detail=_listed(hdus)) from None
        if not found.is_image or found.data is None:
            raise BadRecord(f"HDU {which} is no image", detail=_listed(hdus))
    image = np.asarray(found.data)
    if image.ndim not in (2, 3):
        raise BadRecord("an image needs 2 or 3 axes", detail=f"shape {image.shape}")
    return np.moveaxis(image, 0, -1) if image.ndim == 3 else image


def _listed(hdus: Any) -> str:
    told = (
        f"{i} {h.name or '-'} ({'image' if h.is_image and h.header.get('NAXIS') else 'no image'})"
        for i, h in enumerate(hdus)
    )
    return f"it has {', '.join(told)}"


def _told(error: BaseException) -> str:
    """An exception on one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def crop(image: Array, side: int | None) -> Array:
    """The centre (side, side) of an image (H, W) or (H, W, C)."""
    if side is None:
        return image
    height, width = image.shape[:2]
    if height < side or width < side:
        raise BadRecord("image smaller than image_size", detail=f"{height} x {width}, {side} asked")
    top, left = (height - side) // 2, (width - side) // 2
    return image[top : top + side, left : left + side]


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
        index = range(len(self))[index]  # IndexError beyond the end; -1 is the last
        side, across = 32, self.sheet.shape[1] // 32
        top, left = (side * i for i in divmod(index, across))
        x, y = self.catalogue[index]
        tile = self.sheet[top : top + side, left : left + side]
        return {self.modality: tile, "id": f"xdf-x{x:03}-y{y:03}"}
