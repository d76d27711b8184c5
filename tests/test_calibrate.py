"""Intervals hold what they promise after correction, and scores are those of the literature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lom_core
from lom_core import CheckpointError, ConfigError, DataError, Head, RunConfig
from lom_core import calibrate as calibration
from lom_core.calibrate import Tokenwise, calibrate
from lom_core.conformal import FILE, LEVELS, Correction, levels_of, quantiles, scores
from lom_core.evaluate import validation_readers
from lom_core.heads import HeadModule
from lom_core.runfile import override
from lom_core.sources import ListSource
from lom_core.train import train


def head_of(kind: str, bias: float = 0.0) -> HeadModule:
    """Answers that do not depend on the input: a standard normal's, or 0."""
    torch.manual_seed(0)
    head = Head.model_validate(kind).build(4, 1)
    assert isinstance(head, HeadModule)
    torch.nn.init.zeros_(head.project.weight)  # type: ignore[union-attr,arg-type]
    if kind != "quantile":
        with torch.no_grad():
            head.project.bias[0] = bias  # type: ignore[union-attr,operator,index]
    return head


@settings(deadline=None, max_examples=15)
@given(
    st.sampled_from(["gaussian", "student_t", "quantile", "huber"]),
    st.floats(0.3, 4),
    st.integers(0, 100),
)
def test_intervals_hold_what_they_promise(kind: str, spread: float, seed: int) -> None:
    """Whatever the truth's spread and tails, and whatever the head believes."""
    head, rng = head_of(kind), np.random.default_rng(seed)
    fit, test = (
        torch.tensor(spread * rng.standard_t(3, (3000, 1)), dtype=torch.float32) for _ in range(2)
    )
    h = torch.zeros(3000, 4)
    with torch.no_grad():
        levels = levels_of(head)
        found = scores(head, h, fit, levels).flatten(1).numpy()
        correction = Correction.fit(found, levels)
        for level in (0.5, 0.9, 0.95):
            low, high = quantiles(head, h, [(1 - level) / 2, (1 + level) / 2], correction)
            inside = ((test >= low) & (test <= high)).float().mean().item()
            assert inside == pytest.approx(level, abs=0.045)


def test_few_values_give_wide_intervals() -> None:
    """With n = 9 the ceil(10 x 0.9) = 9th smallest score is the largest."""
    found = Correction.fit(np.arange(1.0, 10.0)[None], (0.9,))
    assert found.factors == (9.0,)
    with pytest.raises(ConfigError, match="calibrated up to 90%"):
        found.at(0.95)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(9, 40))
def test_records_not_values_are_exchangeable(seed: int, n: int) -> None:
    """Values of a record share most of their error, and long records are the surer ones: over many
    draws of n records a new one has 90% inside, as values counted one by one do not."""
    rng = np.random.default_rng(seed)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        record = np.repeat(np.arange(n), rng.choice([5, 60], n))
        spread = np.where(np.bincount(record)[record] > 30, 0.3, 3.0)
        return np.abs(
            spread * (rng.normal(size=n)[record] + 0.2 * rng.normal(size=len(record)))
        ), record

    held = {"records": [], "values": []}
    new, of = draw(400)
    for _ in range(60):
        score, record = draw(n)
        for name, records in (("records", record), ("values", None)):
            factor = Correction.fit(score[None], (0.9,), records).factors[0]
            held[name].append((np.bincount(of, new <= factor) / np.bincount(of)).mean())
    assert np.mean(held["records"]) > 0.86
    assert np.mean(held["values"]) < 0.8


def test_a_value_a_record_is_the_plain_correction() -> None:
    found, names = (
        np.random.default_rng(0).random((3, 50)),
        np.random.default_rng(1).permutation(50),
    )
    plain = Correction.fit(found, (0.5, 0.9, 0.95))
    assert plain == Correction.fit(found, (0.5, 0.9, 0.95), names)
    ordered = np.sort(found, axis=1)  # ceil(51 l) - 1: 25, 45, 48
    assert plain.factors == (ordered[0, 25], ordered[1, 45], ordered[2, 48])


