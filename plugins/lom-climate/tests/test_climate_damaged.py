"""Damaged NetCDF-4: the C library may hang or die on it, a data set may not."""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_climate import ClimateFiles, ClimateGrid, datasets
from lom_climate import probe as probing

from lom_core import DataError, LomError, ModalityRegistry

ONE = ModalityRegistry([ClimateGrid(channels=("t",), patch_size=2)])
GRIB = Path(__file__).parent / "data" / "polar_stereo.grib2"
NUMBER = count()


def write(path: Path, first: int = 0, n: int = 4) -> bytes:
    """As MERRA-2 and ERA5 have it: chunks, deflate, dimension scales; its bytes."""
    with netCDF4.Dataset(path, "w") as out:
        for name, size in (("time", None), ("lat", 9), ("lon", 12)):
            out.createDimension(name, size)
        out.createVariable("time", "i4", ("time",))[:] = first + np.arange(n)
        out["time"].units = "hours since 2001-01-01"
        for name, axis in (("lat", np.linspace(80, -80, 9)), ("lon", np.arange(0, 360, 30.0))):
            out.createVariable(name, "f8", (name,))[:] = axis
        out["lat"].units, out["lon"].units = "degrees_north", "degrees_east"
        t = out.createVariable(
            "t", "f4", ("time", "lat", "lon"), fill_value=1e15, zlib=True, chunksizes=(1, 5, 6)
        )
        t[:] = np.random.default_rng(first).normal(280, 9, (n, 9, 12))
        t.units = "K"
    return path.read_bytes()


def config(paths: list[Path], **fields: Any) -> ClimateFiles:
    given = {"paths": [str(p) for p in paths], "variables": ["t"], "steps": [0, 1], **fields}
    return ClimateFiles.model_validate(given)


def hanging(path: Path) -> None:
    """A file in whose heap of references an object is said to be 256 bytes longer than it is.

    Opening it, HDF5 1.14 goes on among the zeros behind, where objects of no length never end.
    """
    whole = bytearray(write(path, 4))
    whole[whole.index(b"GCOL") + 25] = 1
    path.write_bytes(whole)


def test_a_file_on_which_the_library_hangs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(probing, "PATIENCE", 1.0)
    write(tmp_path / "a.nc")
    hanging(tmp_path / "b.nc")
    with pytest.raises(DataError, match=r"b\.nc: damaged \(.* hung for 1 s\); fetch it again"):
        config([tmp_path / "a.nc", tmp_path / "b.nc"]).build(ONE)
    mask = {"file": str(tmp_path / "b.nc"), "variable": "t"}
    masked = {**config([tmp_path / "a.nc"]).model_dump(), "mask": mask}
    with pytest.raises(DataError, match=r"b\.nc: damaged"):
        ClimateFiles.model_validate(masked).build(ONE)


def test_a_file_on_which_the_library_dies(tmp_path: Path, monkeypatch: Any) -> None:
    write(tmp_path / "a.nc")
    write(tmp_path / "b.nc", 4)
    dies = "import os; os.write(1, b'ready\\nthrough\\n'); os.abort()"
    monkeypatch.setattr(probing, "CHILD", (sys.executable, "-c", dies))
    with pytest.raises(DataError, match=r"b\.nc: damaged \(.* died, status -?\d+\)"):
        config([tmp_path / "a.nc", tmp_path / "b.nc"]).build(ONE)
    monkeypatch.setattr(probing, "CHILD", (sys.executable, "-c", "import nothing_of_this_name"))
    with pytest.raises(DataError, match=r"failed: ModuleNotFoundError: .*nothing_of_this_name"):
        config([tmp_path / "a.nc"]).build(ONE)


