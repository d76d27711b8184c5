"""The verbs on embeddings, from a checkpoint to a picture."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lom_core.cli import build
from lom_core.embeddings import open_embeddings

RUN = """
modalities:
  wave: {input_size: 1, position: {kind: fourier, min_period: 0.3, max_period: 30}, head: gaussian}
  word: {vocab_size: 5, position: {kind: index, max_positions: 16}}
data: {dataset: {kind: "waves_data:Waves", n: 80}, block_size: 40, batch_size: 4, shuf: true}
model: {n_layer: 1, n_head: 2, n_embd: 16}
train: {max_iters: 2, eval_interval: 2}
system: {out_dir: out, dtype: float32, device: cpu}
"""


@pytest.fixture(autouse=True)
def _here(waves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("run.yaml").write_text(RUN)


def lom(*args: str, code: int = 0) -> str:
    result = CliRunner().invoke(build(), list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.stdout + result.stderr


def test_from_a_checkpoint_to_a_picture() -> None:
    lom("train", "run.yaml")
    assert "wrote 72 records to e.npz" in lom(
        "embed", "out", "train", "--baselines", "--out", "e.npz"
    )
    found = open_embeddings("e.npz")
    assert set(found.features) == {"embedding", "random_init", "raw_tokens"}
    assert "tokens to t.npz" in lom(
        "embed", "out", "val", "--tokens", "--out", "t.npz", "batch_size=1"
    )
    Path("seven.yaml").write_text("kind: 'waves_data:Waves'\nn: 7\n")
    assert "7 records to s.npz" in lom("embed", "out", "seven.yaml", "--out", "s.npz")

    told = lom("search", "e.npz", "--id", str(found.column("id")[0]), "--k", "3", "--json")
    assert [set(row) for row in json.loads(told)] == [{"id", "distance"}] * 3
    assert "strangest of 72" in lom("search", "e.npz", "--anomalies", "--top", "2")
    assert "give --id ID or --anomalies" in lom("search", "e.npz", code=2)
    assert "possible: cosine, euclidean" in lom(
        "search", "e.npz", "--anomalies", "--metric", "manhattan", code=2
    )

    told = lom("subsets", "out", "val")
    assert "wave + word" not in told and "word" in told
    assert json.loads(Path("out/subsets/subsets.json").read_text())[0]["given"] == []
    assert Path("out/subsets/subsets.png").read_bytes().startswith(b"\x89PNG")


def test_a_probe_from_the_command_line() -> None:
    pytest.importorskip("sklearn")
    lom("train", "run.yaml")
    lom("embed", "out", "train", "--given", "wave", "--out", "e.npz")
    rows = [
        f"{i},{'odd' if int(i) % 2 else 'even'},{int(i) // 2}"
        for i in open_embeddings("e.npz").column("id")
    ]
    Path("more.csv").write_text("id,parity,pair\n" + "\n".join(rows))
    shared = ("--catalogue", "more.csv", "--label", "parity", "--method", "knn")
    told = lom("probe", "e.npz", *shared, "--group", "pair", "--folds", "3")
    assert "majority" in told and "no group is on both sides" in told
    found = json.loads(Path("e.probe/probe.json").read_text())
    assert found["label"] == "parity" and found["classes"].keys() == {"odd", "even"}
    assert Path("e.probe/probe.png").read_bytes().startswith(b"\x89PNG")
    assert "two columns" in lom("probe", "e.npz", "--label", "parity", "--spatial", "ra", code=2)
    assert "labels: none; add some with --catalogue" in lom(
        "probe", "e.npz", "--label", "x", code=2
    )


def test_what_is_not_there() -> None:
    lom("train", "run.yaml")
    assert "no data set 'valid'; did you mean 'val'" in lom("embed", "out", "valid", code=2)
    assert "pool='max'; possible: mean, last" in lom("embed", "out", "val", "--pool", "max", code=2)
    assert "no such file" in lom("search", "none.npz", "--anomalies", code=2)
    assert not list(Path().glob(".embeddings*")), "nothing is left behind"
