"""What a run tells: metrics.jsonl, trackers, the summary, the report."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lom_core.config import RunConfig
from lom_core.dotenv import read_dotenv
from lom_core.errors import DataError
from lom_core.report import write_report
from lom_core.train import train

MakeRun = Callable[..., RunConfig]

TRACKER = """
from lom_core import Tracker

LOGGED, CLOSED = [], []


class Notebook(Tracker):
    title: str = "untitled"

    def build(self, out_dir, config, run_id):
        assert config["modalities"]["wave"]["name"] == "wave"
        return Page(run_id or self.title)


class Page:
    def __init__(self, run_id):
        self.run_id = run_id

    def log(self, step, metrics):
        LOGGED.append((self.run_id, step, sorted(metrics)))

    def close(self):
        CLOSED.append(self.run_id)
"""


def lines(config: RunConfig) -> list[dict[str, float | str]]:
    path = Path(config.system.out_dir) / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_say_what_a_run_did(make_run: MakeRun) -> None:
    config = make_run(train={"max_iters": 4, "log_interval": 2, "eval_interval": 4})
    train(config)
    found = [(line["split"], line["step"]) for line in lines(config)]
    assert found == [("val", 0), ("train", 2), ("train", 4), ("val", 4)]
    step = lines(config)[1]
    assert {"loss", "loss/wave", "loss/word", "learning_rate", "grad_norm"} <= set(step)
    assert step["tokens_per_second"] > 0 and 0.5 < step["fill"] <= 1
    assert 0 < step["mfu"] < 1
    assert 0 <= step["loader_wait"] < 1 and step["memory_gib"] > 0.01
    assert step["tokens"] > 0 and step["records"] > 0 and step["bad_records"] == 0
    total = sum(v for k, v in step.items() if k.startswith("loss/"))
    assert step["loss"] == pytest.approx(total)


def test_a_resumed_run_writes_each_step_once(make_run: MakeRun) -> None:
    train(make_run(train={"max_iters": 4, "log_interval": 1, "checkpoint_interval": 2}))
    config = make_run(train={"max_iters": 6, "log_interval": 1, "init_from": "resume"})
    path = Path(config.system.out_dir) / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "split": "train"}\n{"step": 6, "spl')  # a kill
    train(config)
    steps = [line["step"] for line in lines(config) if line["split"] == "train"]
    assert steps == [1, 2, 3, 4, 5, 6] and all("loss" in line for line in lines(config))


def test_a_tracker_of_ones_own_by_its_path(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebook.py").write_text(TRACKER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "notebook", raising=False)
    trackers = {"trackers": [{"kind": "notebook:Notebook", "title": "mine"}]}
    train(make_run(logging=trackers, train={"max_iters": 2, "log_interval": 1}))
    import notebook  # type: ignore[import-not-found]

    splits = [{name.split("/")[0] for name in metrics} for _, _, metrics in notebook.LOGGED]
    assert splits == [{"val"}, {"train"}, {"train"}, {"val"}] and notebook.CLOSED == ["mine"]
    sys.modules.pop("notebook")


@pytest.mark.slow
def test_wandb_offline_and_the_same_run_again(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = make_run(logging={"log_via_wandb": True}, train={"max_iters": 1})
    assert config.logging.trackers[0].kind == "wandb"
    train(config)
    train(make_run(logging={"log_via_wandb": True}, train={"max_iters": 2, "init_from": "resume"}))
    folders = [p.name for p in (Path(config.system.out_dir) / "wandb").glob("offline-run-*")]
    # offline-run-DATE_TIME-ID, and -1 after it where both began within a second.
    ids = {name.split("-")[3] for name in folders}
    assert folders and len(ids) == 1, folders


@pytest.mark.slow
def test_tensorboard_has_the_metrics_and_the_pictures(make_run: MakeRun) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = make_run(
        logging={"trackers": ["tensorboard"], "pictures": 2},
        train={"max_iters": 2, "log_interval": 1},
    )
    train(config)
    out_dir = Path(config.system.out_dir)
    events = EventAccumulator(str(out_dir / "tensorboard"))
    events.Reload()
    logged = {e.step: e.value for e in events.Scalars("train/loss/wave")}
    told = {x["step"]: x["loss/wave"] for x in lines(config) if x["split"] == "train"}
    assert logged == pytest.approx(told)
    names = {f"val_{m}_{i}" for m in ("wave", "word") for i in (1, 2)}
    assert set(events.Tags()["images"]) == names
    files = {f"{name}_step-{step:08d}.png" for name in names for step in (0, 2)}
    assert {path.name for path in (out_dir / "pictures").iterdir()} == files


@pytest.mark.slow
def test_energy_is_measured_and_added_up_over_a_resume(make_run: MakeRun) -> None:
    pytest.importorskip("codecarbon")
    found = []
    for plan in ({"max_iters": 1}, {"max_iters": 2, "init_from": "resume"}):
        config = make_run(logging={"log_emissions": True}, train=plan)
        train(config)
        path = Path(config.system.out_dir) / "emissions.json"
        found.append(json.loads(path.read_text()))
    assert 0 < found[0]["energy_kwh"] < found[1]["energy_kwh"]
    assert "co2_kg" not in found[0], "nobody said in which country"


def test_secrets_come_from_dotenv_and_stay_there(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(
        "# mine\nexport WANDB_API_KEY='k3y-of-wandb'\nHF_TOKEN=t0ken-of-hub # here\nPATH=/evil\n"
    )
    monkeypatch.setenv("HF_TOKEN", "already set")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    path = os.environ["PATH"]
    read_dotenv(tmp_path)
    assert os.environ["WANDB_API_KEY"] == "k3y-of-wandb", "what monkeypatch takes away again"
    assert os.environ["HF_TOKEN"] == "already set" and os.environ["PATH"] == path
    config = make_run(train={"max_iters": 1})
    train(config)
    written = [p for p in Path(config.system.out_dir).rglob("*") if p.is_file()]
    assert len(written) > 4
    for file in written:
        assert b"k3y-of-wandb" not in file.read_bytes(), file


def test_the_summary_tells_bad_and_cropped_records(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {
        "dataset": {"kind": "waves_data:Waves", "broken": [3]},
        "max_bad_fraction": 0.5,
        "block_size": 20,
    }
    train(make_run(data=data, train={"max_iters": 9}))
    out = capsys.readouterr().out
    assert re.search(
        r"train: \d+ of \d+ records skipped:\n +\d+ x cannot be read; the first: ", out
    )
    assert "waves_data:Waves row 3: cannot be read (ValueError: cosmic ray in record 3)" in out
    assert re.search(r"train: \d+ of \d+ records cropped to block_size", out)
    assert "training mean" in out and "previous token" in out


@pytest.mark.parametrize("objective", ["next_token", "masked"])
def test_a_report_is_one_file_and_its_pictures(make_run: MakeRun, objective: str) -> None:
    config = make_run(objective=objective, train={"max_iters": 3, "log_interval": 1})
    out_dir = train(config).out_dir
    report = write_report(out_dir, n_objects=2)
    html = report.read_text()
    names = {p.name for p in report.parent.glob("*.png")}
    assert names == {"loss_wave.png", "loss_word.png"} | {
        f"val_{m}_{i}.png" for m in ("wave", "word") for i in range(2)
    }
    assert html.count("data:image/png;base64,") == 6
    assert not re.search(r'(src|href)="(?!data:)|url\(', html)  # it needs no other file
    for told in ("training mean", "previous token", "Held-out set", objective):
        assert told in html


def test_a_report_without_metrics_says_so(make_run: MakeRun) -> None:
    out_dir = train(make_run(train={"max_iters": 1})).out_dir
    (out_dir / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"no .*metrics.jsonl; a report is made of a run's out_dir"):
        write_report(out_dir)


def test_an_out_dir_that_cannot_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to out_dir="):
        train(make_run(system={"out_dir": str(tmp_path / "file" / "run")}))
