"""Light curves and series keep every promise of a modality."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lom_core import Dataset, ModalityConfig, ModalityRegistry
from lom_core.testing import conforms

torch.set_num_threads(1)  # tiny models: more threads wait for one another
BANDS = ["g", "r", "i", "z", "cyan", "orange"]


def config(kind: str, **fields: Any) -> ModalityConfig:
    return ModalityConfig.model_validate({"kind": kind, "name": "m", **fields})


def values(modality: ModalityConfig, n: int, **fields: Any) -> list[Any]:
    samples = Dataset.model_validate({"modality": "m", **fields})
    source = samples.build(ModalityRegistry([modality]))
    return [source[i]["m"] for i in range(n)]


SUPERNOVAE = values(config("light_curve", bands=BANDS), 5, kind="light_curve_samples")
KEPLER = values(config("light_curve"), 4, kind="light_curve_samples", which="kepler")
ECG = values(config("series"), 5, kind="ecg_samples")
GAPS = [np.where(np.abs(v["values"]) > 100, np.nan, v["values"])[:100] for v in ECG]
TWO = [np.concatenate([v["values"], v["values"][::-1]], axis=1) for v in ECG]
CHECKS = [
    *conforms(config("light_curve", bands=BANDS), SUPERNOVAE),
    *conforms(
        config("light_curve", bands=BANDS, normalise="robust"),
        SUPERNOVAE,
        expect_failures={
            "check_recovers_the_latent": "the number is a magnitude, which normalising takes away"
        },
    ),
    *conforms(config("light_curve"), KEPLER),
    *conforms(config("series", patch_size=16), ECG),
    *conforms(config("series", patch_size=16), GAPS),
    *conforms(config("series", patch_size=12, leads=["a", "b"], across=True), TWO),
    *conforms(config("series", patch_size=12, leads=["a", "b"]), TWO),
]


@pytest.mark.parametrize("check", CHECKS)
def test_conforms(check: Callable[[], None]) -> None:
    check()
