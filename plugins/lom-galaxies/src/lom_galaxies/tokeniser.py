"""Images <-> patches."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from PIL import Image

from lom_core import BadRecord, ConfigError, Tokens
from lom_core.roles import Array
from lom_galaxies.datasets import decode_picture, picture_pixels

if TYPE_CHECKING:
    from lom_galaxies import ImagePatches


class PatchEncoder:
    """What ImagePatches configures."""

    def __init__(self, config: ImagePatches) -> None:
        self.config = config
        self.high, self.wide = config.patch_size, config.patch_width or config.patch_size

    def encode(self, value: Any) -> Tokens:
        """Tokens (n, high * wide * c) with positions (n, 2) or (n, 1).

        Errors:
            BadRecord: no image, another number of channels, smaller than a patch, all unobserved,
                or index positions that ``grid_shape`` would not lead back to this shape.
        """
        image, weight = as_image(value, self.config.n_chan)
        height, width = image.shape[:2]
        if height < self.high or width < self.wide:
            raise BadRecord(
                "image smaller than a patch",
                detail=f"{height} x {width} pixels, a patch is {self.high} x {self.wide}",
            )
        pad = ((0, -height % self.high), (0, -width % self.wide), (0, 0))
        if weight is None and any(after for _, after in pad):
            weight = np.ones(image.shape, np.float32)
        content = self._patches(np.pad(image, pad))
        weights = None if weight is None else self._patches(np.pad(weight, pad))
        rows, columns = -(-height // self.high), -(-width // self.wide)
        if self.config.positions == "index":
            expected = self.config.grid_shape or (rows, rows)
            if (rows, columns) != expected:
                raise BadRecord(
                    "index positions do not tell the image's shape",
                    detail=f"set grid_shape=[{rows}, {columns}], or positions=grid",
                )
        order = patch_order(rows, columns, self.config.order)
        if self.config.positions == "grid":
            positions = np.stack(np.divmod(order, columns), axis=1)
        else:
            positions = np.arange(len(order))[:, None]
        chosen = None if weights is None else weights[order]
        return Tokens(content[order], positions.astype(np.float32), chosen)

    def decode(self, tokens: Tokens) -> Array:
        """(rows * high, columns * wide, c), as stored if all of it was observed.

        Otherwise NaN where not observed, in a float that holds the rest exactly.
        """
        rows, columns, place = self._grid(tokens)
        content = tokens.content
        observed = np.broadcast_to(tokens.observed, content.shape)
        if observed.all() and len(place) == rows * columns:
            grid = np.empty_like(content)
            grid[place] = content
        else:  # tokens are missing where the observation was cropped
            dtype = np.result_type(content, np.float32)
            grid = np.full((rows * columns, content.shape[1]), np.nan, dtype)
            grid[place] = np.where(observed, content, np.asarray(np.nan, dtype))
        return rearrange(
            grid,
            "(r c) (h w k) -> (r h) (c w) k",
            r=rows,
            h=self.high,
            w=self.wide,
        )

    def _patches(self, image: Array) -> Array:
        pattern = "(r h) (c w) k -> (r c) (h w k)"
        return np.asarray(rearrange(image, pattern, h=self.high, w=self.wide))

    def _grid(self, tokens: Tokens) -> tuple[int, int, Array]:
        """Rows and columns of patches, and where in them (row-major) each token belongs."""
        at = np.rint(tokens.positions).astype(np.int64)
        if self.config.positions == "grid":
            rows, columns = (int(n) + 1 for n in at.max(axis=0))
            return rows, columns, at[:, 0] * columns + at[:, 1]
        n = int(at.max()) + 1
        side = round(n**0.5)
        if self.config.grid_shape is None and side * side != n:
            raise ConfigError(
                f"{n} index positions are no square: set grid_shape=[rows, columns], "
                "or positions=grid"
            )
        rows, columns = self.config.grid_shape or (side, side)
        return rows, columns, patch_order(rows, columns, self.config.order)[at[:, 0]]


@lru_cache(maxsize=64)
def patch_order(rows: int, columns: int, order: str) -> Array:
    """(rows * columns,) patch numbers, row-major, in the order in which they are read.

    The spiral runs from the centre outwards; neighbours in it are neighbours in the image. It is
    computed backwards, as the inward spiral from the corner: ring k is left after the patches
    outside it, and goes round its top, right, bottom and left side.
    """
    if order == "raster":
        return _shared(np.arange(rows * columns))
    r, c = np.divmod(np.arange(rows * columns), columns)
    k = np.minimum.reduce([r, c, rows - 1 - r, columns - 1 - c])
    high, wide = rows - 2 * k, columns - 2 * k  # of the ring
    before = rows * columns - high * wide
    along = np.select(
        [r == k, c == columns - 1 - k, r == rows - 1 - k],
        [c - k, (wide - 1) + (r - k), (wide - 1) + (high - 1) + (columns - 1 - k - c)],
        2 * (wide - 1) + (high - 1) + (rows - 1 - k - r),
    )
    return _shared(np.argsort(before + along)[::-1])


def _shared(order: Array) -> Array:
    order.flags.writeable = False  # the cache hands it to everyone
    return order


def as_image(value: Any, n_chan: int) -> tuple[Array, Array | None]:
    """(H, W, C) in its own dtype, and its weights (H, W, C) float32, None where all are 1.

    Errors:
        BadRecord: it is no image, or has another number of channels.
    """
    mask = weight = None
    if isinstance(value, Mapping) and "image" in value:
        mask, weight = value.get("mask"), value.get("weight")
        value = value["image"]
    image = to_array(value)
    if image.dtype.kind not in "uifb":
        raise BadRecord("no image", detail=f"values are {image.dtype}")
    image = _channels_last(image[..., None] if image.ndim == 2 else image, n_chan)
    if image.ndim != 3 or image.shape[-1] != n_chan:
        raise BadRecord("another number of channels", detail=f"{image.shape}, n_chan is {n_chan}")
    pixels = _native(np.ma.getdata(image))
    good = ~np.ma.getmaskarray(image)
    if pixels.dtype.kind == "f":
        good &= np.isfinite(pixels)
    if mask is not None:
        good &= _spread(to_array(mask), pixels.shape, "mask") == 0
    given = None
    if weight is not None:
        # float64 until the mean is 1: inverse variances in cgs units overflow float32.
        given = _spread(to_array(weight), pixels.shape, "weight").astype(np.float64)
        good &= np.isfinite(given) & (given > 0)
    if not good.any():
        raise BadRecord("no observed pixel")
    if given is None:
        return pixels, None if good.all() else good.astype(np.float32)
    relative = np.divide(given, given[good].mean(), where=good, out=np.zeros_like(given))
    return pixels, relative.astype(np.float32)


def to_array(value: Any) -> Array:
    """An array, masked or not, of an array, nested lists, a PIL image or the bytes of one.

    Errors:
        BadRecord: a damaged picture, or lists of different lengths.
    """
    if isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return decode_picture(value)
    if isinstance(value, Image.Image):
        return picture_pixels(value)
    try:
        image: Array = np.ma.asanyarray(value)
    except ValueError as error:
        raise BadRecord("no image", detail=str(error)) from error
    return image


def _channels_last(image: Array, n_chan: int) -> Array:
    """Moves the channels of (C, H, W) last where the shape leaves no other reading."""
    first = image.ndim == 3 and image.shape[0] == n_chan != image.shape[-1]
    return np.moveaxis(image, 0, -1) if first else image


def _spread(extra: Array, shape: tuple[int, ...], what: str) -> Array:
    """A mask or weight (H, W), (H, W, 1), (H, W, C) or (C, H, W) as (H, W, C)."""
    extra = extra[..., None] if extra.ndim == 2 else extra
    if extra.shape[:2] != shape[:2]:
        extra = _channels_last(extra, shape[-1])
    if extra.ndim != 3 or extra.shape[:2] != shape[:2] or extra.shape[-1] not in (1, shape[-1]):
        raise BadRecord(f"{what} of another shape", detail=f"{extra.shape} for {shape}")
    return np.broadcast_to(extra, shape)


def _native(pixels: Array) -> Array:
    """float32 or whole numbers that torch knows, in the machine's byte order.

    Errors:
        BadRecord: whole numbers that int64 does not hold.
    """
    kinds = {
        **{"f8": "f4", "f16": "f4", "f2": "f4"},
        **{"u2": "i4", "u4": "i8", "u8": "i8", "b1": "u1"},
    }
    code = pixels.dtype.str[1:]
    if code == "u8" and pixels.size and pixels.max() > np.iinfo(np.int64).max:
        raise BadRecord("whole numbers beyond int64", detail=f"up to {pixels.max()}")
    with np.errstate(over="ignore"):  # beyond float32 becomes inf, and so not observed
        return np.ascontiguousarray(pixels, dtype=np.dtype(kinds.get(code, code)))
