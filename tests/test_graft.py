"""Fine-tuning: other modalities, vocabularies and names, with what was learnt kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lom_core import ModalityConfig, ModalityRegistry, Tokens, checkpoint, share
from lom_core.batch import Batch, Observation, pack_row
from lom_core.cli import build
from lom_core.config import RunConfig
from lom_core.errors import CheckpointError, ConfigError
from lom_core.graft import graft, transfer
from lom_core.model import Lom
from lom_core.objectives import next_token
from lom_core.train import train

from .conftest import MODALITIES

MakeRun = Callable[..., RunConfig]
LABELS = ["a", "b", "c", "d"]


def run_of(make_run: MakeRun, modalities: dict[str, Any], **sections: Any) -> RunConfig:
    """The run on waves with other modalities."""
    return RunConfig.model_validate(
        {**make_run(**sections).model_dump(mode="json"), "modalities": modalities}
    )


@pytest.fixture
def trained(make_run: MakeRun) -> Path:
    return train(make_run(train={"max_iters": 3})).out_dir


def observed(model: Lom, **tokens: Tokens) -> Batch:
    n = 1 + sum(map(len, tokens.values()))
    row = pack_row([Observation("o", tokens)], n, model.registry.names())
    return next_token([row], model.layouts)


def wave(n: int = 6) -> Tokens:
    t = np.linspace(0, 5, n, dtype=np.float32)[:, None]
    return Tokens(np.sin(t), t)


def test_what_was_answered_before_a_graft_is_answered_after_to_the_bit(trained: Path) -> None:
    before, config, _ = checkpoint.load_model(trained)
    added = {"flux": ModalityConfig(name="flux", input_size=3, head="gaussian")}
    after, state = graft(trained, added)
    after.eval()
    one = before.predict(observed(before, wave=wave()))["wave"]
    assert torch.equal(one, after.predict(observed(after, wave=wave()))["wave"])
    flux = Tokens(np.ones((4, 3), np.float32), np.arange(4, dtype=np.float32)[:, None])
    behind = after.predict(observed(after, wave=wave(), flux=flux))
    assert torch.equal(one, behind["wave"]), "what stands behind is not seen"
    assert behind["flux"].shape == (4, 3)
    assert RunConfig.model_validate(state["config"]).modalities["flux"].input_size == 3
    with pytest.raises(ConfigError, match="the checkpoint has 'wave' already"):
        graft(trained, {"wave": config.modalities["wave"]})


def test_a_grafted_model_trains_on_and_its_new_scale_is_fitted(
    trained: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    (tmp_path / "more.yaml").write_text("modalities: {class: {kind: category, labels: [x, y]}}")
    arguments = ["checkpoint", "graft", str(trained), str(tmp_path / "grown")]
    added = ["--add", "height=scalar", "--add", str(tmp_path / "more.yaml")]
    done = CliRunner().invoke(build(), [*arguments, *added])
    assert done.exit_code == 0, done.output
    grown, config, _ = checkpoint.load_model(tmp_path / "grown")
    assert config.registry.names() == ["wave", "word", "height", "class"]
    assert bool(grown.part("wave").scale.fitted) and not bool(grown.part("height").scale.fitted)
    wrong = CliRunner().invoke(build(), [*arguments, "--add", "galaxies=galaxy_imags"])
    assert wrong.exit_code == 2 and "galaxies: " in wrong.stderr

    again = run_of(
        make_run,
        {"wave": MODALITIES["wave"], "word": MODALITIES["word"]},
        train={"init_from": str(tmp_path / "grown"), "max_iters": 1},
        system={"out_dir": str(tmp_path / "again")},
    )
    train(again)  # fewer modalities are fine, too


def test_a_new_modality_begins_anew_and_the_rest_goes_on(
    trained: Path, make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run_of(
        make_run,
        {"wave": MODALITIES["wave"], "word_again": {"vocab_size": 5}},
        train={"init_from": str(trained), "max_iters": 0},
        system={"out_dir": str(tmp_path / "new")},
    )
    before, _, _ = checkpoint.load_model(trained)
    after = Lom(config.registry, config.model)
    done = transfer(after, checkpoint.find(trained))
    assert (done.new, done.left_out) == (["word_again"], ["word"])
    kept = {k: v for k, v in before.state_dict().items() if not k.startswith("parts.word")}
    assert all(torch.equal(after.state_dict()[k], v) for k, v in kept.items())
    with pytest.raises(ConfigError, match=r"word_agin=word: the run|this run has no modality"):
        transfer(after, checkpoint.find(trained), {"word_agin": "word"})
    with pytest.raises(ConfigError, match=r"no such modality; did you mean 'word'\?"):
        transfer(after, checkpoint.find(trained), {"word_again": "words"})


def test_a_modality_may_begin_as_another_ended(trained: Path, make_run: MakeRun) -> None:
    config = run_of(make_run, {"wave": MODALITIES["wave"], "answer": MODALITIES["word"]})
    model = Lom(config.registry, config.model)
    done = transfer(model, checkpoint.find(trained), {"answer": "word"})
    before, _, _ = checkpoint.load_model(trained)
    old, new = before.part("word").state_dict(), model.part("answer").state_dict()
    assert not done.new and not done.left_out
    assert all(torch.equal(old[k], new[k]) for k in old)


def category(labels: list[str]) -> Lom:
    config = ModalityConfig.model_validate({"kind": "category", "name": "kind", "labels": labels})
    sizes = RunConfig.model_fields["model"].default.model_copy(
        update={"n_layer": 1, "n_head": 1, "n_embd": 8}
    )
    return Lom(ModalityRegistry([config]), sizes)


def test_tokens_keep_what_was_learnt_of_them_by_name(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = category(LABELS), category(["d", "new", "b"])
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.copy_(torch.randn_like(parameter))
    old.part("kind").head.log_frequency.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]).log())
    state = {
        "config": {"modalities": {c.name: c.model_dump(mode="json") for c in old.registry}},
        "lock": checkpoint.lock(old.registry),
    }
    monkeypatch.setattr(checkpoint, "read_state", lambda _: state)
    from lom_core.tensors import write

    write(tmp_path / "model.safetensors", old.state_dict(), {})
    done = transfer(new, tmp_path)
    assert done.vocabularies == {"kind": (2, 3)}
    a, b = old.part("kind"), new.part("kind")
    for x, y in ((a.embed.weight, b.embed.weight), (a.head.project.weight, b.head.project.weight)):
        assert torch.equal(y[[0, 2]], x[[3, 1]])
    assert not b.head.project.weight[1].any(), "of a new token nothing is known"
    assert b.head.project.bias[1] == a.head.project.bias.min()
    assert float(b.head.log_frequency.exp().sum()) == pytest.approx(1)
    assert torch.equal(a.place.state_dict()["table.weight"], b.place.state_dict()["table.weight"])


def test_tokens_without_names_cannot_be_matched(trained: Path, make_run: MakeRun) -> None:
    longer = {**MODALITIES["word"], "vocab_size": 6}
    config = run_of(make_run, {"wave": MODALITIES["wave"], "word": longer})
    with pytest.raises(CheckpointError, match="modality 'word': its tokeniser now differs"):
        transfer(Lom(config.registry, config.model), checkpoint.find(trained))


def test_lora_learns_beside_a_still_body_and_merges(
    trained: Path, make_run: MakeRun, tmp_path: Path
) -> None:
    tuned = make_run(
        model={"lora_rank": 2},
        train={"init_from": str(trained), "max_iters": 0},
        system={"out_dir": str(tmp_path / "lora")},
    )
    model = Lom(tuned.registry, tuned.model).eval()
    transfer(model, checkpoint.find(trained))
    before, _, _ = checkpoint.load_model(trained)
    asked = {"wave": wave()}
    one = before.predict(observed(before, **asked))["wave"]
    assert torch.equal(one, model.predict(observed(model, **asked))["wave"]), "at first it is B = 0"

    train(tuned.model_copy(update={"train": tuned.train.model_copy(update={"max_iters": 5})}))
    after, _, _ = checkpoint.load_model(tmp_path / "lora")
    body = {k: v for k, v in before.state_dict().items() if k.startswith("body.")}
    assert all(torch.equal(after.state_dict()[k], v) for k, v in body.items())
    assert float(after.state_dict()["body.blocks.0.mlp.up.lora_b.weight"].abs().max()) > 0
    two = after.predict(observed(after, **asked))["wave"]
    assert not torch.equal(one, two)

    whole, config, _ = checkpoint.load_model(share.export(tmp_path / "lora", tmp_path / "merged"))
    assert config.model.lora_rank == 0 and not any("lora" in k for k in whole.state_dict())
    assert torch.allclose(whole.predict(observed(whole, **asked))["wave"], two, atol=1e-5)
    with pytest.raises(ConfigError, match="lora_rank adapts a trained body"):
        train(make_run(model={"lora_rank": 2}, system={"out_dir": str(tmp_path / "x")}))