def test_one_process_tries_all_files_and_workers_none(tmp_path: Path, monkeypatch: Any) -> None:
    paths = [tmp_path / f"{i:02}.nc" for i in range(30)]
    for i, path in enumerate(paths):
        write(path, i, 1)
    started = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: started.append(a) or run(*a, **k))
    source = config(paths).build(ONE)
    assert len(source) == 29 and len(started) == 1
    worker = pickle.loads(pickle.dumps(source))
    assert all("climate" in worker[i] for i in range(29)) and len(started) == 1


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers(tmp_path: Path, start: str) -> None:
    from torch.utils.data import DataLoader

    write(tmp_path / "a.nc")
    write(tmp_path / "b.nc", 4)
    source = config([tmp_path / "a.nc", tmp_path / "b.nc"]).build(ONE)
    loader: Any = DataLoader(
        source, batch_size=None, num_workers=1, multiprocessing_context=start, timeout=120
    )
    for i, record in enumerate(loader):
        assert np.array_equal(record["climate"]["values"], source[i]["climate"]["values"])


def test_levels_in_another_order(tmp_path: Path) -> None:
    for name, levels in (("a.nc", [850, 500]), ("b.nc", [500, 850])):
        write(tmp_path / name, 4 * (name == "b.nc"))
        with netCDF4.Dataset(tmp_path / name, "a") as out:
            out.createDimension("plev", 2)
            out.createVariable("plev", "f8", ("plev",))[:] = levels
            field = out.createVariable("q", "f4", ("time", "plev", "lat", "lon"))
            field[:] = np.array(levels)[:, None, None]
    both = config([tmp_path / "a.nc", tmp_path / "b.nc"])
    both = both.model_copy(update={"variables": ["q_850"]})
    with pytest.raises(DataError, match=r"b\.nc: its levels stand in another order"):
        both.build(ONE)


Damage = tuple[list[tuple[int, int]], int | None]  # bytes of a file, and where it ends
AT = st.integers(0, 250) | st.integers(0, 10**6)
DAMAGED = st.tuples(
    st.lists(st.tuples(AT, st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 10**6),
)


@pytest.mark.parametrize("form", ["NetCDF-4", "GRIB"])
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(damaged=st.lists(DAMAGED, min_size=12, max_size=12))
def test_damaged_bytes_raise_only_our_errors(
    tmp_path: Path, monkeypatch: Any, form: str, damaged: list[Damage]
) -> None:
    if form == "GRIB":
        pytest.importorskip("cfgrib")
        whole, ending, damaged = GRIB.read_bytes(), "grib2", damaged[:4]  # slow to decode
    else:
        whole, ending = write(tmp_path / "whole.nc"), "nc"
    # A path of its own: the library remembers files that it failed to open.
    paths = [tmp_path / f"{next(NUMBER)}.{ending}" for _ in damaged]
    for path, edits in zip(paths, damaged, strict=True):
        damage(path, whole, edits)
    read_all(monkeypatch, paths)


def damage(path: Path, whole: bytes, damaged: Damage) -> None:
    edits, cut = damaged
    content = bytearray(whole)
    for at, byte in edits:
        content[at % len(whole)] = byte
    path.write_bytes(content[: None if cut is None else cut % len(whole)])


def read_all(monkeypatch: Any, paths: list[Path]) -> None:
    """Open and read the files, one data set each, though one child has met them all."""
    with monkeypatch.context() as patch:
        patch.setattr(probing, "PATIENCE", 10.0)
        met = _met(paths)
        patch.setattr(datasets, "probe", lambda *_: None)
        for path in met:
            with suppress(LomError):
                source = config([path], steps=[0]).build(ONE)
                for index in range(min(len(source), 3)):
                    value = source[index]["climate"]
                    ONE.get_config("climate").tokeniser.build().encode(value)


def _met(paths: list[Path]) -> list[Path]:
    """Those that the child gets through."""
    while True:
        try:
            probing.probe(config(paths), paths)
        except DataError as error:
            bad = [path for path in paths if str(error).startswith(f"{path}: damaged")]
            assert len(bad) == 1, error
            paths = [path for path in paths if path not in bad]
        else:
            return paths
