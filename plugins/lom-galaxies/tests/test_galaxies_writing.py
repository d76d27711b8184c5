"""Predicted images are FITS files that astropy, and this plugin itself, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lom_core import Dataset, ModalityConfig, ModalityRegistry


@pytest.mark.parametrize("n_chan", [1, 3])
def test_a_written_image_is_read_back(n_chan: int, tmp_path: Path) -> None:
    config = ModalityConfig.model_validate({"kind": "galaxy_images", "n_chan": n_chan})
    image = np.random.default_rng(0).normal(100, 10, (32, 48, n_chan)).astype(np.float32)
    image[3, 4] = np.nan
    path = config.write(image, tmp_path / "galaxy-q0.05")
    assert path.name == "galaxy-q0.05.fits"
    with fits.open(path) as hdus:
        assert hdus[0].data.shape == ((3, 32, 48) if n_chan == 3 else (32, 48))
        np.testing.assert_array_equal(np.atleast_3d(hdus[0].data.T).transpose(1, 0, 2), image)
    dataset = Dataset.model_validate({"kind": "galaxy_files", "paths": [str(path)]})
    again = config.tokeniser.build().encode(dataset.build(ModalityRegistry([config]))[0]["images"])
    expected = config.tokeniser.build().encode(image)
    np.testing.assert_array_equal(again.content, expected.content)
