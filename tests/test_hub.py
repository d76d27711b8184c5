"""Hugging Face data sets: downloaded and streamed alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core import ConfigError, DataError, Dataset

from .test_sources import REGISTRY


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    rows = [
        {"flux": [float(i)] * (2 + i % 3), "name": f"obj{i}", "other": None if i == 3 else [1.0]}
        for i in range(12)
    ]
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    return tmp_path


def hub(folder: Path, **options: Any) -> Any:
    base = {
        "kind": "hub",
        "path": "parquet",
        "data_files": str(folder / "train.parquet"),
        "columns": {"x": "flux", "y": "other"},
        "id_column": "name",
    }
    return Dataset.model_validate({**base, **options}).build(REGISTRY)


def test_local_parquet_by_columns(parquet: Path) -> None:
    source = hub(parquet)
    assert len(source) == 12 and source[5]["id"] == "obj5"
    assert np.asarray(source[5]["x"]).tolist() == [5.0] * 4
    assert "y" not in source[3] and "y" in source[4]


def test_streamed_parquet_gives_the_same_records(parquet: Path) -> None:
    downloaded, stream = hub(parquet), hub(parquet, streaming=True)
    for i in (0, 1, 2, 7, 5):
        assert np.asarray(stream[i]["x"]).tolist() == np.asarray(downloaded[i]["x"]).tolist()
    assert not stream.reaches(12) and len(stream) == 12


def test_a_column_that_is_not_there(parquet: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no column 'fluxx'; did you mean 'flux'\?; it has: flux, name"
    ):
        hub(parquet, columns={"x": "fluxx"})


def test_several_columns_make_one_modality(parquet: Path) -> None:
    record = hub(parquet, columns={"x": {"flux": "flux", "label": "name"}})[1]
    assert record["x"]["label"] == "obj1" and np.asarray(record["x"]["flux"]).tolist() == [1.0] * 3


def test_a_set_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parquet \(train\)"):
        hub(tmp_path)
