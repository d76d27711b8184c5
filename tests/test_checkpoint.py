"""Checkpoints: whole or not there, checked when read, never unpickled."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lom_core import checkpoint, saving
from lom_core.config import RunConfig
from lom_core.errors import CheckpointError, DataError
from lom_core.tensors import file_hash
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


@pytest.fixture
def trained(make_run: MakeRun) -> Path:
    config = make_run(train={"max_iters": 4, "checkpoint_interval": 2, "eval_interval": 1})
    return train(config).out_dir


def test_best_latest_and_interval_are_kept_and_nothing_else(trained: Path) -> None:
    root = trained / "checkpoints"
    best, latest = ((root / name).read_text().strip() for name in ("best", "latest"))
    assert latest == "step-00000004"
    kept = {p.name for p in root.iterdir()}
    assert kept == {"best", "latest", best, "step-00000002", "step-00000004"}
    assert checkpoint.find(trained).name == best
    assert checkpoint.find(trained, "latest").name == latest


def test_state_tells_the_config_the_lock_and_the_lanes(trained: Path) -> None:
    state = checkpoint.read_state(checkpoint.find(trained, "latest"))
    assert RunConfig.model_validate(state["config"]).train.max_iters == 4
    assert state["lock"]["wave"]["distribution"] == "lom-core"
    assert len(state["lanes"]) == 4 and all(lane["next"] > 0 for lane in state["lanes"])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_damage_is_found(trained: Path, name: str, damage: str) -> None:
    path = checkpoint.find(trained, "latest")
    data = bytearray((path / name).read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
    (path / name).write_bytes(data if damage == "flip" else data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read_state(path)
        # A flipped byte inside a JSON string may leave valid JSON: the config then differs.
        checkpoint.load_model(path)
        pytest.skip("the flipped byte hit a number of the state")
    best = checkpoint.find(trained)
    if best != path:
        checkpoint.load_model(best)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return Path("pwned").touch, ()


def test_a_pickle_is_refused_and_not_run(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = checkpoint.find(trained, "latest")
    (path / "model.safetensors").write_bytes(pickle.dumps(Evil()))
    state = json.loads((path / "state.json").read_text())
    state["files"]["model.safetensors"] = file_hash(path / "model.safetensors")
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="no safetensors"):
        checkpoint.load_model(path)
    assert not Path("pwned").exists()


def test_a_name_that_leads_out_of_the_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    path = checkpoint.find(trained, "latest")
    state = json.loads((path / "state.json").read_text())
    state["files"] = {"../../../outside": file_hash(tmp_path / "outside")}
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read_state(path)
    (trained / "checkpoints" / "latest").write_text("../../elsewhere")
    assert checkpoint.find(trained, "latest").parent == trained / "checkpoints"


def test_a_failed_write_leaves_the_previous_checkpoint_whole(
    trained: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = checkpoint.find(trained, "latest")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "sync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; the previous"):
        train(make_run(train={"max_iters": 6, "init_from": "resume"}))
    monkeypatch.undo()
    assert checkpoint.find(trained, "latest") == before
    checkpoint.load_model(before)
    assert not list((trained / "checkpoints").glob(".step*"))


def test_a_checkpoint_that_does_not_fit_says_what_differs(trained: Path, make_run: MakeRun) -> None:
    with pytest.raises(CheckpointError, match=r"does not fit this run: .*\(\d+, \d+\) there"):
        train(make_run(model={"n_embd": 64}, train={"init_from": "resume"}))


def test_a_changed_tokeniser_is_refused(trained: Path) -> None:
    path = checkpoint.find(trained, "latest")
    state = json.loads((path / "state.json").read_text())
    state["lock"]["wave"] |= {"tokeniser": "0000", "distribution": "lom-x", "version": "3"}
    (path / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match=r"modality 'wave'.*`pip install lom-x==3`"):
        checkpoint.load_model(path)


def without(path: Path, *names: str) -> None:
    """As if the plugin were not here that brings these modalities and the data set."""
    state = json.loads((path / "state.json").read_text())
    for name in names:
        state["config"]["modalities"][name]["tokeniser"] = {"kind": "image_patches_of_mine"}
    state["config"]["data"]["dataset"] = {"kind": "galaxy_files_of_mine", "paths": "x"}
    (path / "state.json").write_text(json.dumps(state))


def test_without_a_plugin_the_other_modalities_are_served(trained: Path) -> None:
    path = checkpoint.find(trained, "latest")
    whole, _, _ = checkpoint.load_model(path)
    without(path, "wave")
    with pytest.warns(
        UserWarning, match=r"'wave' is left out: .*'image_patches_of_mine'.*installed"
    ):
        served, config, _ = checkpoint.load_model(path)
    assert served.registry.names() == ["word"]
    kept = served.state_dict()
    assert all(torch.equal(v, kept[k]) for k, v in whole.state_dict().items() if "wave" not in k)
    with pytest.raises(DataError, match="galaxy_files_of_mine"):
        config.data.dataset.build(config.registry)


def test_without_any_plugin_the_missing_kind_is_named(trained: Path) -> None:
    path = checkpoint.find(trained, "latest")
    without(path, "wave", "word")
    with pytest.raises(CheckpointError, match=r"modalities.wave.*'image_patches_of_mine'"):
        checkpoint.load_model(path)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint.find(tmp_path)


def test_a_modality_that_the_first_run_had_no_data_of_is_fitted_by_the_next(
    waves: str, make_run: MakeRun, tmp_path: Path
) -> None:
    """Pre-train without labels, fine-tune with them: what was fitted stays, what was not is."""
    one = {"dataset": {"kind": waves, "n": 1}, "val_fraction": 0}  # record 0 has no word
    first = train(make_run(data=one, train={"max_iters": 1})).out_dir
    before, _, _ = checkpoint.load_model(checkpoint.find(first, "latest"))
    assert before.part("wave").seen and not before.part("word").seen

    plan = {"max_iters": 1, "init_from": str(first)}
    run = make_run(train=plan, system={"out_dir": str(tmp_path / "next")})
    after, _, _ = checkpoint.load_model(checkpoint.find(train(run).out_dir, "latest"))
    assert after.part("word").seen
    fitted = after.part("wave").scale.state_dict()
    for name, value in before.part("wave").scale.state_dict().items():
        assert value.equal(fitted[name]), name
