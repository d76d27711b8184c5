"""What the examples of docs/results compute themselves."""

from __future__ import annotations

import importlib.util
import struct
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    path = EXAMPLES / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("how", [("kneser-ney", 0.7), ("witten-bell", 4.0)])
def test_ngrams_are_probabilities(order: int, how: tuple[str, float]) -> None:
    music, rng = example("music/music.py"), np.random.default_rng(order)
    texts = [rng.integers(0, 6, n) ** 2 for n in (3, 40, 90)]
    fitted = music.Ngrams(texts, order)
    for before in ([], [4], [4, 9, 1], [200, 201], [25, 200]):
        whole = [fitted.bits(np.array([*before, w]), *how) for w in range(music.BASE - 1)]
        start = fitted.bits(np.array(before, dtype=int), *how)
        assert np.exp2(start - np.array(whole)).sum() == pytest.approx(1)


def test_a_bigram_by_hand() -> None:
    music = example("music/music.py")
    fitted = music.Ngrams([np.array([1, 2, 1, 2, 1, 3])], 2)
    # Bigrams: (begin 1), 12 12, 21 21, 13. After 1 come 2 (twice) and 3; 1 follows two contexts.
    lower = {1: (2 - 0.5) / 4, 2: (1 - 0.5) / 4, 3: (1 - 0.5) / 4}
    even = 0.5 * 3 / 4 / 219
    first = (1 - 0.5) / 1 + 0.5 * 1 / 1 * (lower[1] + even)
    second = (2 - 0.5) / 3 + 0.5 * 2 / 3 * (lower[2] + even)
    assert fitted.bits(np.array([1, 2]), "kneser-ney", 0.5) == pytest.approx(
        -np.log2(first * second)
    )


def test_a_wad_gives_its_music(tmp_path: Path) -> None:
    music = example("music/music.py")
    names = [f"D_{i:02d}" for i in range(12)]
    bodies = [b"MThd" + bytes([i]) for i in range(12)] + [b"IWAD?"]
    directory, data = b"", b""
    for name, body in zip([*names, "NOMUSIC"], bodies, strict=True):
        directory += struct.pack("<ii8s", 12 + len(data), len(body), name.encode())
        data += body
    wad = struct.pack("<4sii", b"PWAD", len(bodies), 12 + len(data)) + data + directory
    (tmp_path / "freedoom1.wad").write_bytes(wad)
    music.prepare(tmp_path, tmp_path / "out")
    found = {p.stem: p for p in (tmp_path / "out").rglob("*.mid")}
    assert sorted(found) == [f"freedoom1_{name.lower()}" for name in names]
    assert found["freedoom1_d_07"].read_bytes() == bodies[7]
    assert sorted(p.parent.name for p in found.values()).count("test") == 2


def test_later_years_do_not_reach_into_the_training_years(tmp_path: Path) -> None:
    xr = pytest.importorskip("xarray")
    sst, rng = example("sst_forecast/sst.py"), np.random.default_rng(0)
    time = np.arange("1979-01", "2014-01", dtype="datetime64[M]").astype("datetime64[ns]")
    values = rng.normal(size=(len(time), 3, 4)).astype("float32")

    def prepared(name: str, values: np.ndarray) -> object:
        folder = tmp_path / name
        (folder / "anom").mkdir(parents=True)
        (folder / "clim").mkdir()
        lat, lon = [10.0, 0.0, -10.0], [0.0, 90.0, 180.0, 270.0]
        at = {"time": time, "lat": lat, "lon": lon, "lev": 0.0}
        file = xr.Dataset({"ssta": (("time", "lat", "lon"), values)}, at)
        file.to_netcdf(folder / "anom/sea_surface_temperature_anomaly.nc", engine="scipy")
        land = np.zeros((3, 4), "float32")
        land[0, 0] = 1
        surface = xr.Dataset(
            {"lsm": (("lat", "lon"), land)}, {"lat": lat, "lon": lon, "time": 0, "lev": 0}
        )
        surface.to_netcdf(folder / "clim/surface.nc", engine="scipy")
        sst.prepare(folder, folder / "sst.nc")
        return xr.load_dataset(folder / "sst.nc")

    changed = values.copy()
    changed[time.astype("datetime64[Y]") > np.datetime64("2001")] *= 9
    one, other = prepared("one", values), prepared("other", changed)
    known = {"time": sst.months_of("train")}
    assert one.damping.equals(other.damping)
    assert one.ssta.sel(known).equals(other.ssta.sel(known))
    assert one.surprise.sel(known).equals(other.surprise.sel(known))
    assert np.isnan(one.ssta.values[:, 0, 0]).all()
    assert np.isfinite(one.ssta.values[:, 1:]).all()
    rest = one.ssta - one.damping * one.ssta.shift(time=1)
    np.testing.assert_allclose(one.surprise[1:], rest[1:], atol=1e-5)


def test_a_note_is_mixed_with_the_notes_of_its_key() -> None:
    task = example("piano_task/piano_task.py")
    window = {
        "prompt": np.array([0, 10, 20]),
        "key": np.array([5, 5, 9]),
        "truth": np.zeros(3, int),
    }
    own = task.MIDPOINTS[window["prompt"]]
    assert task.shrunk(window, 1.0, True).tolist() == own.tolist()
    assert task.shrunk(window, 0.0, False).tolist() == [own.mean()] * 3
    assert task.shrunk(window, 0.0, True).tolist() == [own[:2].mean()] * 2 + [own[2]]
    assert task.right(own, {**window, "truth": window["prompt"]}).all()
