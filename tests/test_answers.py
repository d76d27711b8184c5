"""Answers: kept keys and values change nothing, nobody sees what is asked, likelihoods add up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lom_core import ModalityConfig, RunConfig, Tokeniser, Tokens
from lom_core.answers import pose
from lom_core.api import LargeObservationModel
from lom_core.batch import Observation, pack_row
from lom_core.model import Lom
from lom_core.roles import Array


class Letters(Tokeniser, kind="letters_of_a_test"):
    """Letters a .. e, then an end (5); the next one stands where the numbers so far add up to."""

    end: int | None = 5

    @property
    def vocab_size(self) -> int:
        return 6

    def encode(self, value: Any) -> Tokens:
        content = np.array(["abcde".index(letter) for letter in value] + [5])
        return Tokens(content, self.places(content))

    def places(self, content: Array) -> Array:
        return np.asarray(np.cumsum(content)[:, None].astype(np.float32))

    def decode(self, tokens: Tokens) -> str:
        return "".join("abcde."[i] for i in tokens.content)


def make_model(objective: Any = "next_token", **model: Any) -> LargeObservationModel:
    """A model whose weights are large enough for everything to matter."""
    torch.manual_seed(0)
    place = {"kind": "fourier", "n_frequencies": 4, "min_period": 0.5, "max_period": 40}
    config = RunConfig.model_validate(
        {
            "modalities": [
                ModalityConfig(name="wave", input_size=2, position=place, head="mixture"),  # type: ignore[arg-type]
                ModalityConfig(name="mass", input_size=1, scale="log", head="gaussian"),  # type: ignore[arg-type]
                ModalityConfig(
                    name="word",
                    vocab_size=6,
                    tokeniser=Letters(),
                    position=place,
                    reveal_position=False,
                ),  # type: ignore[arg-type]
            ],
            "data": {"dataset": {"kind": "table", "path": "none.csv", "columns": {"mass": "m"}}},
            "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, **model},
            "objective": objective,
        }
    )
    lom = Lom(config.registry, config.model)
    for parameter in lom.body.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    rng = np.random.default_rng(0)
    reader = LargeObservationModel(lom, config, Path()).reader
    samples: dict[str, list[Tokens]] = {name: [] for name in config.modalities}
    for _ in range(20):
        for name, tokens in reader.tokens(record(rng)).items():
            samples[name].append(tokens)
    lom.fit_scales(samples)
    return LargeObservationModel(lom.eval(), config, Path())


def record(rng: np.random.Generator, n: int = 9) -> dict[str, Any]:
    at = np.sort(rng.uniform(0, 20, n)).astype(np.float32)[:, None]
    wave = 3 + np.concatenate([np.sin(at), np.cos(at)], axis=1).astype(np.float32)
    word = "".join(rng.choice(list("abcde"), rng.integers(2, 7)))
    mass = rng.lognormal(1, 1, (1, 1)).astype(np.float32)
    return {
        "wave": Tokens(wave, at),
        "mass": Tokens(mass, np.zeros((1, 1), np.float32)),
        "word": word,
    }


CAUSAL = ["next_token", "any_order", {"kind": "prefix", "given": ["mass"]}]


@pytest.mark.parametrize("objective", CAUSAL, ids=str)
@pytest.mark.parametrize("model", [{}, {"rotary": True, "qk_norm": True}], ids=str)
def test_kept_keys_and_values_change_nothing(objective: Any, model: dict[str, Any]) -> None:
    asked, rng = make_model(objective, **model), np.random.default_rng(1)
    one = record(rng)
    for how in ({"target": "wave", "prompt": 3}, {"target": "word", "prompt": 2, "max_tokens": 12}):
        fast, slow = (
            asked.generate(one, samples=3, seed=5, cache=cache, **how)[0].sampled
            for cache in (True, False)
        )
        for a, b in zip(fast, slow, strict=True):
            assert a.positions.tolist() == b.positions.tolist()
            if how["target"] == "word":
                assert a.content.tolist() == b.content.tolist()
            else:
                np.testing.assert_allclose(a.content, b.content, rtol=1e-5, atol=1e-5)
        assert how["target"] == "word" or len({a.content.sum() for a in fast}) == 3


@pytest.mark.parametrize("objective", [*CAUSAL, "masked"], ids=str)
@pytest.mark.parametrize("samples", [1, 3])
def test_many_are_answered_as_each_alone(objective: Any, samples: int) -> None:
    """Observations of all lengths, with and without another modality, in one pass."""
    asked, rng = make_model(objective, rotary=True), np.random.default_rng(9)
    records = [record(rng, n) for n in (9, 3, 14, 5)]
    if objective != CAUSAL[2]:  # whose prefix is the mass
        del records[1]["mass"]
    hows: list[dict[str, Any]] = [{"target": "wave", "prompt": 0.4}]
    if objective != "masked":
        hows.append({"target": "word", "prompt": 1, "max_tokens": 12})
    for how in hows:
        together = asked.generate(records, samples=samples, temperature=0, **how)
        for one, found in zip(records, together, strict=True):
            alone = asked.generate(one, samples=samples, temperature=0, **how)[0]
            for a, b in zip(found.sampled, alone.sampled, strict=True):
                assert a.positions.tolist() == b.positions.tolist()
                np.testing.assert_allclose(a.content, b.content, rtol=1e-4, atol=1e-5)
    quantiles = asked.predict(records, target="wave", quantiles=(0.1, 0.9))
    for one, found in zip(records, quantiles, strict=True):
        alone = asked.predict(one, target="wave", quantiles=(0.1, 0.9))[0]
        for level in (0.1, 0.9):
            a, b = found.bounds[level].content, alone.bounds[level].content
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_answers_are_seeded() -> None:
    asked, rng = make_model(), np.random.default_rng(1)
    records = [record(rng), record(rng)]

    def drawn(seed: int, which: slice = slice(0, 2)) -> list[list[float]]:
        found = asked.generate(records[which], target="wave", prompt=0.5, seed=seed)
        return [p.sampled[0].content.ravel().tolist() for p in found]

    assert drawn(3) == drawn(3)
    assert drawn(3)[0] == pytest.approx(drawn(3, slice(0, 1))[0], rel=1e-4)
    assert drawn(3)[0] != pytest.approx(drawn(4)[0], rel=1e-2)


def test_a_first_answer_is_that_of_training() -> None:
    """The question after a prompt is answered from the slot that training would answer it from."""
    asked, rng = make_model(), np.random.default_rng(2)
    one = record(rng)
    tokens = asked.reader.tokens({"mass": one["mass"], "wave": one["wave"]})
    ordered = {"mass": tokens["mass"], "wave": tokens["wave"]}
    observation = Observation("", ordered)
    row = pack_row([observation], observation.n_slots, asked.modalities.names())
    batch = asked.config.objective.prepare([row], asked.lom.layouts)
    truth = asked.lom.predict(batch)["wave"][4]
    found = asked.generate(
        {"mass": one["mass"], "wave": one["wave"]}, target="wave", prompt=4, temperature=0
    )[0]
    np.testing.assert_allclose(found.sampled[0].content[0], truth.numpy(), rtol=1e-5)


def test_a_causal_likelihood_is_the_sum_of_training_losses() -> None:
    asked, rng = make_model(), np.random.default_rng(3)
    one = record(rng)
    tokens = asked.reader.tokens(one)
    observation = Observation("", tokens)
    row = pack_row([observation], observation.n_slots, asked.modalities.names())
    batch = asked.config.objective.prepare([row], asked.lom.layouts)
    with torch.no_grad():
        losses = asked.lom(batch)
    found = asked.log_likelihood(one)[0]
    spread = float(asked.lom.part("wave").scale.spread[0])
    n_values = tokens["wave"].content.size
    assert found["wave"] == pytest.approx(
        -float(losses["wave"]) - n_values * np.log(spread), rel=1e-4
    )
    mass = float(tokens["mass"].content[0, 0])
    jacobian = -np.log(mass) - np.log(float(asked.lom.part("mass").scale.spread[0]))
    assert found["mass"] == pytest.approx(-float(losses["mass"]) + jacobian, rel=1e-4)
    assert found["word"] == pytest.approx(-float(losses["word"]), rel=1e-5)


def test_values_that_were_not_observed_have_no_likelihood() -> None:
    asked = make_model()
    at = np.arange(4, dtype=np.float32)[:, None]
    weights = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], np.float32)
    content = np.ones((4, 2), np.float32)
    other = np.where(weights > 0, content, 77).astype(np.float32)
    found = asked.log_likelihood([{"wave": Tokens(c, at, weights)} for c in (content, other)])
    assert found[0] == found[1]
    assert found[0] != asked.log_likelihood({"wave": Tokens(content, at)})[0]


@pytest.mark.parametrize("objective", ["masked", "next_token"])
def test_nobody_sees_what_is_asked_for(objective: str) -> None:
    asked, rng = make_model(objective), np.random.default_rng(4)
    one = record(rng)
    wave = one["wave"]
    changed = {**one, "wave": Tokens(wave.content + 100, wave.positions)}
    a, b = asked.predict([one, changed], target="wave", quantiles=(0.1, 0.9))
    assert a.tokens is not None and b.tokens is not None
    assert a.tokens.content.tolist() == b.tokens.content.tolist()
    assert a.bounds[0.9].content.tolist() == b.bounds[0.9].content.tolist()
    other = {**one, "mass": Tokens(one["mass"].content * 3, one["mass"].positions)}
    c = asked.predict(other, target="wave")[0]
    assert c.tokens is not None and c.tokens.content.tolist() != a.tokens.content.tolist()


def test_any_positions_can_be_asked_for_at_once() -> None:
    """A masked model answers each position as if alone; its samples spread as its quantiles say."""
    asked, rng = make_model("masked"), np.random.default_rng(4)
    one, at = record(rng), np.array([1.5, 30.0, 7.25])
    found = asked.predict(one, target="wave", at=at, samples=400, quantiles=(0.1, 0.9))[0]
    assert found.tokens is not None and found.tokens.positions.ravel().tolist() == at.tolist()
    drawn = np.stack([t.content for t in found.sampled])
    inside = (drawn > found.bounds[0.1].content) & (drawn < found.bounds[0.9].content)
    assert inside.mean() == pytest.approx(0.8, abs=0.03)


def test_samples_of_a_causal_model_are_joint() -> None:
    """Each roll-out goes on from its own answers: quantiles of far tokens come from all of them."""
    asked, rng = make_model(), np.random.default_rng(5)
    found = asked.predict(record(rng), target="wave", samples=64, quantiles=(0.25, 0.5, 0.75))[0]
    drawn = np.stack([t.content for t in found.sampled])
    below = (drawn <= found.bounds[0.25].content).mean()
    assert below == pytest.approx(0.25, abs=0.02)
    assert (found.bounds[0.25].content <= found.bounds[0.75].content).all()


def test_sequences_end_where_they_say_so() -> None:
    asked, rng = make_model(), np.random.default_rng(6)
    found = asked.generate(record(rng), target="word", prompt=2, samples=40, max_tokens=30)[0]
    lengths = {len(t) for t in found.sampled}
    assert len(lengths) > 3
    for tokens, text in zip(found.sampled, found.samples, strict=True):
        ends = np.flatnonzero(tokens.content == 5)
        assert len(tokens) == (ends[0] + 1 if len(ends) else 30)
        assert text.endswith(".") or len(tokens) == 30
        assert found.before is not None
        whole = np.concatenate([found.before.content, tokens.content])
        assert tokens.positions.tolist() == Letters().places(whole)[2:].tolist()


def test_a_window_goes_on_from_its_own_clock() -> None:
    asked = make_model()
    shifted = Tokens(np.array([1, 2]), np.array([[101.0], [103.0]], np.float32))
    found = asked.generate({"word": shifted}, target="word", max_tokens=3)[0]
    steps = np.cumsum(found.sampled[0].content)
    assert found.sampled[0].positions.ravel().tolist() == (103 + steps).tolist()


def test_labels_stand_where_they_always_stand() -> None:
    """A number and a class need no positions; they are answered from whatever is known."""
    config = RunConfig.model_validate(
        {
            "modalities": {
                "redshift": "scalar",
                "kind": {"kind": "category", "labels": ["spiral", "elliptical"]},
            },
            "data": {"dataset": {"kind": "table", "path": "none.csv", "columns": {"kind": "k"}}},
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 8},
        }
    )
    lom = Lom(config.registry, config.model).eval()
    asked = LargeObservationModel(lom, config, Path())
    labels = [asked.reader.tokens({"redshift": z, "kind": z % 2}) for z in (1, 2, 4)]
    lom.fit_scales({name: [t[name] for t in labels] for name in ("redshift", "kind")})
    found = asked.predict({"redshift": 2.0}, target="kind", samples=30, seed=1)[0]
    assert found.point in ("spiral", "elliptical")
    assert set(found.samples) == {"spiral", "elliptical"}
    assert set(found.chances) == {"spiral", "elliptical"}
    assert sum(found.chances.values()) == pytest.approx(1)
    assert max(found.chances, key=lambda label: found.chances[label]) == found.point
    number = asked.predict({}, given=[], target="redshift", quantiles=(0.1, 0.9))[0]
    assert number.quantiles[0.1] < number.point < number.quantiles[0.9]


def test_at_once_what_is_asked_for_stands_nowhere() -> None:
    """Half of a modality given, the other half hidden: each token is one or the other."""
    asked, rng = make_model("masked"), np.random.default_rng(7)
    tokens = asked.reader.tokens(record(rng))
    batch = pose(
        asked.config.objective, asked.lom.layouts, [Observation("", tokens)], [{"wave": 4}]
    )
    span = batch.spans["wave"]
    assert span.asked.tolist() == [5, 6, 7, 8] and span.shown.tolist() == [0, 1, 2, 3, 4]
    assert len(batch.spans["word"].asked) == 0 and batch.given.tolist() == [batch.n_slots]
    changed = Tokens(
        tokens["wave"].content + 50 * (np.arange(9) > 4)[:, None], tokens["wave"].positions
    )
    h = asked.lom.hidden(batch)[span.ask_slots]
    other = pose(
        asked.config.objective,
        asked.lom.layouts,
        [Observation("", {**tokens, "wave": changed})],
        [{"wave": 4}],
    )
    assert torch.equal(h, asked.lom.hidden(other)[span.ask_slots])


def test_what_had_ended_goes_on() -> None:
    """A whole text is continued, not what comes after its end."""
    asked = make_model()
    found = asked.generate({"word": "abba"}, target="word", max_tokens=4, samples=2, seed=3)[0]
    assert found.before is not None and found.before.content.tolist() == [0, 1, 1, 0]
    assert all(text.startswith("abba") for text in found.samples)


def test_what_is_always_given_is_not_scored() -> None:
    asked, rng = make_model({"kind": "prefix", "given": ["mass"]}), np.random.default_rng(8)
    one = record(rng)
    assert set(asked.log_likelihood(one)[0]) == {"wave", "word"}
    assert asked.log_likelihood(one) == asked.log_likelihood(one, given=["mass"])
