"""Zarr: the sample that ships, converted by xarray, and stores that are damaged."""

from __future__ import annotations

import shutil
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_climate import ClimateFiles, ClimateGrid

from lom_core import BadRecord, DataError, LomError, ModalityRegistry

pytest.importorskip("zarr")
ONE = ModalityRegistry([ClimateGrid(name="sst", channels=("sst",), patch_size=6)])
NUMBER = count()


def opened(path: Path, **fields: Any) -> Any:
    given = {"paths": str(path), "variables": ["sst"], "modality": "sst", "units": {"sst": "K"}}
    return ClimateFiles.model_validate({**given, **fields}).build(ONE)


@pytest.fixture(scope="module", params=[2, 3])
def store(request: Any, tmp_path_factory: Any) -> Path:
    """The real sample as a store of either version of the format, a chunk a year and half the belt."""
    import lom_climate
    import xarray

    path: Path = tmp_path_factory.mktemp("zarr") / f"v{request.param}.zarr"
    sample = Path(lom_climate.__file__).parent / "samples" / "tropical_sst.nc"
    with xarray.open_dataset(sample, decode_times=False) as data:
        chunks = tuple(min(n, m) for n, m in zip(data["sst"].shape, (12, 18, 108), strict=True))
        data["sst"].encoding.clear()
        data.to_zarr(path, zarr_format=request.param, encoding={"sst": {"chunks": chunks}})
    return path


def test_a_store_reads_as_the_file_it_was_made_of(store: Path) -> None:
    import lom_climate

    sample = Path(lom_climate.__file__).parent / "samples" / "tropical_sst.nc"
    ours, theirs = opened(store), opened(sample)
    assert len(ours) == len(theirs) == 52
    for i in (0, 25, 51):
        one, two = ours[i], theirs[i]
        assert one["id"] == two["id"]
        for key in ("values", "lat", "lon", "time"):
            assert np.allclose(one["sst"][key], two["sst"][key], atol=1e-3, equal_nan=True), key


def test_stores_that_lack_something(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_bytes(b"no folder")
    for name in ("empty.zarr", "file.zarr", "none.zarr"):
        with pytest.raises(DataError, match=name):
            opened(tmp_path / name)
    with pytest.raises(DataError, match="no variable 'tos'; it has sst"):
        opened(store, variables=["tos"])


def files(store: Path) -> list[Path]:
    return sorted(p for p in store.rglob("*") if p.is_file())


def test_a_chunk_that_cannot_be_decoded_is_a_bad_record(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    shutil.copytree(store, path)
    source = opened(path)
    chunk = max(files(path), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-100])
    reasons = set()
    for i in range(len(source)):
        try:
            source[i]
        except BadRecord as error:
            reasons.add(error.reason)
    assert reasons == {"cannot be read"}


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    which=st.integers(0, 10**6),
    edits=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
    cut=st.none() | st.integers(0, 10**6),
)
def test_damaged_bytes_raise_only_our_errors(
    store: Path, tmp_path: Path, which: int, edits: list[tuple[int, int]], cut: int | None
) -> None:
    path = tmp_path / f"{next(NUMBER)}.zarr"
    shutil.copytree(store, path)
    file = files(path)[which % len(files(path))]
    content = bytearray(file.read_bytes())
    for at, byte in edits:
        content[at % len(content)] = byte
    file.write_bytes(content[: None if cut is None else cut % len(content)])
    with suppress(LomError):
        source = opened(path)
        for i in range(0, len(source), 9):
            with suppress(LomError):
                ONE.get_config("sst").tokeniser.build().encode(source[i]["sst"])
