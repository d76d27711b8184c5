"""Galaxies as the Hugging Face hub has them: a column of pictures beside an identifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core import Dataset, ModalityConfig, ModalityRegistry, RunConfig
from lom_core.train import train

datasets = pytest.importorskip("datasets")
IMAGES = ModalityConfig.model_validate({"kind": "galaxy_images", "name": "images", "patch_size": 8})
REGISTRY = ModalityRegistry([IMAGES])


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """What `Smith42/galaxies` looks like: features `image` (Image) and `dr8_id` (string)."""
    from PIL import Image

    samples = Dataset.model_validate("galaxy_samples").build(REGISTRY)
    rows = {
        "image": [Image.fromarray(samples[i]["images"]) for i in range(12)],
        "dr8_id": [f"1000_{i}" for i in range(12)],
    }
    path = tmp_path / "train-00000-of-00001.parquet"
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.to_parquet(str(path))
    return path


def hub(path: Path, streaming: bool) -> dict[str, Any]:
    return {
        "kind": "hub",
        "path": "parquet",
        "data_files": str(path),
        "columns": {"images": "image"},
        "id_column": "dr8_id",
        "streaming": streaming,
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_pictures_come_back_exactly(parquet: Path, streaming: bool) -> None:
    source = Dataset.model_validate(hub(parquet, streaming)).build(REGISTRY)
    samples = Dataset.model_validate("galaxy_samples").build(REGISTRY)
    encoder = IMAGES.tokeniser.build()
    for i in (0, 3, 11):
        record = source[i]
        assert record["id"] == f"1000_{i}"
        decoded = encoder.decode(encoder.encode(record["images"]))
        assert np.array_equal(decoded, samples[i]["images"])


@pytest.mark.parametrize("streaming", [False, True])
def test_a_run_streams_and_resumes(parquet: Path, tmp_path: Path, streaming: bool) -> None:
    def run(max_iters: int, init_from: str) -> RunConfig:
        return RunConfig.model_validate(
            {
                "modalities": {"images": IMAGES},
                "data": {
                    "dataset": hub(parquet, streaming),
                    "eval": {"val": hub(parquet, False)},
                    "block_size": 34,
                    "batch_size": 2,
                },
                "model": {"n_layer": 1, "n_head": 2, "n_embd": 16},
                "train": {"max_iters": max_iters, "init_from": init_from},
                "system": {"out_dir": str(tmp_path / "run"), "device": "cpu"},
            }
        )

    assert train(run(2, "scratch")).step == 2
    # 5 steps of four pictures pass the end of the set and start it over.
    result = train(run(5, "resume"))
    assert result.step == 5 and result.tally.n_bad == 0 and result.tally.seen >= 20
