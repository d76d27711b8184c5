"""The matrix of subsets: where one modality tells another it shows, where it does not it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from lom_core.checkpoint import load_model
from lom_core.config import RunConfig
from lom_core.data import LanePlan, Reader
from lom_core.errors import ConfigError
from lom_core.evaluate import evaluate
from lom_core.roles import Tokens
from lom_core.selection import leave_out
from lom_core.sources import ListSource
from lom_core.subsets import evaluate_subsets
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
OBJECTIVES: list[Any] = ["next_token", {"kind": "masked", "ratio": 0.5}]


def letter(value: int) -> Tokens:
    return Tokens(np.array([value]), np.zeros((1, 1), np.float32))


def triples(n: int, seed: int) -> Iterator[dict[str, Any]]:
    """``copy`` repeats ``letter``; ``coin`` knows nothing of either; one of four lacks a copy."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        value = int(rng.integers(4))
        record = {"letter": letter(value), "coin": letter(int(rng.integers(4))), "id": str(i)}
        yield record if i % 4 == 0 else {**record, "copy": letter(value)}


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_what_tells_what(
    objective: Any, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    import sys
    import types

    module = types.ModuleType("triples_data")
    module.Triples = lambda n, seed: ListSource(list(triples(n, seed)))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "triples_data", module)
    data = {"kind": "triples_data:Triples", "n": 400, "seed": 0}
    position = {"kind": "index", "max_positions": 2}
    config = make_run(
        modalities={n: {"vocab_size": 4, "position": position} for n in ("letter", "copy", "coin")},
        data={
            "dataset": data,
            "eval": {"val": {**data, "n": 80, "seed": 1}},
            "shuf": True,
            "modality_dropout": 0.2,
        },
        train={"max_iters": 150, "eval_interval": 1000},
        model={"n_layer": 1},
        optimizer={"learning_rate": 5e-3, "lr_decay_iters": 150},
        objective=objective,
    )
    train(config)
    model, config, _ = load_model(tmp_path / "run")
    reader = Reader(config.data.eval["val"].build(config.registry), config.registry, 64)
    cells = {(c.given, c.target): c for c in evaluate_subsets(model, reader, config)}
    assert len(cells) == 3 * 4, "each target from each subset of the other two"
    assert cells[("letter",), "copy"].gain > 1.0 > np.log(4) - 1
    assert cells[("copy",), "letter"].right > 0.95 > cells[(), "letter"].right
    assert abs(cells[("coin",), "letter"].gain) < 0.2
    assert abs(cells[("letter", "copy"), "coin"].gain) < 0.3
    assert cells[(), "letter"].records == 80 and cells[("letter",), "copy"].records == 60
    few = evaluate_subsets(model, reader, config, largest=1, targets=["coin"])
    assert [c.given for c in few] == [(), ("letter",), ("copy",)]
    assert few[1].loss == pytest.approx(cells[("letter",), "coin"].loss, abs=1e-4)
    with pytest.raises(ConfigError, match="did you mean 'coin'"):
        evaluate_subsets(model, reader, config, targets=["coint"])


def test_alone_is_what_evaluation_says(make_run: MakeRun, tmp_path: Any) -> None:
    """Records of one modality: the matrix is `lom eval`, packed otherwise."""
    modalities = {"wave": make_run().modalities["wave"]}
    train(make_run(modalities=modalities))
    model, config, _ = load_model(tmp_path / "run")
    reader = Reader(config.data.dataset.build(config.registry), config.registry, 64)
    (cell,) = evaluate_subsets(model, reader, config)
    metrics, _ = evaluate(model, reader, config)
    assert cell.loss == pytest.approx(metrics["loss/wave"], rel=1e-4)
    assert cell.records == 40


# ------------------------------------------------------------------------------ modality dropout


def test_dropout_leaves_out_as_often_as_it_says_and_never_all() -> None:
    tokens = {name: letter(0) for name in "abc"}
    kept = [leave_out(tokens, {"a": 0.5, "b": 0.2}, seed) for seed in range(4000)]
    share = {n: float(np.mean([n in k for k in kept])) for n in "abc"}
    assert share["a"] == pytest.approx(0.5, abs=0.03)
    assert share["b"] == pytest.approx(0.8, abs=0.03)
    assert share["c"] == 1.0
    assert all(list(k) == [n for n in "abc" if n in k] for k in kept), "the order stays"
    most = [leave_out(tokens, dict.fromkeys("abc", 0.95), seed) for seed in range(500)]
    assert min(map(len, most)) == 1 and {n for k in most for n in k} == set("abc")
    assert leave_out(tokens, {"a": 0.5}, 7).keys() == leave_out(tokens, {"a": 0.5}, 7).keys()


def test_it_grows_over_the_ramp_and_never_in_evaluation(make_run: MakeRun) -> None:
    registry = make_run().registry
    plan = LanePlan(4, 64, seed=1, modality_dropout=0.4, modality_dropout_ramp=100)
    rates = [plan.dropout(n, registry) for n in (0, 50, 100, 10_000)]
    assert [r["wave"] for r in rates if r] == pytest.approx([0, 0.2, 0.4, 0.4])
    assert LanePlan(4, 64, modality_dropout=0.4).dropout(3, registry) is None, "no seed: evaluation"
    assert LanePlan(4, 64, seed=1).dropout(3, registry) is None


def test_a_run_trains_with_it_and_resumes_exactly(make_run: MakeRun, tmp_path: Any) -> None:
    import torch

    data = {"modality_dropout": {"word": 0.5}, "modality_dropout_ramp": 20}
    straight = make_run(data=data, system={"out_dir": str(tmp_path / "a")})
    train(straight)
    train(make_run(data=data, train={"max_iters": 4, "checkpoint_interval": 4}))
    train(make_run(data=data, train={"max_iters": 8, "init_from": "resume"}))
    a, b = (load_model(tmp_path / name / "checkpoints")[0] for name in ("a", "run"))
    for (name, x), y in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(x, y), name
    with pytest.raises(ValueError, match="unknown modality 'wrd'"):
        make_run(data={"modality_dropout": {"wrd": 0.5}})
    with pytest.raises(ValueError, match="less than 1"):
        make_run(data={"modality_dropout": 1.0})
