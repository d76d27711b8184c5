"""climate_files: layouts of real archives, regions, calendars, and everything that can be wrong."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_climate import ClimateFiles, ClimateGrid

from lom_core import BadRecord, ConfigError, DataError, LomError, ModalityRegistry

ONE = ModalityRegistry([ClimateGrid(channels=("t",), patch_size=2)])
THREE = ModalityRegistry([ClimateGrid(channels=("t_850", "t_500", "ps"), patch_size=2)])
LAT, LON = np.linspace(80, -80, 9), np.arange(0, 360, 30.0)


def write(
    path: Path,
    times: Any = (0.0, 6.0, 12.0, 18.0),
    lat: Any = LAT,
    lon: Any = LON,
    units: str = "hours since 2001-01-01",
    calendar: str = "standard",
    seed: int = 0,
    form: str = "NETCDF4",
    **attributes: Any,
) -> np.ndarray:
    """A file with the variable t (time, lat, lon) float32 in K; its values."""
    lat, lon, times = (np.asarray(x, dtype=float) for x in (lat, lon, times))
    values = np.random.default_rng(seed).normal(280, 9, (len(times), lat.shape[0], lon.shape[-1]))
    with netCDF4.Dataset(path, "w", format=form) as out:
        for name, n in (("time", len(times)), ("y", lat.shape[0]), ("x", lon.shape[-1])):
            out.createDimension(name, n)
        out.createVariable("time", "f8", ("time",))[:] = times
        out["time"].setncatts({"units": units, "calendar": calendar})
        for name, axis, unit in (("lat", lat, "degrees_north"), ("lon", lon, "degrees_east")):
            dims = ("y", "x") if axis.ndim == 2 else ("y",) if name == "lat" else ("x",)
            out.createVariable(name, "f8", dims)[:] = axis
            out[name].units = unit
        out.createVariable("t", "f4", ("time", "y", "x"), fill_value=1e20)[:] = values
        out["t"].setncatts({"units": "K", **attributes})
    return values.astype(np.float32)


def opened(path: Any, registry: Any = ONE, **fields: Any) -> Any:
    given = {"paths": str(path), "variables": ["t"], "steps": [0, 1], **fields}
    return ClimateFiles.model_validate(given).build(registry)


def test_records_and_ids(tmp_path: Path) -> None:
    values = write(tmp_path / "a.nc")
    source = pickle.loads(pickle.dumps(opened(tmp_path / "a.nc")))
    assert len(source) == 3 and source[1]["id"] == "2001-01-01T06:00"
    value = source[1]["climate"]
    assert np.array_equal(value["values"][:, 0], values[1:3])
    assert value["time"][0] == value["base"] and np.array_equal(np.diff(value["time"]), [6])
    pickle.dumps(source)  # with a file open, too
    with pytest.raises(IndexError):
        source[3]


def test_hours_ask_for_exact_times(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", times=[0, 6, 12, 24, 30])
    source = opened(tmp_path / "a.nc", steps=[-6, 0, 6], step="hours")
    assert [source[i]["id"][-5:] for i in range(len(source))] == ["06:00"]
    with pytest.raises(DataError, match="no time between 2001-01-01T12:00 and 2001-01-02T00:00"):
        opened(tmp_path / "a.nc")
    with pytest.raises(DataError, match=r"has all of the steps \[0.0, 1.0\] \(hours\)"):
        opened(tmp_path / "a.nc", step="hours")
    with pytest.raises(ConfigError, match="whole numbers"):
        opened(tmp_path / "a.nc", steps=[0, 1.5])


def test_period_holds_all_steps_and_stride(tmp_path: Path) -> None:
    write(tmp_path / "a.nc", times=np.arange(0, 24 * 10, 6))
    source = opened(tmp_path / "a.nc", period=["2001-01-02", "2001-01-03"], steps=[-1, 0, 1])
    ids = [source[i]["id"] for i in range(len(source))]
    assert (ids[0], ids[-1], len(ids)) == ("2001-01-02T06:00", "2001-01-03T12:00", 6)
    assert len(opened(tmp_path / "a.nc", stride=5)) == 8
    with pytest.raises(DataError, match="no time within period"):
        opened(tmp_path / "a.nc", period=["1999", "2000"])
    with pytest.raises(ConfigError, match="period"):
        opened(tmp_path / "a.nc", period=["summer", "2000"])


def test_files_are_put_end_to_end(tmp_path: Path) -> None:
    one = write(tmp_path / "b.nc", times=[0, 6])
    two = write(tmp_path / "a.nc", times=[12, 18], seed=1)  # named before, but later
    source = opened(tmp_path)
    assert np.array_equal(source[1]["climate"]["values"][:, 0], [one[1], two[0]])
    write(tmp_path / "c.nc", times=[18, 24])
    with pytest.raises(DataError, match=r"a.nc and .*c.nc: the time 2001-01-01T18:00 stands twice"):
        opened(tmp_path)
    write(tmp_path / "c.nc", times=[24, 30], lat=LAT + 1)
    with pytest.raises(DataError, match="another grid"):
        opened(tmp_path)
    write(tmp_path / "c.nc", times=[24, 30], calendar="noleap")
    with pytest.raises(DataError, match="calendar"):
        opened(tmp_path)


@pytest.mark.parametrize("lon", [LON, LON - 180, LON[::-1], np.append(LON, 360.0)])
@pytest.mark.parametrize("lat", [LAT, LAT[::-1]])
def test_grids_of_every_direction_read_alike(tmp_path: Path, lat: Any, lon: Any) -> None:
    values = write(tmp_path / "a.nc", lat=lat, lon=lon)
    value = opened(tmp_path / "a.nc")[0]["climate"]
    assert np.allclose(value["lat"], LAT) and np.allclose(value["lon"], LON)
    y, x = list(lat).index(40.0), int(np.flatnonzero(lon % 360 == 90)[0])
    assert value["values"][0, 0, 2, 3] == values[0, y, x]


def test_a_region_across_greenwich(tmp_path: Path) -> None:
    values = write(tmp_path / "a.nc")
    value = opened(tmp_path / "a.nc", region=[-20, 40, 300, 60])[0]["climate"]
    assert list(value["lon"]) == [300, 330, 0, 30, 60] and list(value["lat"]) == [40, 20, 0, -20]
    assert np.array_equal(value["values"][0, 0], values[0, 2:6][:, [10, 11, 0, 1, 2]])
    with pytest.raises(DataError, match="nothing within region"):
        opened(tmp_path / "a.nc", region=[-20, 40, 301, 302])
    with pytest.raises(ValueError, match="lat_min"):
        opened(tmp_path / "a.nc", region=[40, -20, 0, 10])


def test_curvilinear_grids_and_their_regions(tmp_path: Path) -> None:
    y, x = np.mgrid[:9, :12]
    lat, lon = 40 + y + 0.2 * x, (355 + x - 0.3 * y) % 360
    values = write(tmp_path / "a.nc", lat=lat, lon=lon)
    whole = opened(tmp_path / "a.nc")[0]["climate"]
    assert whole["lat"].shape == (9, 12) and np.array_equal(whole["values"][0, 0], values[0])
    part = opened(tmp_path / "a.nc", region=[42, 46, 358, 3])[0]["climate"]
    seen = np.isfinite(part["values"][0, 0])
    inside = (lat >= 42) & (lat <= 46) & ((lon - 358) % 360 <= 5)
    assert seen.sum() == inside.sum() and not seen.all()
    assert np.array_equal(np.sort(part["values"][0, 0][seen]), np.sort(values[0][inside]))


def test_packed_integers_masks_and_calendars(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write(path, times=[15, 45, 75], units="days since 1860-01-01", calendar="360_day")
    with netCDF4.Dataset(path, "a") as out:
        packed = out.createVariable("p", "i2", ("time", "y", "x"), fill_value=-1)
        packed.setncatts({"scale_factor": 0.5, "add_offset": 100.0})
        packed.set_auto_maskandscale(False)
        packed[:] = np.arange(9 * 12).reshape(9, 12)
        packed[0, 0, 0] = -1
        out.createVariable("land", "f4", ("y", "x"))[:] = np.eye(9, 12)
    source = opened(path, variables=["p"], mask={"file": str(path), "variable": "land"})
    value = source[0]["climate"]
    assert value["calendar"] == "360_day" and source[0]["id"] == "1860-01-16T00:00"
    assert value["values"].dtype == np.float32 and value["values"][0, 0, 2, 3] == 100 + 0.5 * 27
    assert np.isnan(value["values"][0, 0, 0, 0]) and np.array_equal(value["mask"], np.eye(9, 12))
    tokens = ONE.get_config("climate").tokeniser.build().encode(value)
    assert tokens.positions[0, 3] == 15.5  # the middle of a January of 31 days
    sea = opened(path, variables=["p"], mask={"file": str(path), "variable": "land", "invert": 1})
    assert np.array_equal(sea[0]["climate"]["mask"], 1 - np.eye(9, 12))


def test_levels(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write(path)
    with netCDF4.Dataset(path, "a") as out:
        out.createDimension("plev", 3)
        out.createVariable("plev", "f8", ("plev",))[:] = [85000, 50000, 25000]
        out["plev"].units = "Pa"
        out.createVariable("ta", "f4", ("time", "plev", "y", "x"))[:] = np.arange(3)[:, None, None]
    names = ["ta_850", "ta_500", "t"]
    for fields in ({"variables": names}, {"variables": ["ta", "t"], "levels": [850, 500]}):
        value = opened(path, THREE, **fields)[0]["climate"]
        assert value["values"].shape == (2, 3, 9, 12)
        assert (value["values"][:, 0] == 0).all() and (value["values"][:, 1] == 1).all()
    for variables, told in (
        (["ta", "t"], "has levels 850, 500, 250; name one"),
        (["ta_700", "t"], "no level 700; it has 850"),
        (["t_850"], "'t' has no levels"),
    ):
        with pytest.raises(DataError, match=told):
            opened(path, THREE, variables=variables)
    with pytest.raises(ConfigError, match="3 channels, the data set's variables make 1"):
        opened(path, THREE, variables=["t"])


def merra2(path: Path, day: int) -> None:
    """As MERRA2_400.tavg1_2d_slv_Nx: an hour's mean at half past, longitudes from -180."""
    with netCDF4.Dataset(path, "w") as out:
        for name, n in (("lon", 16), ("lat", 9), ("time", 24)):
            out.createDimension(name, n)
        out.createVariable("lon", "f8", ("lon",))[:] = np.linspace(-180, 157.5, 16)
        out["lon"].setncatts({"long_name": "longitude", "units": "degrees_east"})
        out.createVariable("lat", "f8", ("lat",))[:] = np.linspace(-90, 90, 9)
        out["lat"].setncatts({"long_name": "latitude", "units": "degrees_north"})
        out.createVariable("time", "i4", ("time",))[:] = 60 * np.arange(24)
        out["time"].setncatts(
            {
                "long_name": "time",
                "units": f"minutes since 2020-01-{day:02} 00:30:00",
                "time_increment": np.int32(10000),
                "begin_date": np.int32(20200100 + day),
                "begin_time": np.int32(3000),
            }
        )
        for name, unit in (("T2M", "K"), ("SLP", "Pa")):
            field = out.createVariable(
                name, "f4", ("time", "lat", "lon"), fill_value=1e15, zlib=True
            )
            field.setncatts({"long_name": name, "units": unit, "missing_value": np.float32(1e15)})
            field.setncatts({"fmissing_value": np.float32(1e15), "vmax": np.float32(1e15)})
            field[:] = np.arange(24)[:, None, None] + 100 * day + np.linspace(0, 1, 16)
            field[3, 0, 0] = 1e15
        out.setncatts({"Filename": path.name, "Format": "NetCDF-4/HDF-5"})


