"""Images -> FITS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from einops import rearrange

from lom_core.roles import Array


def write_image(image: Array, path: Path) -> Path:
    """``PATH.fits`` of (H, W, C): a cube (C, H, W), as FITS stores them; one channel as a plane."""
    from astropy.io import fits

    cube = rearrange(np.asarray(image), "h w c -> c h w")
    path = path.with_name(path.name + ".fits")
    fits.PrimaryHDU(cube[0] if len(cube) == 1 else cube).writeto(path, overwrite=True)
    return path
