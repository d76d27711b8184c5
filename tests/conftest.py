"""Shared by the core's tests: a small user data set with a known answer, and runs on it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core.config import RunConfig

# Irregularly sampled sinusoids, and for two of three a word of five letters that repeats one.
WAVES = """
import numpy as np
import torch
from torch.utils.data import Dataset


class Waves(Dataset):
    def __init__(self, n=40, broken=(), modality_registry=None):
        assert modality_registry is not None
        self.n, self.broken = n, broken

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if i in self.broken:
            raise ValueError(f"cosmic ray in record {i}")
        rng = np.random.default_rng(i)
        t = np.sort(rng.uniform(0, 10, rng.integers(8, 20)))
        y = np.sin(rng.uniform(0.5, 1.5) * t + rng.uniform(0, 6))
        item = {
            "wave": torch.tensor(y[:, None], dtype=torch.float32),
            "wave_positions": torch.tensor(t[:, None], dtype=torch.float32),
            "idx": i,
        }
        if i % 3:
            item["word"] = torch.full((6,), i % 5)
            item["word_positions"] = torch.arange(6)
        return item
"""


@pytest.fixture
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``waves_data:Waves``, importable from a folder of the test's own."""
    (tmp_path / "waves_data.py").write_text(WAVES)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "waves_data", raising=False)
    return "waves_data:Waves"


MODALITIES: dict[str, dict[str, Any]] = {
    "wave": {
        "input_size": 1,
        "position": {"kind": "fourier", "n_frequencies": 8, "min_period": 0.3, "max_period": 30},
        "head": "gaussian",
    },
    "word": {"vocab_size": 5, "position": {"kind": "index", "max_positions": 16}},
}


@pytest.fixture
def make_run(waves: str, tmp_path: Path) -> Callable[..., RunConfig]:
    """A run on the waves; keyword arguments change leaves by section: ``train={"max_iters": 3}``."""

    def make(**sections: dict[str, Any]) -> RunConfig:
        base: dict[str, dict[str, Any]] = {
            "data": {"dataset": {"kind": waves}, "block_size": 64, "batch_size": 4},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 32},
            "optimizer": {"warmup_iters": 2, "lr_decay_iters": 20, "learning_rate": 1e-3},
            "train": {"max_iters": 8, "eval_interval": 100, "log_interval": 100},
            "system": {"out_dir": str(tmp_path / "run"), "dtype": "float32", "device": "cpu"},
        }
        objective = sections.pop("objective", "next_token")
        merged = {k: {**base.get(k, {}), **sections.get(k, {})} for k in base | sections}
        return RunConfig.model_validate(
            {"modalities": MODALITIES, **merged, "objective": objective}
        )

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
