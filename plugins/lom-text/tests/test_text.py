"""Text: exact round trips, real tokenizers, files and lines that are broken in every way."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_text import TextBytes
from lom_text.datasets import parse

from lom_core import (
    BadRecord,
    ConfigError,
    DataError,
    Dataset,
    LomError,
    ModalityConfig,
    ModalityRegistry,
    RunConfig,
    Source,
    Tokeniser,
)
from lom_core.testing import conforms

TEXTS = ["λ = 656.28 nm", "a\tb\nc \r\n", "銀河", "The Hubble constant is not constant.", "x"]


def registry(*names: str) -> ModalityRegistry:
    fields = [{"kind": "text", "name": name} for name in names or ("text",)]
    return ModalityRegistry([ModalityConfig.model_validate(f) for f in fields])


def opened(*names: str, **fields: Any) -> Source:
    return Dataset.model_validate(fields).build(registry(*names))


# ------------------------------------------------------------------------------------ tokenisers


@given(st.text(min_size=1).filter(str.strip))
def test_bytes_invert_exactly(text: str) -> None:
    encoder = TextBytes().build()
    assert encoder.decode(encoder.encode(text)) == text


def test_bytes_have_their_known_answer() -> None:
    tokens = TextBytes().build().encode("né")
    assert tokens.content.tolist() == [0x6E, 0xC3, 0xA9, 256]
    assert tokens.positions.flatten().tolist() == [0, 1, 2, 3]
    assert TextBytes().build().decode(tokens[2:]) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("value", ["", " \n", None, 3, b"bytes"])
def test_what_is_no_text(value: Any) -> None:
    with pytest.raises(BadRecord, match=r"no text|an empty text"):
        TextBytes().build().encode(value)


@pytest.fixture(scope="module")
def tokenizer_json(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE, trained on the texts that ship."""
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    found = tokenizers.Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    source = opened(kind="text_samples")
    found.train_from_iterator([source[i]["text"] for i in range(100)], trainer)
    found.add_special_tokens(["<answer>"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    found.save(str(path))
    return path


def test_a_tokenizer_json_inverts_and_knows_its_size(tokenizer_json: Path) -> None:
    config = Tokeniser.model_validate({"kind": "tokenizer_json", "path": str(tokenizer_json)})
    assert config.vocab_size == 401
    encoder = pickle.loads(pickle.dumps(config.build()))
    for text in TEXTS:
        tokens = encoder.encode(text)
        assert encoder.decode(tokens) == text
    assert len(encoder.encode(TEXTS[3])) < len(TEXTS[3]), "subwords are longer than letters"
    again = Tokeniser.model_validate_json(config.model_dump_json())
    assert again == config and len(again.sha256) == 64  # type: ignore[attr-defined]


def test_another_tokenizer_under_the_same_name_is_refused(
    tokenizer_json: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "tokenizer.json"
    copy.write_bytes(tokenizer_json.read_bytes())
    config = Tokeniser.model_validate({"kind": "tokenizer_json", "path": str(copy)})
    copy.write_text(copy.read_text().replace("<answer>", "<reply>"))
    with pytest.raises(ValueError, match="another tokenizer than the one this model was trained"):
        Tokeniser.model_validate(config.model_dump())


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        Tokeniser.model_validate({"kind": "tokenizer_json", "path": str(tmp_path / "none.json")})
    (tmp_path / "bad.json").write_text("{}")
    config = Tokeniser.model_validate(
        {"kind": "tokenizer_json", "path": str(tmp_path / "bad.json")}
    )
    with pytest.raises(ConfigError, match=r"is no tokenizer\.json"):
        _ = config.vocab_size


BYTES = {"kind": "text", "name": "text"}


@pytest.mark.parametrize("check", conforms(BYTES, TEXTS))
def test_bytes_conform(check: Any) -> None:
    check()


def test_subwords_conform(tokenizer_json: Path) -> None:
    tokeniser = {"kind": "tokenizer_json", "path": str(tokenizer_json)}
    for check in conforms({**BYTES, "tokeniser": tokeniser}, TEXTS):
        check()


# ------------------------------------------------------------------------------------- data sets


def test_text_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufeffwith a mark", encoding="utf8")
    (tmp_path / "b.md").write_bytes(b"caf\xe9")
    (tmp_path / "c.txt").write_bytes(b"")
    source = opened(kind="text_files", paths=str(tmp_path))
    assert source[0] == {"text": "with a mark", "id": "a.txt"}
    with pytest.raises(BadRecord, match=r"not UTF-8.*") as error:
        source[1]
    assert error.value.detail == "byte 3" and "b.md" in str(error.value)
    with pytest.raises(BadRecord, match="empty file"):
        source[2]


def write(path: Path, *rows: Any) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines), encoding="utf8")
    return path


def test_jsonl_by_column(tmp_path: Path) -> None:
    path = write(
        tmp_path / "notes.jsonl",
        {"name": "M31", "note": "a spiral", "meta": {"z": -0.001}, "split": "train"},
        "",
        {"name": "M87", "note": "", "meta": {"z": 0.0043}, "split": "val"},
        {"name": "Arp 220", "note": "naïve", "meta": None, "split": "train"},
    )
    columns = {"text": "note", "redshift": "meta.z"}
    source = opened(
        "text", "redshift", kind="jsonl", paths=str(path), columns=columns, id_column="name"
    )
    assert [dict(source[i]) for i in range(len(source))] == [
        {"text": "a spiral", "redshift": -0.001, "id": "M31"},
        {"redshift": 0.0043, "id": "M87"},
        {"text": "naïve", "id": "Arp 220"},
    ]
    only = opened(
        "text", kind="jsonl", paths=str(path), columns={"text": "note"}, where={"split": "val"}
    )
    assert len(only) == 1
    with pytest.raises(BadRecord, match="none of the columns' fields") as error:
        only[0]
    assert error.value.row == 3
    assert pickle.loads(pickle.dumps(source))[2]["text"] == "naïve"


def test_jsonl_lists_are_arrays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"flux": [1.5, 2.5]}, {"flux": [[1], [1, 2]]})
    source = opened("flux", kind="jsonl", paths=str(path), columns={"flux": "flux"})
    assert source[0]["flux"].dtype == np.float32
    with pytest.raises(BadRecord, match="rows differ in length"):
        source[1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "cut', "a line that is no JSON"),
        ('["text"]', "a line that is no JSON object"),
        ('{"text": NaN}', "a line that is no JSON"),
        ('{"words": "x"}', "none of the columns' fields"),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, line: str, reason: str) -> None:
    source = opened(kind="jsonl", paths=str(write(tmp_path / "a.jsonl", {"text": "fine"}, line)))
    assert source[0]["text"] == "fine"
    with pytest.raises(BadRecord, match=reason) as error:
        source[1]
    assert error.value.row == 2 and "a.jsonl" in str(error.value)


