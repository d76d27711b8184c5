"""Galaxy images keep every promise of a modality."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lom_core import Dataset, ModalityConfig, ModalityRegistry
from lom_core.testing import conforms

IMAGES = ModalityConfig.model_validate({"kind": "galaxy_images", "name": "images", "patch_size": 8})
SAMPLES = Dataset.model_validate("galaxy_samples").build(ModalityRegistry([IMAGES]))
VALUES = [SAMPLES[i]["images"] for i in range(6)]
# Odd sizes, NaN and floats too: the edges are padded with weight 0.
RAGGED = [np.where(v[:21, :29] > 200, np.nan, v[:21, :29]).astype(np.float32) for v in VALUES]


@pytest.mark.parametrize("check", [*conforms(IMAGES, VALUES), *conforms(IMAGES, RAGGED)])
def test_conforms(check: Callable[[], None]) -> None:
    check()
