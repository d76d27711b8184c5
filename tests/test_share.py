"""A model that is given away loads as it was, and says what it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lom_core
from lom_core import checkpoint, share
from lom_core.api import LargeObservationModel
from lom_core.cli import build
from lom_core.config import RunConfig
from lom_core.errors import CheckpointError
from lom_core.ratios import tell
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


@pytest.fixture
def trained(make_run: MakeRun) -> Path:
    return train(make_run(train={"max_iters": 3})).out_dir


def same(a: Path, b: Path) -> bool:
    one, two = (checkpoint.load_model(path)[0].state_dict() for path in (a, b))
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def test_an_exported_model_loads_as_a_checkpoint_does(trained: Path, tmp_path: Path) -> None:
    folder = share.export(trained, tmp_path / "model")
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    assert (folder / "model.safetensors").stat().st_mode & 0o044, "others may read it, too"
    assert same(folder, trained)
    kept = json.loads((folder / "config.json").read_text())
    assert "lanes" not in kept and "run_ids" not in kept
    share.export(trained, folder)  # again is fine
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="is not empty and holds no exported model"):
        share.export(trained, tmp_path / "mine")


def test_the_card_says_what_the_model_is(trained: Path, tmp_path: Path) -> None:
    (trained / "emissions.json").write_text(json.dumps({"energy_kwh": 1.5, "hours": 3.0}))
    text = (share.export(trained, tmp_path / "model") / "README.md").read_text()
    state = checkpoint.read_state(checkpoint.find(trained))
    loss = tell(state["metrics"]["val"], "loss/wave")
    assert "±" in loss and f"| wave | 4 | {loss} |" in text
    assert "pip install lom-core==" in text and "`next_token`" in text
    assert "1.5 kWh in 3 hours, as CodeCarbon" in text and "`waves_data:Waves`" in text


def test_export_of_a_damaged_checkpoint_is_refused(trained: Path, tmp_path: Path) -> None:
    path = checkpoint.find(trained) / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        share.export(trained, tmp_path / "model")
    assert not (tmp_path / "model").exists()


class Hub:
    """Keeps what is pushed in a folder, as the hub would."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
        if "/" not in name:
            raise ValueError(f"'{name}' is no USER/NAME\nmore of no interest")
        (self.root / name).mkdir(parents=True, exist_ok=exist_ok)
        return f"hub/{name}"

    def upload_folder(self, repo_id: str, folder_path: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def snapshot_download(
        self, name: str, allow_patterns: list[str], local_dir: str | None = None
    ) -> str:
        if not (self.root / name).exists():
            raise OSError(f"404: no repository {name}")
        target = Path(local_dir or self.root / "cache" / name)
        target.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            if (self.root / name / pattern).exists():
                shutil.copy(self.root / name / pattern, target)
        return str(target)


def test_push_and_pull(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(share, "_hub", lambda: Hub(tmp_path / "hub"))

    def lom(*arguments: str) -> Any:
        return CliRunner().invoke(build(), ["checkpoint", *arguments])

    done = lom("push", str(trained), "me/waves")
    assert done.exit_code == 0 and "hub/me/waves" in done.output
    (tmp_path / "hub" / "me" / "waves" / "evil.py").write_text("raise SystemExit")
    assert lom("pull", "me/waves", str(tmp_path / "got")).exit_code == 0
    assert same(tmp_path / "got", trained) and not (tmp_path / "got" / "evil.py").exists()
    for arguments, told in (
        (("push", str(trained), "waves"), "cannot push to waves: 'waves' is no USER/NAME"),
        (("pull", "me/nothing", str(tmp_path / "x")), "cannot pull me/nothing: 404"),
    ):
        done = lom(*arguments)
        assert done.exit_code == 2 and told in done.stderr, done.stderr
        assert "of no interest" not in done.stderr


def test_show_tells_files_plugins_and_metrics(trained: Path) -> None:
    done = CliRunner().invoke(build(), ["checkpoint", "show", str(trained), "--json"])
    told = json.loads(done.output)
    assert told["modalities"]["wave"]["distribution"] == "lom-core"
    assert set(told["files"]) == {"model.safetensors", "optimizer.safetensors"}
    assert told["metrics"]["val"]["rmse/wave"] > 0
    assert "rmse" in CliRunner().invoke(build(), ["checkpoint", "show", str(trained)]).output


def test_from_pretrained_takes_a_folder_or_a_name(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(share, "_hub", lambda: Hub(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    model = lom_core.load(trained)
    folder = model.save_pretrained(tmp_path / "given")
    share.push(trained, "me/waves")
    for name in (folder, "me/waves"):
        again = LargeObservationModel.from_pretrained(name)
        one, two = model.lom.state_dict(), again.lom.state_dict()
        assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(CheckpointError, match="no folder me/nothing, and the hub has no such"):
        LargeObservationModel.from_pretrained("me/nothing")


def test_a_calibration_goes_along(trained: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["calibrate", str(trained), "--data", "train"])
    assert done.exit_code == 0, done.output
    before = lom_core.load(trained).corrections
    assert "wave" in before
    folder = share.export(trained, tmp_path / "model")
    assert lom_core.load(folder).corrections == before
