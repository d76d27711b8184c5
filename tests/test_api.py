"""What can be asked of a loaded model, and what is told to those who ask for what it has not."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import lom_core
from lom_core import CheckpointError, ConfigError, DataError, RunConfig, Tokens
from lom_core.api import LargeObservationModel
from lom_core.cli import build
from lom_core.evaluate import validation_readers
from lom_core.tables import read_positions
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


@pytest.fixture
def trained(make_run: MakeRun) -> LargeObservationModel:
    config = make_run(data={"val_fraction": 0.5})
    train(config)
    return lom_core.load(config.system.out_dir)


def records(model: LargeObservationModel, *names: str) -> list[Any]:
    """Held-out records that have all these modalities."""
    source = validation_readers(model.config)[1]["val"].source
    found = [source[i] for i in range(len(source))]
    return [record for record in found if all(name in record for name in names)]


def test_a_run_folder_is_all_that_is_needed(trained: LargeObservationModel) -> None:
    assert trained.modalities.names() == ["wave", "word"]
    assert "wave, word" in repr(trained) and not trained.lom.training
    one = records(trained, "wave", "word")[0]
    found = trained.predict(one, target="word", given=["wave"])[0]
    assert found.tokens is not None and found.probabilities is not None
    assert found.point["positions"].tolist() == one["word"].positions.tolist()
    assert found.probabilities.shape == (6, 5)
    assert found.probabilities.sum(1) == pytest.approx(np.ones(6))
    assert (found.probabilities.argmax(1) == found.tokens.content).all()


def test_others_answer_the_same_whoever_asks(trained: LargeObservationModel) -> None:
    many = records(trained, "wave", "word")[:3]
    together = trained.predict(many, target="wave", samples=2, seed=1)
    assert [p.id for p in together] == [r["id"] for r in many]
    first = trained.predict(many[:1], target="wave", samples=2, seed=1)[0]
    a, b = first.sampled[1].content, together[0].sampled[1].content
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_records_that_cannot_be_used_are_told_and_the_others_answered(
    trained: LargeObservationModel,
) -> None:
    many = records(trained, "wave", "word")[:3]
    lacking = {"id": "w7", "word": many[0]["word"]}
    left_out: list[DataError] = []
    mixed = [many[0], lacking, *many[1:]]
    found = list(trained.predictions(mixed, "wave", given=["word"], left_out=left_out))
    assert [p.id for p in found] == [r["id"] for r in many]
    assert len(left_out) == 1 and "record w7 does not tell where 'wave'" in str(left_out[0])
    with pytest.raises(DataError, match="record w7 does not tell"):
        trained.predict(mixed, target="wave", given=["word"])


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"target": "wove"}, "unknown modality 'wove'; did you mean 'wave'"),
        ({"target": "wave", "at": [[1, 2]]}, r"positions of 'wave' are \(n, 1\), not \(1, 2\)"),
        ({"target": "wave", "at": [float("nan")]}, "is not finite"),
        ({"target": "wave", "at": ["noon"]}, "are no numbers"),
        ({"target": "word", "at": [16]}, "index table of 16"),
        ({"target": "word", "quantiles": (0.5,)}, "'word' is discrete: it has probabilities"),
        ({"target": "wave", "quantiles": (0.0,)}, "within 0 and 1"),
        ({"target": "wave", "temperature": -1}, "temperature=-1 must be >= 0"),
        ({"target": "wave", "samples": -1}, "samples=-1"),
        ({"target": "wave", "samples": 3, "quantiles": (0.05,)}, "draw 0, or at least 20"),
    ],
)
def test_wrong_requests_are_told(
    trained: LargeObservationModel, how: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        trained.predict(records(trained, "wave", "word")[0], **how)


def test_what_a_record_lacks_is_told(trained: LargeObservationModel) -> None:
    whole = records(trained, "wave", "word")[0]
    wave = {"wave": whole["wave"], "id": "w7"}
    with pytest.raises(
        DataError, match="record w7 has no 'word', which is to be given; it has wave"
    ):
        trained.predict(wave, target="wave", given=["word"])
    with pytest.raises(DataError, match=r"none of .*; it has waves; did you mean 'wave'"):
        trained.predict({"waves": whole["wave"]}, target="word", at=[0])
    asked = {"target": "word", "at": [0]}  # without anything, if one says so
    assert trained.predict({}, given=[], **asked)[0].tokens.content.shape == (1,)
    with pytest.raises(DataError, match=r"w7 does not tell where 'word' .* positions \(n, 1\)"):
        trained.predict(wave, target="word")
    with pytest.raises(ConfigError, match="where is 'wave' to go on"):
        trained.generate(wave, target="wave")
    with pytest.raises(ConfigError, match="does not say what lies ahead"):
        trained.generate(wave, target="wave", ahead=3)
    with pytest.raises(ConfigError, match="top_k and top_p choose among tokens"):
        trained.generate(wave, target="wave", prompt=0.5, top_k=3)
    with pytest.raises(ConfigError, match="max_tokens=0 must be 1 or more"):
        trained.generate(wave, target="wave", prompt=0.5, max_tokens=0)
    with pytest.raises(ConfigError, match="prompt=500: there are"):
        trained.generate(wave, target="wave", prompt=500)
    with pytest.raises(DataError, match="w7 has no 'word' to begin from"):
        trained.generate(wave, target="word", prompt=2)
    with pytest.raises(DataError, match="ahead=3 of what"):
        trained.generate(wave, target="word", ahead=3)
    with pytest.raises(DataError, match="nothing to score"):
        trained.log_likelihood(wave, given=["wave"])


def test_a_modality_that_training_never_had_is_told(make_run: MakeRun) -> None:
    """Words stand in records 1, 2, 4, 5 ... alone; a set of the first record has none."""
    base = make_run(train={"max_iters": 2})
    dataset = {**base.data.dataset.model_dump(), "n": 1}
    config = make_run(data={"dataset": dataset, "eval": {"val": dataset}}, train={"max_iters": 2})
    train(config)
    model = lom_core.load(config.system.out_dir)
    with pytest.raises(
        ConfigError, match="never saw 'word': its training data had none; it saw wave"
    ):
        model.predict(records(model, "wave")[0], target="word", at=[0.0, 1.0])


def test_what_is_always_given_was_never_asked_for(make_run: MakeRun) -> None:
    config = make_run(objective={"kind": "prefix", "given": ["wave"]}, train={"max_iters": 2})
    train(config)
    model = lom_core.load(config.system.out_dir)
    with pytest.raises(ConfigError, match=r"never asked for 'wave' .*prefix.* answers word"):
        model.predict({}, target="wave", at=[0.0])


def test_a_point_has_neither_samples_nor_likelihood(make_run: MakeRun) -> None:
    from tests.conftest import MODALITIES

    modalities = {**MODALITIES, "wave": {**MODALITIES["wave"], "head": "huber"}}
    config = make_run(train={"max_iters": 2})
    config = RunConfig.model_validate({**config.model_dump(), "modalities": modalities})
    train(config)
    model = lom_core.load(config.system.out_dir)
    one = records(model, "wave")[0]
    with pytest.raises(ConfigError, match="'wave' is answered with head 'huber': a point"):
        model.predict(one, target="wave", quantiles=(0.1,))
    with pytest.raises(ConfigError, match="'huber' has nothing to sample from"):
        model.predict(one, target="wave", samples=1)
    with pytest.raises(ConfigError, match="'huber' has no likelihood"):
        model.log_likelihood(one)
    cold = model.generate(one, target="wave", prompt=3, temperature=0)[0]
    assert len(cold.sampled[0]) == len(one["wave"]) - 3


def test_files_of_answers(
    trained: LargeObservationModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "at.csv").write_text("time\n0.5\n2.5\n")
    run = [str(trained.checkpoint), "val"]
    how = ["--target", "wave", "--given", "word", "--at", "at.csv", "--quantiles", "0.4,0.6"]
    result = CliRunner().invoke(build(), ["predict", *run, *how, "--samples", "3", "--limit", "2"])
    assert result.exit_code == 0, result.output
    assert "12 answers of 2 records" in result.output
    rows = list(csv.DictReader((tmp_path / "predictions/index.csv").open()))
    assert [row["what"] for row in rows[:4]] == ["point", "q0.4", "q0.6", "sample-0"]
    table = list(csv.DictReader((tmp_path / "predictions" / rows[0]["file"]).open()))
    assert [float(row["position_0"]) for row in table] == [0.5, 2.5]
    found = trained.predict(
        records(trained, "word")[0], target="wave", given=["word"], at=[0.5, 2.5]
    )[0]
    assert found.tokens is not None
    expected = found.tokens.content.ravel().tolist()
    assert [float(row["value_0"]) for row in table] == pytest.approx(expected, rel=1e-5)

    result = CliRunner().invoke(build(), ["generate", *run, "--target", "wave", "--prompt", "0.5"])
    assert result.exit_code == 0 and "index.csv" in result.output
    result = CliRunner().invoke(build(), ["predict", run[0], "vol", "--target", "wave"])
    assert result.exit_code == 2 and "did you mean 'val'?; this run has train, val" in result.output


def test_positions_come_from_plain_tables(tmp_path: Path) -> None:
    path = tmp_path / "at.csv"
    path.write_text("lat,lon\n1,2\n-3.5,4e1\n\n")
    assert read_positions(path).tolist() == [[1, 2], [-3.5, 40]]
    for text, told in (("", "holds no position"), ("1,2\n3\n", "position 2"), ("1\nx\n", "'x'")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=told):
            read_positions(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_positions(tmp_path / "none.csv")


def test_no_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        lom_core.load(tmp_path)


def test_ready_tokens_are_records_too(trained: LargeObservationModel) -> None:
    at = np.array([[0.0], [1.0]], np.float32)
    wave = Tokens(np.zeros((2, 1), np.float32), at)
    onwards = trained.generate({"wave": wave}, target="wave", at=[2.0, 3.0], samples=2)[0]
    assert len(onwards.samples) == 2
    assert onwards.samples[0]["positions"].ravel().tolist() == [0, 1, 2, 3]
