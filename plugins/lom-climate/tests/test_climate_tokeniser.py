"""Grids and patches: known answers, round trips, and values that are refused."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_climate import ClimateGrid, GridPatches
from lom_climate.times import MONTH_STARTS, from_text, season, to_hours

from lom_core import BadRecord


def grid(t: int = 2, c: int = 1, lat: Any = None, lon: Any = None, seed: int = 0) -> dict[str, Any]:
    lat = np.arange(87.5, -90, -5) if lat is None else np.asarray(lat, float)
    lon = np.arange(2.5, 360, 5) if lon is None else np.asarray(lon, float)
    rng = np.random.default_rng(seed)
    values = rng.normal(280, 10, (t, c, lat.shape[0], lon.shape[-1])).astype(np.float32)
    return {"values": values, "lat": lat, "lon": lon, "time": 744.0 * np.arange(t)}


def encoder(p: int = 4, c: int = 1) -> Any:
    return GridPatches(patch_size=p, channels=tuple("abcdef"[:c])).build()


def test_a_small_grid_by_hand() -> None:
    value = grid(1, 2, [0.0, 2.0, 4.0, 6.0], [358.0, 0.0, 2.0, 4.0])
    value["time"] = [to_hours([59.25], "days since 2001-01-01", "standard")[0]]
    tokens = encoder(2, 2).encode(value)
    assert tokens.content.shape == (4, 8) and tokens.content.dtype == np.float32
    north_west = value["values"][0, :, 2:, :2][:, ::-1]  # the rows 6 and 4 north
    assert np.array_equal(tokens.content[0], north_west.transpose(1, 2, 0).ravel())
    # Across Greenwich the centre is 359, not the mean of 358 and 0; 1 March 06:00 is day 60.25.
    assert np.allclose(tokens.positions[0], [5, 359, 0, 60.25, 6])
    assert np.allclose(tokens.positions[1:, :2], [[5, 3], [1, 359], [1, 3]])
    assert np.isclose(tokens.weights.mean(), 1)
    top, bottom = tokens.weights[0, 0], tokens.weights[2, -1]
    assert np.isclose(top / bottom, np.cos(np.deg2rad(6)) / np.cos(0))


def test_what_is_not_observed() -> None:
    value = grid()
    value["values"][:, :, :8, :8] = np.nan
    value["mask"] = np.zeros((36, 72), bool)
    value["mask"][20, 30] = True
    tokens = encoder().encode(value)
    assert len(tokens) == 2 * (9 * 18 - 4)
    decoded = encoder().decode(tokens)["values"]
    expected = np.where(value["mask"], np.nan, value["values"])
    assert np.array_equal(decoded, expected, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    high=st.integers(1, 11),
    wide=st.integers(1, 11),
    p=st.integers(1, 5),
    west=st.floats(-180, 360),
    step=st.sampled_from([0.25, 1.0, 2.5, 7.0]),
    up=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip(
    high: int, wide: int, p: int, west: float, step: float, up: bool, seed: int
) -> None:
    lat = 40 - step * np.arange(high)
    value = grid(2, 2, lat[::-1] if up else lat, west + step * np.arange(wide), seed)
    rng = np.random.default_rng(seed)
    value["values"][rng.random(value["values"].shape) < 0.3] = np.nan
    coder = encoder(p, 2)
    if not np.isfinite(value["values"]).any():
        with pytest.raises(BadRecord, match="no observed value"):
            coder.encode(value)
        return
    tokens = coder.encode(value)
    again = coder.encode(coder.decode(tokens))
    assert np.array_equal(again.content, tokens.content)
    assert np.array_equal(again.observed, tokens.observed)
    assert np.allclose(again.positions, tokens.positions, atol=2e-4)


def test_coordinates_of_a_regular_grid_come_back() -> None:
    for lat in (np.linspace(90, -90, 73), np.linspace(-60, 60, 49)):
        value = grid(1, 1, lat, np.arange(-180, 180, 2.5))
        decoded = encoder().decode(encoder().encode(value))
        flipped = value["values"] if lat[0] > lat[-1] else value["values"][:, :, ::-1]
        assert np.allclose(decoded["lat"], np.sort(lat)[::-1], atol=1e-4)
        turn = (decoded["lon"] - value["lon"] + 180) % 360 - 180
        assert np.abs(turn).max() < 1e-4
        assert np.array_equal(decoded["values"], flipped)


def test_curvilinear_grids_keep_centres_and_values() -> None:
    y, x = np.mgrid[:10, :12]
    value = {**grid(2, 1, np.zeros(10), np.zeros(12)), "lat": 50 + y + 0.2 * x, "lon": x - 0.3 * y}
    value["lat"][0, 0] = np.nan  # not on the Earth: not observed
    tokens = encoder().encode(value)
    assert len(tokens) == 2 * 3 * 3 and (np.diff(tokens.positions[:9, 0]) <= 0).all()
    again = encoder().encode(encoder().decode(tokens))
    assert np.array_equal(again.content, tokens.content)
    assert np.allclose(again.positions, tokens.positions, atol=1e-4)


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "366_day", "julian"])
def test_months_begin_on_the_same_days_in_every_calendar(calendar: str) -> None:
    hours = np.array([from_text(f"2003-{m:02}", calendar, last=False) for m in range(1, 13)])
    day, hour = season(hours, calendar)
    assert np.array_equal(day, MONTH_STARTS[:12]) and not hour.any()


def test_dates() -> None:
    assert from_text("1970-01-02", "standard", last=False) == 24
    for text, hours in (("1970", 365 * 24), ("1970-02", 59 * 24), ("1970-01-02", 48)):
        assert hours - 0.01 < from_text(text, "standard", last=True) < hours
    assert from_text("1970-01-01T06:30", "standard", last=True) == 6.5
    assert np.allclose(to_hours([30, 90], "minutes since 1970-01-01 00:30:00", "standard"), [1, 2])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"values": np.full((2, 1, 36, 72), np.nan)}, "no observed value"),
        ({"values": np.zeros((2, 3, 36, 72))}, "values of the wrong shape"),
        ({"values": np.full((2, 1, 36, 72), "x")}, "values that are no numbers"),
        ({"lat": np.zeros(35)}, "lat of the wrong shape"),
        ({"lat": np.linspace(0, 3000, 36)}, "lat out of range"),
        ({"lat": np.full(36, np.nan)}, "lat that is not finite"),
        ({"lat": np.zeros(36)}, "latitudes that are not sorted"),
        ({"lon": np.zeros(72)}, "longitudes that are not sorted"),
        ({"lon": np.linspace(0, 360, 72)}, "go round more than once"),
        ({"lon": np.zeros((36, 72))}, "different shapes"),
        ({"time": [5.0, 5.0]}, "times that are not increasing"),
        ({"time": [5.0]}, "time of the wrong shape"),
        ({"time": [0.0, np.inf]}, "a time that is not finite"),
        ({"calendar": "of the moon"}, "no date of its calendar"),
        ({"mask": np.ones(5)}, "a mask that does not fit"),
        ({"lat": None}, "no lat"),
    ],
)
def test_bad_values_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRecord, match=reason) as caught:
        encoder().encode({**grid(), **change})
    assert not any(digit.isdigit() for digit in caught.value.reason)
    with pytest.raises(BadRecord, match="no grid"):
        encoder().encode(3)


def test_persistence_knows_nothing_of_what_lies_ahead() -> None:
    value = {**grid(4), "base": 744.0}  # steps -1, 0, 1, 2
    config = ClimateGrid(channels=("a",))
    tokens = config.tokeniser.build().encode(value)
    guess = config.predictors(tokens)["persistence"].reshape(4, -1)
    content = tokens.content.reshape(4, -1)
    assert np.isnan(guess[0]).all() and np.array_equal(guess[1], content[0])
    assert np.array_equal(guess[2], content[1]) and np.array_equal(guess[3], content[1])


def test_encoder_is_picklable() -> None:
    coder = pickle.loads(pickle.dumps(encoder()))
    assert np.array_equal(coder.encode(grid()).content, encoder().encode(grid()).content)


def test_climatologies_count_from_the_year_0() -> None:
    from lom_climate.times import season, to_hours

    middle = [366.0, 1096.485]  # of January and February, as COADS has them
    hours = to_hours(np.array(middle), "hour since 0000-01-01 00:00:00", "standard")
    assert np.isclose(np.diff(hours), np.diff(middle)).all()
    day, _ = season(hours, "standard")
    assert np.allclose(day, [15.25, 45.69], atol=0.1)