def test_merra2_as_it_is_published(tmp_path: Path) -> None:
    for day in (1, 2):
        merra2(tmp_path / f"MERRA2_400.tavg1_2d_slv_Nx.202001{day:02}.nc4", day)
    registry = ModalityRegistry([ClimateGrid(channels=("T2M", "SLP"))])
    source = opened(
        tmp_path, registry, variables=["T2M", "SLP"], steps=[-6, 0, 6, 24], step="hours"
    )
    assert len(source) == 48 - 30 and source[0]["id"] == "2020-01-01T06:30"
    value = source[0]["climate"]
    assert list(value["time"] - value["base"]) == [-6, 0, 6, 24]
    assert (value["lat"][0], value["lon"][0]) == (90, 0)
    assert value["values"][:, 0, 0, 8].astype(int).tolist() == [100, 106, 112, 206]
    assert (
        np.isnan(opened(tmp_path, registry, variables=["T2M", "SLP"])[3]["climate"]["values"]).sum()
        == 2
    )
    tokens = registry.get_config("climate").tokeniser.build().encode(value)
    assert tokens.positions[0, 4] == 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"times": [0, 12, 6]}, "times are not sorted"),
        ({"times": [0, 6, 6]}, "stands twice"),
        ({"units": "months"}, "cannot be read"),
        ({"calendar": "lunar"}, "cannot be read"),
        ({"lat": np.linspace(0, 400, 9)}, "not in degrees"),
        ({"lat": np.zeros(9)}, "latitudes are not sorted"),
        ({"lon": np.zeros(12)}, "longitudes repeat"),
        ({"lat": np.full(9, np.nan)}, "missing"),
    ],
)
def test_files_that_are_wrong_as_a_whole(tmp_path: Path, change: Any, told: str) -> None:
    write(tmp_path / "a.nc", **change)
    with pytest.raises(DataError, match=told) as caught:
        opened(tmp_path / "a.nc")
    assert "a.nc" in str(caught.value)


