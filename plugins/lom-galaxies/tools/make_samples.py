"""Make the sample that ships: 32 x 32 cutouts around objects of the Hubble eXtreme Deep Field.

    python tools/make_samples.py PATH/TO/hubble_deep_field.jpg

The image is the one that scikit-image carries (skimage.data.hubble_deep_field): NASA / ESA (see
DATA_LICENSES), 1000 x 872 pixels, 8 bits a channel, stretched for display. Needs pillow and scipy.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits
from PIL import Image
from scipy import ndimage

SIDE, ACROSS, BORDER = 32, 20, 800  # held-out objects lie right of BORDER
MOST = {"train": 0.4, "val": 0.1}  # of a cutout may be another's: held-out ones are to be apart
OUT = Path(__file__).parent.parent / "src" / "lom_galaxies" / "samples"


def objects(grey: np.ndarray, most: float) -> list[tuple[int, int]]:
    """(x, y) of maxima 8 sigma above the sky, brightest first; two share ``most`` of a cutout."""
    smooth = ndimage.gaussian_filter(grey, 1.5)
    sky = np.median(smooth)
    sigma = 1.4826 * np.median(np.abs(smooth - sky))
    peaks = (smooth == ndimage.maximum_filter(smooth, 9)) & (smooth > sky + 8 * sigma)
    # Single hot pixels and diffraction spikes are not extended.
    extended = ndimage.uniform_filter((smooth > sky + 4 * sigma).astype(float), 7) > 0.6
    found = np.argwhere(peaks & extended)
    found = found[np.argsort(-smooth[tuple(found.T)])]
    kept: list[tuple[int, int]] = []
    for y, x in found:
        if all(shared(x - a, y - b) <= most * SIDE**2 for a, b in kept):
            kept.append((int(x), int(y)))
    return kept


def shared(dx: int, dy: int) -> int:
    """Pixels that two cutouts whose centres are so far apart have in common."""
    return max(0, SIDE - abs(dx)) * max(0, SIDE - abs(dy))


def main(path: str) -> None:
    image = np.asarray(Image.open(path))
    height, width = image.shape[:2]
    half = SIDE // 2
    strips = {"train": (half, BORDER - half), "val": (BORDER + half, width - half)}
    catalogue = {}
    for split, (left, right) in strips.items():
        places = [
            (x, y)
            for x, y in objects(image.mean(axis=2), MOST[split])
            if left <= x < right and half <= y < height - half
        ]
        catalogue[split] = sorted(places, key=lambda p: (p[1], p[0]))
        rows = -(-len(places) // ACROSS)
        sheet = np.zeros((rows * SIDE, ACROSS * SIDE, 3), np.uint8)
        for i, (x, y) in enumerate(catalogue[split]):
            top, side = (SIDE * n for n in divmod(i, ACROSS))
            cut = image[y - half : y + half, x - half : x + half]
            sheet[top : top + SIDE, side : side + SIDE] = cut
        Image.fromarray(sheet).save(OUT / f"{split}.png", optimize=True)
    (OUT / "catalogue.json").write_text(json.dumps(catalogue))
    x, y = catalogue["val"][0]
    cut = image[y - half : y + half, x - half : x + half]
    for channel, name in enumerate(("red", "green", "blue")):
        plane = fits.PrimaryHDU(np.ascontiguousarray(cut[..., channel]))
        plane.header["OBJECT"] = f"xdf-x{x:03}-y{y:03}"
        plane.header["CHANNEL"] = (name, "of the display image: no photometric band")
        plane.writeto(OUT / f"one_galaxy_{name}.fits", overwrite=True)
    print({split: len(places) for split, places in catalogue.items()})


if __name__ == "__main__":
    main(sys.argv[1])
