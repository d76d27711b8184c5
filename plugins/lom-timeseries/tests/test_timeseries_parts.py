"""Tokenisers, AstroMer's time encoding and masking, metrics: known answers and hypothesis."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from lom_timeseries import (
    AstromerMasked,
    AstromerTime,
    LightCurveEpochs,
    SeriesPatches,
    TimeAndBand,
)
from lom_timeseries.metrics import astromer_r2, astromer_rmse, r2
from pydantic import ValidationError

from lom_core import BadRecord, ConfigError, Objective, Position, Tokeniser, Tokens
from lom_core.batch import Layout, Observation, pack_row

METHODS = ["none", "zero_mean", "random_mean", "minmax", "robust"]
CURVE = {"time": [59000.5, 59002.0, 59001.0], "value": [20.0, 21.0, np.nan]}


def encode(value: Any, **fields: Any) -> Tokens:
    return LightCurveEpochs(**fields).build().encode(value)


def test_epochs_are_sorted_and_counted_from_the_first() -> None:
    tokens = encode(CURVE)
    assert tokens.content.dtype == np.float32 and tokens.positions.dtype == np.float32
    assert tokens.positions.tolist() == [[0.0], [0.5], [1.5]]
    assert tokens.weights is not None and tokens.weights[:, 0].tolist() == [1, 0, 1]
    assert tokens.content[[0, 2], 0].tolist() == [20, 21]
    centred = encode(CURVE, time_zero="mean").positions[:, 0]
    assert np.allclose(centred, [-2 / 3, -1 / 6, 5 / 6])


def test_errors_become_weights() -> None:
    curve = {"time": range(5), "value": np.ones(5), "error": [1.0, 2.0, 4.0, np.nan, 0.0]}
    weights = encode(curve, weight_clip=100).weights
    assert weights is not None
    raw = np.array([4, 1, 0.25, 0, 0])
    assert np.allclose(weights[:, 0], raw / raw[:3].mean())
    clipped = encode(curve, weight_clip=2).weights
    assert clipped is not None and np.allclose(clipped[:3, 0] / clipped[1, 0], [2, 1, 0.5])
    assert np.isclose(clipped[:3].mean(), 1)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_curves_invert(method: str, data: Any) -> None:
    n = data.draw(st.integers(1, 30))
    floats = {"allow_nan": False, "allow_infinity": False}
    time = data.draw(arrays.arrays(np.float64, n, elements=st.floats(0, 5000, **floats)))
    value = data.draw(arrays.arrays(np.float64, n, elements=st.floats(-1e5, 1e5, **floats)))
    band = data.draw(st.lists(st.sampled_from(["g", "r"]), min_size=n, max_size=n))
    coder = LightCurveEpochs(bands=("g", "r"), normalise=method).build()
    tokens = coder.encode({"time": time, "value": value, "band": band})
    back = coder.decode(tokens)
    order = np.argsort(time, kind="stable")
    assert back["band"].tolist() == [band[i] for i in order]
    bound = 2**-22 if method != "none" else 2**-24
    assert np.abs(back["value"] - value[order]).max() <= bound * np.abs(value).max() + 1e-30
    assert np.abs(back["time"] - (time - time.min())[order]).max() <= 2**-24 * np.ptp(time) + 1e-30


def test_statistics_are_what_they_are_called() -> None:
    value = np.array([1.0, 2.0, 3.0, 4.0, 10.0])
    curve = {"time": np.arange(5), "value": value}
    expected = {
        "zero_mean": value - 4,
        "minmax": (value - 1) / 9,
        "robust": (value - 3) / 1.4826,
    }
    for method, content in expected.items():
        tokens = encode(curve, normalise=method)
        assert np.allclose(tokens.content[:, 0], content), method
        assert tokens.positions.shape == (5, 3)
    shift = value - encode(curve, normalise="random_mean").content[:, 0]
    assert np.ptp(shift) < 1e-6 and 1 <= shift[0] <= 10
    flat = encode({"time": [0, 1], "value": [7.0, 7.0]}, normalise="minmax")
    assert flat.content[:, 0].tolist() == [0, 0] and flat.positions[0].tolist() == [0, 7, 1]


@pytest.mark.parametrize(
    ("value", "fields", "reason"),
    [
        ("mag", {}, "no light curve"),
        ({"time": [1.0]}, {}, "no light curve"),
        ({"time": ["a"], "value": [1.0]}, {}, "not numbers"),
        ({"time": [1.0, 2.0], "value": [1.0]}, {}, "different lengths"),
        ({"time": [], "value": []}, {}, "without epochs"),
        ({"time": [np.nan], "value": [1.0]}, {}, "time that is not finite"),
        ({"time": [1.0], "value": [np.nan]}, {}, "no epoch with a value"),
        ({"time": [1.0], "value": [1.0], "error": [0.0]}, {}, "no epoch with a value"),
        ({"time": [1.0], "value": [1.0]}, {"bands": ["g"]}, "a curve without bands"),
        ({"time": [1.0], "value": [1.0], "band": ["x"]}, {"bands": ["g"]}, "config does not list"),
        ({"time": [1.0], "value": [1.0], "band": [1]}, {"bands": ["g"]}, "config does not list"),
        ({"time": [1, 2], "value": [1, 2], "band": ["g", "r"]}, {}, "several bands"),
    ],
)
def test_curves_that_cannot_be_used(value: Any, fields: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        encode(value, **fields)


def test_bands_by_number_and_as_array() -> None:
    tokens = encode({"time": [0, 1], "value": [1, 2], "band": [1, 0]}, bands=("g", "r"))
    assert tokens.positions[:, 1].tolist() == [1, 0]
    for named in ([1.0, 2.0], [1, 2], ["1", "2"]):  # as ZTF's filters are: no places in a list
        found = encode({"time": [0, 1], "value": [1, 2], "band": named}, bands=("1", "2", "3"))
        assert found.positions[:, 1].tolist() == [0, 1]
    with pytest.raises(BadRecord, match="a band that the config does not list"):
        encode({"time": [0], "value": [1], "band": [0]}, bands=("1", "2", "3"))
    with pytest.raises(BadRecord, match=r"a band that the config does not list \(None"):
        encode({"time": [0, 1], "value": [1, 2], "band": ["g", None]}, bands=("g", "r"))
    assert encode(np.array([[0.0, 5.0, 0.1], [1.0, 6.0, 0.2]])).content[:, 0].tolist() == [5, 6]
    with pytest.raises(ValidationError, match="bands must differ"):
        LightCurveEpochs(bands=("g", "g"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [[1e39, 0.0], [5e-324, 0.0], [3e38, -3e38], [1e-40, 1e5]])
@pytest.mark.parametrize("method", METHODS)
def test_values_at_the_ends_of_float32(method: str, value: list[float]) -> None:
    curve = {"time": [0.0, 1.0], "value": value}
    if max(value) > 1e38:
        try:
            tokens = encode(curve, normalise=method)
        except BadRecord as error:
            assert "float32" in error.reason
            return
    else:
        tokens = encode(curve, normalise=method)
    assert np.isfinite(tokens.content).all() and np.isfinite(tokens.positions).all()


def test_a_time_beyond_float32_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="float32"):
        encode({"time": [0.0, 1e300], "value": [1.0, 2.0]})


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_series_invert_exactly(data: Any) -> None:
    length, leads = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
    patch, across = data.draw(st.integers(1, 9)), data.draw(st.booleans())
    values = np.arange(length * leads, dtype=np.float32).reshape(length, leads)
    gaps = data.draw(arrays.arrays(bool, values.shape))
    gaps[0, 0] = gaps[-1, -1] = False
    values[gaps] = np.nan
    config = SeriesPatches(patch_size=patch, leads=tuple("abc"[:leads]), rate=50, across=across)
    coder = config.build()
    tokens = coder.encode({"values": values, "start": 1.0})
    assert tokens.content.shape[1] == config.width
    assert tokens.positions.shape[1] == config.pos_width
    back = coder.decode(tokens)
    assert (back["rate"], back["start"]) == (50, 1.0)
    assert np.array_equal(back["values"][:length], values, equal_nan=True)
    assert np.isnan(back["values"][length:].astype(np.float64)).all()


def test_series_tokens_lie_where_they_say() -> None:
    values = np.array([[0, 10], [1, 11], [2, 12], [3, 13]], np.int16)
    config = SeriesPatches(patch_size=2, leads=("a", "b"), rate=4)
    tokens = config.build().encode(values)
    assert tokens.content.tolist() == [[0, 1], [10, 11], [2, 3], [12, 13]]
    assert tokens.positions.tolist() == [[0, 0], [0, 1], [0.5, 0], [0.5, 1]]
    assert tokens.content.dtype == np.int16 and tokens.weights is None
    across = config.model_copy(update={"across": True}).build().encode(values)
    assert across.content.tolist() == [[0, 10, 1, 11], [2, 12, 3, 13]]
    named = {"values": values, "leads": ["B", "x"]}
    only_b = config.build().encode(named)
    assert only_b.content.tolist() == [[0, 1], [2, 3]]
    assert only_b.positions[:, 1].tolist() == [1, 1]
    masked = {"values": values, "mask": values == 12}
    assert np.isnan(config.build().decode(config.build().encode(masked))["values"][2, 1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"rate": 1}, "no series"),
        (np.zeros((0, 1)), "no series"),
        (np.array(["a"]), "no series"),
        (np.zeros((4, 2)), "another number of leads"),
        (np.full(4, np.nan), "no observed value"),
        ({"values": np.zeros(4), "rate": 2.0}, "another sampling rate"),
        ({"values": np.zeros(4), "mask": np.zeros(3)}, "mask of another shape"),
        ({"values": np.zeros(4), "leads": ["a", "b"]}, "names of leads"),
        ({"values": np.zeros(4), "leads": ["b"]}, "none of the config's leads"),
    ],
)
def test_series_that_cannot_be_used(value: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        SeriesPatches(patch_size=2, leads=("a",)).build().encode(value)


def test_configs_travel() -> None:
    for config in (
        LightCurveEpochs(bands=("g",), normalise="minmax"),
        SeriesPatches(leads=("a", "b")),
    ):
        assert Tokeniser.model_validate_json(config.model_dump_json()) == config
        assert pickle.loads(pickle.dumps(config)) == config
    for position in (TimeAndBand(n_bands=2), AstromerTime()):
        assert Position.model_validate(position.model_dump()) == position
    with pytest.raises(ValidationError, match="min_period"):
        TimeAndBand(min_period=5, max_period=1)
    with pytest.raises(ValidationError, match="leads must differ"):
        SeriesPatches(leads=("i", "I"))


def test_astromer_time_has_its_known_answer() -> None:
    module = AstromerTime().build(4, 1)
    t = 3.25
    got = module(torch.tensor([[t], [0.0]]))
    omega = [1.0, 10000**-0.5, 10000**-1.0, 10000**-1.5]  # 10000^(-2j/4)
    expected = [math.sin(t), math.cos(t * omega[1]), math.sin(t * omega[2]), math.cos(t * omega[3])]
    assert torch.allclose(got[0], torch.tensor(expected), atol=1e-6)
    assert got[1].tolist() == [0, 1, 0, 1]
    assert not list(module.parameters())


@pytest.mark.parametrize("config", [AstromerTime(n_bands=2), TimeAndBand(n_bands=2)])
def test_bands_get_vectors_and_statistics_are_not_read(config: Position) -> None:
    module = config.build(8, 4)
    at = torch.tensor([[1.0, 0, 5, 2], [1.0, 1, 5, 2], [1.0, 1, -7, 9]])
    out = module(at)
    assert out.shape == (3, 8)
    assert not torch.equal(out[0], out[1]) and torch.equal(out[1], out[2])
    assert config.check(np.array([[0.0, 1.0]])) == ""
    assert "outside" in config.check(np.array([[0.0, 2.0]]))
    assert "no band" in config.check(np.array([[0.0]]))


def observation(n: int, seed: int) -> Observation:
    content = (1000 * seed + np.arange(n, dtype=np.float32))[:, None]
    return Observation(
        str(seed), {"m": Tokens(content, np.arange(n, dtype=np.float32)[:, None])}, seed
    )


LAYOUTS = {"m": Layout(1, 1, False)}


@pytest.mark.parametrize(
    ("n", "probed", "kept", "replaced"),
    [(200, 100, 20, 16), (7, 3, 1, 1), (70, 35, 7, 6), (1, 0, 0, 0)],
)
def test_astromer_masking_counts(n: int, probed: int, kept: int, replaced: int) -> None:
    row = pack_row([observation(n, 3)], n + 4, ["m"])
    batch = AstromerMasked().prepare([row], LAYOUTS)
    span = batch.spans["m"]
    assert len(span.asked) == probed - kept
    assert len(span.slots) == n + replaced
    assert len(span.shown) == n - probed + kept + replaced
    assert batch.given.tolist() == batch.starts.diff().tolist()
    assert torch.equal(span.ask_slots, span.slots[span.asked])


def test_astromer_masking_shows_nobody_its_answer() -> None:
    rows = [pack_row([observation(40, 1), observation(11, 2)], 60, ["m"])] * 2
    span = Objective.model_validate("astromer_masked").prepare(rows, LAYOUTS).spans["m"]
    asked = set(span.content[span.asked].flatten().tolist())
    shown = span.content[span.shown].flatten().tolist()
    assert asked and not asked & set(shown), "no asked value stands anywhere"
    owner_of_slot = {int(s): v // 1000 for s, v in zip(span.slots, span.content[:, 0].tolist())}
    n = 2 * (40 + 11)
    extra = [int(i) for i in span.shown if i >= n]
    assert extra and set(span.slots[extra].tolist()) <= set(span.ask_slots.tolist())
    for i in extra:
        slot = int(span.slots[i])
        assert float(span.content[i]) // 1000 == owner_of_slot[slot], "of the same observation"
        own = int((span.slots[:n] == slot).nonzero())
        assert span.positions[i] == span.positions[own], "at the probed token's position"


def test_astromer_masking_does_not_depend_on_packing() -> None:
    def asked(rows: Any) -> set[float]:
        span = AstromerMasked().prepare(rows, LAYOUTS).spans["m"]
        return set(span.content[span.asked].flatten().tolist())

    one, two = observation(30, 1), observation(20, 2)
    apart = asked([pack_row([one], 40, ["m"])]) | asked([pack_row([two], 40, ["m"])])
    assert apart == asked([pack_row([two, one], 64, ["m"])])
    empty = AstromerMasked().prepare([pack_row([], 4, ["m"])], LAYOUTS).spans["m"]
    assert len(empty.asked) == len(empty.shown) == 0


def test_metrics() -> None:
    truth = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, np.nan]])
    predicted = np.array([[1.0, 2.0, 3.0, 2.0], [3.0, 0.0, 0.0, 5.0]])
    asked = np.array([[0, 0, 0, 1], [1, 1, 1, 0]])
    # Curve means of squares: 4 and 9 / 3; their mean is 3.5.
    assert astromer_rmse(truth, predicted, asked) == pytest.approx(3.5**0.5)
    weights = np.array([[1, 1, 1, 0.5], [2, 1, 1, 1]])
    assert astromer_rmse(truth, predicted, asked, weights) == pytest.approx(4**0.5)
    assert astromer_rmse(truth[0], predicted[0]) == pytest.approx(1.0)
    assert r2(truth[0], truth[0]) == 1
    assert r2(truth[0], np.full(4, 2.5)) == pytest.approx(0)
    assert r2(truth[0], predicted[0]) == pytest.approx(1 - 4 / 5)
    # Curve 0 varies by 0 about its own mean of what was asked, curve 1 by 0 too; over both, (4, 0, 0, 0).
    assert r2(truth, predicted, asked) == pytest.approx(1 - (4 + 9) / 12)
    two = np.array([[1.0, 3.0, np.nan], [10.0, 10.0, 16.0]])
    asked_two = np.array([[1, 1, 0], [1, 1, 1]])
    off = np.nan_to_num(two) + np.array([[1, 0, 0], [0, 0, 2]])
    # About their own means, 2 and 12, they vary by 1 + 1 and by 4 + 4 + 16.
    assert astromer_r2(two, off, asked_two) == pytest.approx(1 - 5 / 26)
    assert astromer_r2(two, np.array([[2.0] * 3, [12.0] * 3]), asked_two) == pytest.approx(0)
    assert r2(two, off, asked_two) > astromer_r2(two, off, asked_two)
    for call, told in (
        (lambda: astromer_r2(np.ones(3), np.ones(3)), "constant"),
        (lambda: r2(truth[0], predicted), "truth is"),
        (lambda: r2(np.ones(3), np.ones(3)), "constant"),
        (lambda: astromer_rmse(truth, predicted, np.zeros((2, 4))), "no epoch was asked"),
        (lambda: astromer_rmse(truth[0], predicted[0], None, np.ones(3)), "weights are"),
    ):
        with pytest.raises(ConfigError, match=told):
            call()