def test_wrong_variables_units_and_coordinates(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write(path)
    with netCDF4.Dataset(path, "a") as out:
        out.createDimension("n", 5)
        out.createVariable("bare", "f4", ("time", "n"))[:] = 0
        out.createVariable("words", str, ("y", "x"))
    for fields, told in (
        ({"variables": ["T"]}, "no variable 'T'.* it has .*t, bare"),
        ({"variables": ["bare"]}, "no latitudes for 'bare'"),
        ({"variables": ["words"]}, "holds no numbers"),
        ({"units": {"t": "degC"}}, "'t' is in 'K', expected 'degC'"),
    ):
        with pytest.raises(DataError, match=told):
            opened(path, **fields)
    with pytest.raises(DataError, match="no such file"):
        opened([str(tmp_path / "b.nc")], paths=[str(tmp_path / "b.nc")])
    with pytest.raises(ValueError, match="steps must rise"):
        opened(path, steps=[1, 0])
    with pytest.raises(ConfigError, match="unknown modality"):
        opened(path, modality="weather")


def test_truncated_empty_and_vanished_files(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write(path)
    source, whole = opened(path), path.read_bytes()
    for cut in (0, 100, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"a.nc: (empty file|cannot be)"):
            opened(path)
    with pytest.raises(BadRecord, match="changed since the data set was opened") as caught:
        source[0]
    assert str(caught.value).startswith(str(path)) and not any(
        map(str.isdigit, caught.value.reason)
    )
    path.unlink()
    with pytest.raises(BadRecord, match="changed since"):
        source[0]


def test_all_missing_is_a_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "a.nc"
    write(path)
    with netCDF4.Dataset(path, "a") as out:
        out["t"][1] = np.ma.masked
    source = opened(path)
    assert "climate" in source[2]
    with pytest.raises(BadRecord, match=r"a.nc row 1: no observed value"):
        source[0]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    edits=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.none() | st.integers(0, 3000),
)
def test_damaged_bytes_raise_only_our_errors(
    tmp_path: Path, edits: list[tuple[int, int]], cut: int | None
) -> None:
    # A path of its own: a reader may remember the file that it failed to open there before.
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.nc"
    write(path, form="NETCDF3_CLASSIC")
    damaged = bytearray(path.read_bytes())
    for at, byte in edits:
        damaged[at % len(damaged)] = byte
    path.write_bytes(bytes(damaged[:cut]))
    try:
        source = opened(path)
        for index in range(min(len(source), 3)):
            ONE.get_config("climate").tokeniser.build().encode(source[index]["climate"])
    except LomError:
        pass


def test_config_round_trip() -> None:
    config = ClimateFiles(
        paths="a", variables={"x": ["t"]}, period=("1979-01", "1980"), region=(0, 1, 2, 3)
    )
    assert ClimateFiles.model_validate(config.model_dump()) == config
    assert ClimateFiles.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config
