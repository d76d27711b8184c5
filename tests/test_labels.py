"""Labels and numbers as modalities of one token, and fine-tuning as a prefix."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core.builtin import OneLabel, OneNumber, Prefix, Ready
from lom_core.config import RunConfig
from lom_core.errors import BadRecord, ConfigError, DataError
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Dataset
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
REGISTRY = ModalityRegistry(
    [
        ModalityConfig.model_validate({"kind": "scalar", "name": "redshift"}),
        ModalityConfig.model_validate(
            {"kind": "category", "name": "shape", "labels": ["disc", "bulge"]}
        ),
    ]
)


def test_numbers_and_labels_come_back() -> None:
    number, label = OneNumber(), OneLabel(labels=("disc", "bulge"))
    for value in (0.25, np.float32(3), np.array([7.0]), {"value": -1.5}):
        expected = value["value"] if isinstance(value, dict) else float(np.asarray(value).item())
        assert number.decode(number.encode(value)) == expected
    for value in ("bulge", 1, np.int64(1)):
        assert label.decode(label.encode(value)) == "bulge"


@pytest.mark.parametrize("value", ["", "far", None, float("nan"), [1, 2], {"error": 1}])
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(BadRecord, match="number"):
        OneNumber().encode(value)


@pytest.mark.parametrize("value", ["ring", 2, -1, 0.5])
def test_what_is_no_label(value: Any) -> None:
    with pytest.raises(BadRecord, match=r"an unknown label \(.*possible: disc, bulge"):
        OneLabel(labels=("disc", "bulge")).encode(value)


def test_labels_that_are_numbers_are_meant_by_them() -> None:
    """A CSV file's 1 is the label "1", wherever it stands among the labels."""
    quality = OneLabel(labels=("1", "2", "3"))
    for value in ("2", 2, np.int64(2)):
        assert quality.decode(quality.encode(value)) == "2"
    with pytest.raises(BadRecord, match=r"an unknown label \(0; possible: 1, 2, 3"):
        quality.encode(0)


def test_ready_tokens_that_are_none() -> None:
    wave, word = Ready(values=2), Ready(vocab=5)
    empty = wave.encode({"content": np.zeros((0, 2)), "positions": [], "weights": np.zeros((0, 2))})
    assert len(empty) == 0 and empty.positions.shape == (0, 1)
    seen = wave.encode(np.ma.masked_equal([[1, 2], [3, 9]], 9))
    assert seen.weights is not None and seen.weights.tolist() == [[1, 1], [1, 0]]
    gap = word.encode(np.array([1.0, np.nan, 3.0]))
    assert gap.content[[0, 2]].tolist() == [1, 3] and gap.observed.tolist() == [
        [True],
        [False],
        [True],
    ]
    for value, reason in (
        ({"positions": [1, 2]}, "no content"),
        (3.0, "content: no array of numbers"),
        ("text", "content: no array of numbers"),
        ([[1, 2], [3]], "content: no array of numbers"),
        ({"content": np.zeros((3, 2)), "positions": np.zeros(4)}, "positions of another length"),
        ({"content": np.zeros((3, 2)), "weights": "all"}, "weights: no array of numbers"),
    ):
        with pytest.raises(BadRecord, match=reason):
            wave.encode(value)


def table(tmp_path: Path, text: str, **options: Any) -> Any:
    (tmp_path / "labels.csv").write_text(text)
    fields = {"columns": {"redshift": "Z", "shape": "class"}, **options}
    path = str(tmp_path / "labels.csv")
    return Dataset.model_validate({"kind": "table", "path": path, **fields}).build(REGISTRY)


TEXT = "name,Z,class,split\na,0.1,disc,train\nb,,bulge,val\nc,nan,-,train\n"


def test_a_table_of_labels(tmp_path: Path) -> None:
    source = table(tmp_path, TEXT, id_column="name")
    assert [source[i] for i in range(len(source))] == [
        {"redshift": 0.1, "shape": "disc", "id": "a"},
        {"shape": "bulge", "id": "b"},
        {"id": "c"},
    ]
    assert len(table(tmp_path, TEXT, where={"split": "val"})) == 1
    names = table(tmp_path, "Z,class\n1,007\n0.5,disc\n")  # a column is numbers, or it is text
    assert [(names[i]["redshift"], names[i]["shape"]) for i in (0, 1)] == [
        (1, "007"),
        (0.5, "disc"),
    ]
    excel = table(tmp_path, "\ufeffZ,class\n0.1,disc\n")  # which begins with a mark
    assert excel[0] == {"redshift": 0.1, "shape": "disc", "id": "0"}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (TEXT, {"columns": {"redshift": "z"}}, r"no column 'z'; it has: name, Z, class, split"),
        (TEXT, {"where": {"split": "test"}}, r"none of 3 rows has \{'split': 'test'\}"),
        ("", {}, r"no column 'Z'; it has: no row"),
        ("name,Z,class\na,0.1,disc\nb,0,2,disc\n", {}, r"line 3 has 4 cells, its first line 3"),
        ("name,Z,class\na,0.1\n", {}, r"line 2 has 2 cells, its first line 3"),
    ],
)
def test_a_table_that_does_not_fit(
    tmp_path: Path, text: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, text, **options)


def test_a_label_is_learned_from_what_is_given(make_run: MakeRun) -> None:
    """The word repeats one letter: given the word, the wave's label can be known, from nothing not."""
    config = make_run(
        objective={"kind": "prefix", "given": ["wave"]},
        data={"dataset": {"kind": "waves_data:Waves", "n": 200}, "batch_size": 8},
        optimizer={"learning_rate": 3e-3, "lr_decay_iters": 80},
        train={"max_iters": 80},
    )
    last = train(config).metrics["val"]
    assert "loss/wave" not in last  # given, never asked
    assert last["loss/word"] < last["unigram/word"]


@pytest.mark.parametrize("given", [["wave", "word"], ["wav"]])
def test_a_prefix_must_leave_something_to_ask(make_run: MakeRun, given: list[str]) -> None:
    assert Prefix(given=tuple(given)).leads == tuple(given)
    with pytest.raises(ConfigError, match=r"given=.* must be some, not all, of .*: wave, word"):
        train(make_run(objective={"kind": "prefix", "given": given}))
