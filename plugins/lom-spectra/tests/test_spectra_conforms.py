"""Spectra keep every promise of a modality, with a position a window and a position a pixel."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lom_core import Dataset, ModalityConfig, ModalityRegistry
from lom_core.testing import conforms

WINDOWS = ModalityConfig.model_validate({"kind": "spectra", "name": "spectra", "patch_size": 16})
PIXELS = ModalityConfig.model_validate(
    {"kind": "spectra", "name": "spectra", "patch_size": 16, "pos_input_size": 16}
)
SAMPLES = Dataset.model_validate("spectrum_samples").build(ModalityRegistry([WINDOWS]))
VALUES = [SAMPLES[i]["spectra"] for i in range(6)]


@pytest.mark.parametrize("check", [*conforms(WINDOWS, VALUES), *conforms(PIXELS, VALUES)])
def test_conforms(check: Callable[[], None]) -> None:
    check()