def test_a_perfect_forecast_is_left_as_it_is() -> None:
    head, rng = head_of("gaussian"), np.random.default_rng(0)
    truth = torch.tensor(rng.normal(0, 1.001, (20000, 1)), dtype=torch.float32)
    with torch.no_grad():
        found = scores(head, torch.zeros(20000, 4), truth, LEVELS).flatten(1).numpy()
    assert Correction.fit(found, LEVELS).factors == pytest.approx(np.ones(len(LEVELS)), abs=0.08)


def test_calibration_error_of_known_answers() -> None:
    """Sure of 0.8 and right half the time: 0.3 too sure."""
    right = np.tile([0.0, 1.0], 50)
    sure = Tokenwise(np.full(100, 0.8), right, np.ones(100))
    assert sure.error() == pytest.approx(0.3)
    assert Tokenwise(np.full(100, 0.5), right, np.ones(100)).error() == pytest.approx(0)


def test_crps_of_a_standard_normal() -> None:
    """2 phi(0) - 1 / sqrt(pi) = 0.2337 at the mean; of a point the absolute error."""
    head = head_of("gaussian")
    h, zero = torch.zeros(1, 4), torch.zeros(1, 1)
    with torch.no_grad():
        sigma = head.distribution(h)[1].item()  # type: ignore[operator]
        assert head.crps(h, zero).item() == pytest.approx(0.233695 * sigma, rel=1e-4)
        assert head_of("huber", 3.0).crps(h, zero).item() == 3.0


def test_predictions_are_corrected_once_calibrated(make_run: Callable[..., RunConfig]) -> None:
    config = make_run(data={"val_fraction": 0.5}, train={"max_iters": 30})
    train(config)
    model = lom_core.load(config.system.out_dir)
    source = validation_readers(config)[1]["val"].source
    result = calibrate(model, source, None, ("half", "half"))
    rows = {row["modality"]: row for row in result.rows()}
    assert rows["wave"]["90% corrected"] == pytest.approx(0.9, abs=0.08)
    assert [row["modality"] for row in result.token_rows()] == ["word"]
    path = calibration.save(model, result)
    assert path == model.checkpoint / FILE

    corrected, record = lom_core.load(config.system.out_dir), source[0]
    for level in (0.05, 0.9):
        raw, new = (
            m.predict(record, target="wave", quantiles=(0.5, level))[0] for m in (model, corrected)
        )
        factor = result.corrections["wave"].at(abs(2 * level - 1))
        stretched = (new.bounds[level].content - new.bounds[0.5].content) / (
            raw.bounds[level].content - raw.bounds[0.5].content
        )
        assert stretched == pytest.approx(np.full(stretched.shape, factor), rel=1e-3)
    with pytest.raises(DataError, match="1 record"):
        calibrate(model, ListSource([record]), None, ("", ""))


def test_a_head_without_intervals_is_left_as_it_is(make_run: Callable[..., RunConfig]) -> None:
    head = {"kind": "quantile", "levels": [0.5, 0.9]}
    config = override(make_run(data={"val_fraction": 0.5}), [f"wave.head={json.dumps(head)}"])
    train(config)
    model = lom_core.load(config.system.out_dir)
    source = validation_readers(model.config)[1]["val"].source
    calibration.save(model, calibrate(model, source, None, ("half", "half")))
    calibrated = lom_core.load(config.system.out_dir)
    answer = calibrated.predict(source[0], target="wave", quantiles=(0.5, 0.9))
    assert set(answer[0].bounds) == {0.5, 0.9}


def test_a_correction_belongs_to_its_weights(make_run: Callable[..., RunConfig]) -> None:
    config = make_run(train={"max_iters": 2})
    train(config)
    model = lom_core.load(config.system.out_dir)
    path: Path = model.checkpoint / FILE
    wave = {"levels": [0.9], "factors": [1.2], "n": 10}
    path.write_text(json.dumps({"weights": "x", "data": "", "modalities": {"wave": wave}}))
    with pytest.raises(CheckpointError, match="belongs to other weights"):
        lom_core.load(config.system.out_dir)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        lom_core.load(config.system.out_dir)
    assert not lom_core.load(config.system.out_dir, calibrated=False).corrections
