"""How sure a mean over a set is: as a bootstrap over its records says, however they were batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lom_core import ModalityConfig, ModalityRegistry, checkpoint
from lom_core.batch import Span
from lom_core.card import card
from lom_core.config import ModelConfig, RunConfig
from lom_core.evaluate import (
    SCORES,
    Metrics,
    error_scores,
    evaluate,
    examples,
    measures,
    record_sums,
    set_metrics,
    trivial_names,
    validation_readers,
)
from lom_core.model import Lom, Parts
from lom_core.ratios import Ratio, RecordSums, tell
from lom_core.roles import Array
from lom_core.runfile import override
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
NAMES = (*SCORES, "training_mean", "previous_token")


def part(**settings: Any) -> Parts:
    registry = ModalityRegistry([ModalityConfig(name="x", **settings)])
    return Lom(registry, ModelConfig(n_layer=1, n_head=1, n_embd=8)).part("x")


def scored(rng: np.random.Generator, n: int) -> Array:
    """(n, k): what n records of 1 to 60 values were scored. Each has an offset, a spread and a
    difficulty of its own, so that values of one record are alike."""
    found = []
    for size in rng.integers(1, 60, n):
        weight = rng.uniform(0.2, 2, size)
        y = rng.normal(5, 2) + rng.gamma(2, 0.5) * rng.normal(size=size)
        error = rng.gamma(2, 0.3) * rng.normal(size=size) + 0.3 * (y - 5)
        loss = error**2 + rng.normal(size=size)
        mean, previous = loss + rng.gamma(2, 0.5), (y - 5) ** 2 + rng.normal(0.2, 1)
        columns = (loss, np.ones(size), y, y**2, abs(error), error**2, mean, previous)
        found.append([float((weight * column).sum()) for column in columns])
    return np.array(found)


@pytest.mark.parametrize("discrete", [False, True])
def test_standard_errors_are_those_of_a_bootstrap_over_records(
    rng: np.random.Generator, discrete: bool
) -> None:
    numbers, of = scored(rng, 300), part(**({"vocab_size": 4} if discrete else {"input_size": 1}))
    if discrete:  # |error| is the weight of the wrong tokens
        numbers[:, SCORES.index("absolute")] = numbers[:, 1] * rng.uniform(0, 1, 300)
    found = set_metrics(RecordSums.of(NAMES, numbers), of)
    draws = [numbers[rng.integers(0, 300, 300)] for _ in range(2000)]
    drawn = [set_metrics(RecordSums.of(NAMES, draw), of) for draw in draws]
    expected = {"accuracy"} if discrete else {"rmse", "mae", "r2"}
    assert found.keys() == {"loss", "training_mean", "previous_token", "gain"} | expected
    for name, (_, se) in found.items():
        spread = np.std([draw[name].value for draw in drawn])
        assert se == pytest.approx(spread, rel=0.08), name


def test_the_gain_is_paired(rng: np.random.Generator) -> None:
    """Records that are hard for everybody blur the losses, not their difference."""
    numbers = scored(rng, 300)
    numbers[:, 0] += 100 * numbers[:, 1] * (hard := rng.normal(size=300))
    numbers[:, -2] += 100 * numbers[:, 1] * hard
    numbers[:, -1] += 1e6
    found = set_metrics(RecordSums.of(NAMES, numbers), part(input_size=1))
    gain, loss, mean = found["gain"], found["loss"], found["training_mean"]
    assert gain.value == pytest.approx(mean.value - loss.value)
    assert gain.se and loss.se and gain.se < 0.02 * loss.se


def test_what_cannot_be_known_is_not_told(rng: np.random.Generator) -> None:
    numbers, of = scored(rng, 5), part(input_size=1)
    one = set_metrics(RecordSums.of(NAMES, numbers[:1]), of)
    assert all(np.isfinite(value) and se is None for value, se in one.values())
    alike = RecordSums.of(("loss", "weight"), np.outer(rng.uniform(1, 2, 50), [0.3, 1.0]))
    assert alike.ratio({"loss": 1}, {"weight": 1}) == (pytest.approx(0.3), None)
    assert Ratio(0.0, None).sqrt() == (0.0, None)
    # A loss that is not finite spoils itself alone.
    numbers[2, SCORES.index("loss")], numbers[2, SCORES.index("y")] = np.inf, 0
    found = set_metrics(RecordSums.of(NAMES, numbers), of)
    assert found["loss"] == (np.inf, None)
    assert found["rmse"].se and found["previous_token"].se


def test_values_far_from_zero_have_no_made_up_error(rng: np.random.Generator) -> None:
    """R2 of 1e6 +- 1 in float64: the digits that an error would need are gone, so none is told."""
    numbers = scored(rng, 100)
    near = set_metrics(RecordSums.of(NAMES, numbers), part(input_size=1))["r2"]
    for offset, known in ((100.0, True), (3e5, False)):
        moved = numbers.copy()
        weight, y, yy = (numbers[:, SCORES.index(name)] for name in ("weight", "y", "yy"))
        moved[:, SCORES.index("y")] = y + offset * weight
        moved[:, SCORES.index("yy")] = yy + 2 * offset * y + offset**2 * weight
        far = set_metrics(RecordSums.of(NAMES, moved), part(input_size=1))["r2"]
        assert far.value == pytest.approx(near.value, rel=1e-3)
        assert far.se == (pytest.approx(near.se, rel=1e-3) if known else None)


def test_records_are_told_apart_and_those_without_weight_do_not_count() -> None:
    truth = torch.tensor([[1.0], [2.0], [float("nan")], [4.0]])
    weights = torch.tensor([[1.0], [3.0], [0.0], [2.0]])
    every = torch.arange(4)
    span = Span(truth, truth, weights, torch.tensor([1, 2, 6, 8]), every, every, every)
    scores = error_scores(torch.zeros(4, 1), span)
    sums = record_sums(scores, span, torch.tensor([0, 5, 7]))
    assert sums.n == 2 and sums["weight"] == 6 and sums["y"] == 15
    weight = sums.names.index("weight")
    assert sums.products[weight, weight] == 4**2 + 2**2
    mean = sums.ratio({"y": 1}, {"weight": 1})
    # 7 - 2.5 * 4 = -3 and 8 - 2.5 * 2 = 3, over 6; n / (n - 1) = 2.
    assert mean == (2.5, pytest.approx((2 * (9 + 9)) ** 0.5 / 6))


@pytest.fixture
def run(make_run: MakeRun) -> tuple[Lom, RunConfig]:
    config = make_run(data={"val_fraction": 0.4}, train={"max_iters": 3})
    out_dir = train(config).out_dir
    model, config, _ = checkpoint.load_model(checkpoint.find(out_dir, "latest"))
    return model, config


def evaluated(run: tuple[Lom, RunConfig], *overrides: str) -> Metrics:
    model, config = run[0], override(run[1], overrides)
    return evaluate(model, validation_readers(config)[1]["val"], config)[0]


def test_batches_change_nothing(run: tuple[Lom, RunConfig]) -> None:
    one, eight = evaluated(run, "batch_size=1"), evaluated(run, "batch_size=8")
    assert list(one) == list(eight)
    # A Gaussian's trivial predictors get the spread that suits each batch best.
    own = [k for k in one if not k.startswith(("training_mean", "previous_token", "gain"))]
    assert {"loss_se/wave", "r2_se/wave", "unigram_se/word", "accuracy_se/word"} <= set(own)
    for key in own:
        assert one[key] == pytest.approx(eight[key], rel=1e-4), key
    assert one["records/wave"] == 16 and 0 < one["records/word"] < 16
    assert trivial_names(one) == ["training_mean", "previous_token", "unigram"]


def test_evaluation_knows_the_spread_of_what_the_model_answers(run: tuple[Lom, RunConfig]) -> None:
    """The error of the RMSE, from decoded predictions of one observation after another."""
    model, config = run
    found = evaluated(run)
    squares, sizes = [], []
    for example in examples(model, validation_readers(config)[1]["val"], config, 100):
        if example.modality == "wave":
            error = example.predicted["content"] - example.truth["content"]
            squares.append(np.square(error).sum())
            sizes.append(error.size)
    s, w, n = np.array(squares), np.array(sizes), len(sizes)
    mean = s.sum() / w.sum()
    se = (n / (n - 1) * ((s - mean * w) ** 2).sum()) ** 0.5 / w.sum()
    assert n == found["records/wave"]
    assert found["rmse_se/wave"] == pytest.approx(se / (2 * mean**0.5), rel=1e-3)


def test_one_record_has_no_interval(run: tuple[Lom, RunConfig]) -> None:
    metrics = evaluated(run, "val_fraction=0.01")
    assert metrics["records/wave"] == 1
    assert not [key for key in metrics if "_se/" in key]


@pytest.mark.parametrize(
    ("value", "se", "told"),
    [
        (0.51337, 0.0107, "0.513 ± 0.021"),
        (-3.0, 0.005, "-3.0000 ± 0.0098"),
        (12345.6, 345.0, "12346 ± 676"),
        (3.21e-18, 1.1e-19, "3.21e-18 ± 2.2e-19"),
        (2.5e7, 1e6, "2.5e+07 ± 2e+06"),
        (0.123456, None, "0.1235"),
        (20000, None, "20000"),
    ],
)
def test_a_metric_is_told_to_the_digits_that_are_known(
    value: float, se: float | None, told: str
) -> None:
    metrics = {"mae/x": value} | ({} if se is None else {"mae_se/x": se})
    assert tell(metrics, "mae/x") == told
    assert tell(metrics, "mae/y") == ""


def test_measures_stand_in_one_order() -> None:
    metrics = {
        "loss/a": 1.0,
        "loss_se/a": 0.1,
        "rmse/a": 1.0,
        "unigram/b": 2.0,
        "unigram_se/b": 1.0,
    }
    assert measures({**metrics, "gain/b": 1.0, "loss": 1.0, "records/a": 3}) == [
        "records", "loss", "unigram", "gain", "rmse",
    ]  # fmt: skip


def test_the_card_tells_intervals_where_there_are_any(run: tuple[Lom, RunConfig]) -> None:
    found = checkpoint.find(run[1].system.out_dir)
    state = checkpoint.read_state(found)
    text = card(state, found)
    assert "|  | records | loss | training mean | previous token | unigram | gain | rmse |" in text
    metrics = state["metrics"]["val"]
    assert f"| wave | 16 | {tell(metrics, 'loss/wave')} | " in text and "±" in text
    assert "95% interval" in text and "_se" not in text and " se |" not in text
    # As checkpoints before 0.2 have it.
    kept = {k: v for k, v in metrics.items() if "_se/" not in k and "records" not in k}
    text = card({**state, "metrics": {"val": kept}}, found)
    assert f"| wave | {metrics['loss/wave']:.4g} | " in text
    assert "±" not in text and "95%" not in text