def test_sets_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no line"):
        opened(kind="jsonl", paths=str(write(tmp_path / "a.jsonl", "")))
    with pytest.raises(DataError, match="none of 1 lines has"):
        path = write(tmp_path / "b.jsonl", {"text": "x"})
        opened(kind="jsonl", paths=str(path), where={"split": "val"})
    with pytest.raises(ConfigError, match="unknown modality 'captions'"):
        opened(kind="jsonl", paths=str(path), columns={"captions": "x"})


@settings(max_examples=200)
@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_line_is_an_object_or_a_bad_record(line: bytes) -> None:
    try:
        assert isinstance(parse(line), dict)
    except LomError as error:
        assert isinstance(error, BadRecord)


def test_deep_nesting_is_a_bad_record() -> None:
    with pytest.raises(BadRecord, match="no JSON"):
        parse(b'{"a":' + b"[" * 100_000)


# --------------------------------------------------------------------------- samples, whole runs


def test_samples_have_no_paragraph_in_both_splits() -> None:
    found = {split: opened(kind="text_samples", split=split) for split in ("train", "val")}
    assert {split: len(source) for split, source in found.items()} == {"train": 700, "val": 120}
    texts = {
        split: {source[i]["text"] for i in range(len(source))} for split, source in found.items()
    }
    assert not texts["train"] & texts["val"]


def test_importing_is_light() -> None:
    heavy = {"torch", "tokenizers", "matplotlib", "datasets"}
    code = f"import sys, lom_text; print(*({heavy!r} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"
    )


def test_pictures_draw_without_warnings() -> None:
    from matplotlib.figure import Figure

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (*TEXTS, "$a_b$ \x00\x07 " * 200):
            figure = Figure(figsize=(7.5, 2.7), layout="constrained")
            ModalityConfig.model_validate(BYTES).picture(figure, text, text[::-1])
            figure.canvas.draw()


def test_a_run_trains_and_reports(tmp_path: Path) -> None:
    from lom_core.report import write_report
    from lom_core.train import train

    config = RunConfig.model_validate(
        {
            "modalities": {"text": {"kind": "text"}},
            "data": {
                "dataset": {"kind": "text_samples"},
                "eval": {"val": {"kind": "text_samples", "split": "val"}},
                "block_size": 128,
                "batch_size": 2,
            },
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "train": {"max_iters": 2, "eval_iters": 2},
            "system": {"out_dir": str(tmp_path / "run"), "dtype": "float32", "device": "cpu"},
        }
    )
    result = train(config)
    assert 2.5 < result.metrics["val"]["unigram/text"] < 3.5, "English letters"
    page = write_report(config.system.out_dir, None, 2)
    assert "text" in Path(page).read_text(encoding="utf8")
