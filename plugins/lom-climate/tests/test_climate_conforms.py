"""Climate grids keep every promise of a modality."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from lom_core import ModalityConfig
from lom_core.testing import conforms

TWO = ModalityConfig.model_validate(
    {"kind": "climate_grid", "name": "two", "channels": ["u", "v"], "patch_size": 4}
)


def ragged(seed: int) -> dict[str, object]:
    """A regional grid across Greenwich that does not fill its patches, with gaps."""
    rng = np.random.default_rng(seed)
    values = rng.normal(280, 5, (2, 2, 10, 13)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = np.nan
    lon = (350 + 2 * np.arange(13)) % 360
    return {"values": values, "lat": np.arange(10) * 2.0, "lon": lon, "time": [0, 6 + seed]}


def bent(seed: int) -> dict[str, object]:
    """The same on a rotated grid of two-dimensional coordinates."""
    y, x = np.mgrid[:10, :13]
    return {**ragged(seed), "lat": 40 + y + 0.3 * x, "lon": 5 + x - 0.4 * y}


SLOW = ("check_recovers_the_latent", "check_learns")  # of the modality, whatever the grid
RAGGED = conforms(TWO, [ragged(i) for i in range(3)])
BENT = [c for c in conforms(TWO, [bent(i) for i in range(3)]) if c.__name__ not in SLOW]


@pytest.mark.parametrize("check", [*RAGGED, *BENT])
def test_conforms(check: Callable[[], None]) -> None:
    check()
