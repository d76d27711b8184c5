"""Evaluation stands beside predictors that need no model: known answers for each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lom_core import ModalityConfig, ModalityRegistry, Objective, Scale, Tokens, checkpoint
from lom_core.batch import Batch, Observation, Span, pack_row
from lom_core.config import ModelConfig, RunConfig
from lom_core.data import Reader
from lom_core.errors import PluginError
from lom_core.evaluate import (
    Metrics,
    error_scores,
    evaluate,
    examples,
    previous_token,
    record_sums,
    set_metrics,
    trivial_losses,
    trivial_names,
    validation_readers,
)
from lom_core.model import Lom, Parts
from lom_core.roles import Array
from lom_core.scaling import ZScoreScale
from lom_core.sources import ListSource
from lom_core.testing import Subject
from lom_core.testing.checks import check_predictors_guess_from_before
from lom_core.train import train


class ByPlace(Scale):
    """Zero-mean at each of two places (the first coordinate), unit spread."""

    def build(self, width: int, n_channels: int = 1) -> torch.nn.Module:
        return ByPlaceScale(width, n_channels)


class ByPlaceScale(ZScoreScale):
    mean_name = "climatology"
    table: torch.Tensor

    def __init__(self, width: int, n_channels: int) -> None:
        super().__init__(width, n_channels)
        self.register_buffer("table", torch.zeros(2))

    def fit(self, content: Array, weights: Array, positions: Array | None = None) -> None:
        assert positions is not None
        for place in (0, 1):
            self.table[place] = float(content[positions[:, 0] == place].mean())

    def forward(self, x: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        assert positions is not None
        return x.float() - self.table[positions[:, 0].long()][:, None]

    def inverse(self, y: torch.Tensor, positions: torch.Tensor | None = None) -> torch.Tensor:
        assert positions is not None
        return y + self.table[positions[:, 0].long()][:, None]


class TwoPlaces(ModalityConfig):
    """Values that alternate between two places; persistence is the value two tokens before."""

    def defaults(self) -> dict[str, Any]:
        return {"scale": ByPlace(), "head": {"kind": "huber", "delta": 1000}}

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        guess = np.full(tokens.content.shape, np.nan, np.float32)
        guess[2:] = tokens.content[:-2]
        return {"persistence": guess}


def observe(*values: Any, places: bool = True) -> Tokens:
    content = np.array(values)
    at = np.arange(len(values)) % 2 if places else np.arange(len(values))
    if content.dtype.kind == "f":
        content = content.astype(np.float32)[:, None]
    return Tokens(content, at.astype(np.float32)[:, None])


def model_and_batch(config: ModalityConfig, *tokens: Tokens) -> tuple[Lom, Batch]:
    model = Lom(ModalityRegistry([config]), ModelConfig(n_layer=1, n_head=1, n_embd=8))
    model.fit_scales({config.name: list(tokens)})
    rows = [
        pack_row([Observation(str(i), {config.name: t})], 1 + len(t), [config.name])
        for i, t in enumerate(tokens)
    ]
    return model, Objective.model_validate("next_token").prepare(rows, model.layouts)


def test_the_fields_own_predictors_and_means_stand_beside_the_model() -> None:
    first, second = observe(10.0, 100.0, 12.0, 96.0), observe(14.0, 104.0)
    model, batch = model_and_batch(TwoPlaces(name="t", input_size=1), first, second)
    # Means are 12 and 100: anomalies -2 0 0 -4 | 2 4. Huber far below its delta is half a square.
    losses = trivial_losses(model, batch, "t")
    assert float(losses["climatology"].sum()) == pytest.approx((4 + 0 + 0 + 16 + 4 + 16) / 2)
    # Persistence: the mean where there is nothing yet, else the anomaly of two tokens before.
    assert float(losses["persistence"].sum()) == pytest.approx(
        (4 + 0 + (0 + 2) ** 2 + 16 + 4 + 16) / 2
    )
    assert float(losses["previous_token"].sum()) == pytest.approx((4 + 4 + 0 + 16 + 4 + 4) / 2)
    assert list(losses) == ["climatology", "previous_token", "persistence"]


class ComesAndGoes(TwoPlaces):
    """No persistence for a curve that is too short for it."""

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        return super().predictors(tokens) if len(tokens) > 2 else {}


class OneColumn(TwoPlaces):
    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        return {"persistence": super().predictors(tokens)["persistence"][:, 0]}


@pytest.mark.parametrize(
    ("kind", "message"),
    [(ComesAndGoes, r"'t' must give the same names .*: persistence"), (OneColumn, r"is \(4,\)")],
)
def test_predictors_that_break_their_promise_are_told(
    kind: type[ModalityConfig], message: str
) -> None:
    long, short = observe(10.0, 100.0, 12.0, 96.0), observe(14.0, 104.0)
    modality = kind(name="t", input_size=1)
    for several in ((long, short), (short, long)):
        with pytest.raises(PluginError, match=message if len(several[0]) == 4 else "predictors"):
            trivial_losses(*model_and_batch(modality, *several), "t")
    with pytest.raises(AssertionError, match=r"persistence|is \(4,\)"):
        check_predictors_guess_from_before(Subject(modality, [long, short, long]))


def test_one_batch_after_the_other_has_the_same_predictors(
    make_run: Callable[..., RunConfig],
) -> None:
    modality = ComesAndGoes(name="t", input_size=1)
    model, _ = model_and_batch(modality, observe(10.0, 100.0, 12.0, 96.0))
    config = make_run().model_copy(update={"modalities": {"t": modality}})
    config = config.model_copy(
        update={"data": config.data.model_copy(update={"block_size": 6, "batch_size": 1})}
    )
    records = [{"t": observe(10.0, 100.0, 12.0, 96.0)}, {"t": observe(14.0, 104.0)}]
    with pytest.raises(PluginError, match="what differs: persistence"):
        evaluate(model, Reader(ListSource(records), model.registry, 6), config)


def test_what_is_hidden_is_nobodys_guess() -> None:
    config = ModalityConfig(
        name="x", input_size=1, scale="identity", head={"kind": "huber", "delta": 1000}
    )  # type: ignore[arg-type]
    model, _ = model_and_batch(config, observe(1.0, 2.0, 4.0, 8.0))
    row = pack_row([Observation("0", {"x": observe(1.0, 2.0, 4.0, 8.0)}, seed=3)], 5, ["x"])
    batch = Objective.model_validate({"kind": "masked", "ratio": 0.5}).prepare([row], model.layouts)
    span = batch.spans["x"]
    guess, first = previous_token(span.content, span, batch.bos)
    shown = set(span.shown.tolist())
    for i in range(4):
        earlier = [j for j in range(i) if j in shown]
        assert bool(first[i]) == (not earlier)
        if earlier:
            assert guess[i] == span.content[earlier[-1]]


def test_answers_come_back_to_the_units_of_their_own_place() -> None:
    model, batch = model_and_batch(TwoPlaces(name="t", input_size=1), observe(10.0, 100.0, 12.0))
    head = model.part("t").head
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)  # answers 0: the mean of each place
    assert model.predict(batch)["t"].flatten().tolist() == [11, 100, 11]


def test_tokens_are_compared_with_the_entropy_of_the_single_token() -> None:
    config = ModalityConfig(name="word", vocab_size=4)
    model, batch = model_and_batch(config, observe(0, 0, 0, 1, 0, 2, places=False))
    # Counted with one more of each: 5, 2, 2, 1 of 10.
    expected = -(4 * np.log(0.5) + 2 * np.log(0.2))
    unigram = trivial_losses(model, batch, "word")["unigram"].sum()
    assert float(unigram) == pytest.approx(expected, rel=1e-5)
    head = model.part("word").head
    assert torch.equal(head.project.bias, head.log_frequency), "a model begins at the frequencies"


def test_trivial_names() -> None:
    metrics = {"loss": 1.0, "loss/a": 1.0, "unigram/a": 2.0, "previous_token/b": 3.0}
    assert trivial_names(metrics) == ["unigram", "previous_token"]


def test_errors_are_told_in_physical_units() -> None:
    """Known answers: RMSE, MAE, R2 by weight; the share of right tokens."""
    answers = torch.tensor([[1.0], [2.0], [5.0], [100.0]])
    truth = torch.tensor([[1.0], [4.0], [4.0], [0.0]])
    weights = torch.tensor([[1.0], [1.0], [2.0], [0.0]])
    span = Span(truth, truth, weights, *[torch.arange(4)] * 4)
    part = TwoPlaces(name="x", input_size=1)
    model = Lom(ModalityRegistry([part]), ModelConfig(n_layer=1, n_head=1, n_embd=8))
    found = scored(answers, span, model.part("x"))
    # Errors 0, 2, 1, 1 of y = 1, 4, 4, 4: the mean is 3.25, its variance 27/16.
    assert found["rmse"] == pytest.approx((6 / 4) ** 0.5)
    assert found["mae"] == pytest.approx(1.0)
    assert found["r2"] == pytest.approx(1 - 6 / (4 * 27 / 16))

    config = ModalityConfig(name="w", vocab_size=9)
    words = Lom(ModalityRegistry([config]), ModelConfig(n_layer=1, n_head=1, n_embd=8))
    tokens = torch.tensor([3, 4, 5, 6])
    span = Span(tokens, truth, weights, *[torch.arange(4)] * 4)
    found = scored(torch.tensor([3, 0, 5, 0]), span, words.part("w"))
    assert found == {"loss": 1.0, "accuracy": pytest.approx(3 / 4)}


def scored(answers: torch.Tensor, span: Span, part: Parts) -> Metrics:
    """Metrics of one record of losses 1."""
    scores = error_scores(answers, span)
    scores["loss"] = scores["weight"]
    found = set_metrics(record_sums(scores, span, torch.tensor([-1])), part)
    return {name: ratio.value for name, ratio in found.items()}


def test_evaluation_measures_what_the_model_answers(make_run: Callable[..., RunConfig]) -> None:
    """The table's RMSE is that of the decoded predictions, one observation after another."""
    config = make_run(train={"max_iters": 3})
    found = train(config).metrics["val"]
    model, config, _ = checkpoint.load_model(checkpoint.find(config.system.out_dir, "latest"))
    (reader,) = validation_readers(config)[1].values()
    squares, words = [], []
    for example in examples(model, reader, config, 100):
        if example.modality == "wave":
            error = example.predicted["content"] - example.truth["content"]
            squares += list(np.square(error).ravel())
        else:
            same = example.predicted["content"] == example.truth["content"]
            words += list(same.ravel())
    assert found["rmse/wave"] == pytest.approx(np.mean(squares) ** 0.5, rel=1e-4)
    assert found["accuracy/word"] == pytest.approx(np.mean(words))
    assert {"mae/wave", "r2/wave"} <= found.keys()
    assert trivial_names(found) == ["training_mean", "previous_token", "unigram"]
