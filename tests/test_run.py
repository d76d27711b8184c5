"""What a run does on its way: which checkpoint is best, how long it is, which records it reads."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lom_core import checkpoint
from lom_core.config import RunConfig
from lom_core.errors import ConfigError, TrainingError
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


def ledger(config: RunConfig) -> list[list[str]]:
    path = Path(config.system.out_dir) / "ledger.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in found] == list(range(1, len(found) + 1))
    return [line["records"] for line in found]


def test_every_record_is_read_once_an_epoch(make_run: MakeRun) -> None:
    """Without looking ahead, an epoch's records stand in the ledger before those of the next."""
    data = {"look_ahead": 1, "val_fraction": 0.1, "batch_size": 2, "gradient_accumulation_steps": 2}
    config = make_run(data=data, train={"max_iters": 10, "ledger": True})
    train(config)
    seen = [i for step in ledger(config) for i in step]
    n = 36  # of 40 records four are held out
    lanes = Counter(seen)
    assert len(seen) > 2 * n and len(lanes) == n
    # Four lanes may be one row apart at the border of an epoch, no more.
    assert len(set(seen[:n])) >= n - 8
    assert max(lanes.values()) - min(lanes.values()) <= 2


def test_the_ledger_is_cut_and_goes_on_with_a_resumed_run(make_run: MakeRun) -> None:
    plan = {"ledger": True, "log_interval": 3, "checkpoint_interval": 2}
    train(make_run(train={**plan, "max_iters": 4}))
    config = make_run(train={**plan, "max_iters": 7, "init_from": "resume"})
    path = Path(config.system.out_dir) / "ledger.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "records": ["after the checkp')
    train(config)
    whole = make_run(
        train={**plan, "max_iters": 7}, system={"out_dir": f"{config.system.out_dir}-2"}
    )
    train(whole)
    assert ledger(config) == ledger(whole)


@pytest.mark.parametrize("best", ["rmse/wave", "r2/wave", "gain/wave", "val/accuracy/word"])
def test_the_best_checkpoint_is_that_of_the_chosen_metric(make_run: MakeRun, best: str) -> None:
    config = make_run(
        optimizer={"learning_rate": 3e-2},
        train={"max_iters": 12, "eval_interval": 1, "checkpoint_interval": 1, "best": best},
    )
    train(config)
    root = Path(config.system.out_dir) / "checkpoints"
    states = [json.loads(p.read_text()) for p in sorted(root.glob("step-*/state.json"))]
    key = best.removeprefix("val/")
    sign = 1 if key == "rmse/wave" else -1
    values = {s["step"]: sign * s["metrics"]["val"][key] for s in states}
    chosen = checkpoint.read_state(checkpoint.find(config.system.out_dir))
    assert len(values) == 12 and chosen["step"] == min(values, key=lambda step: values[step])


def test_a_metric_that_is_not_there_is_told_before_training(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"best=rmse/waves is no metric; possible: .*rmse/wave"):
        train(make_run(train={"best": "rmse/waves"}))
    with pytest.raises(ConfigError, match=r"best=loss_se/wave is no metric") as error:
        train(make_run(train={"best": "loss_se/wave"}))
    assert str(error.value).count("_se/") == 1, "no error is offered"
    config = make_run(train={"best": "rmse/waves"})
    assert not (Path(config.system.out_dir) / "checkpoints").exists()


@pytest.mark.parametrize("fit_records", [1000, 10])
def test_epochs_become_steps(make_run: MakeRun, fit_records: int) -> None:
    data = {"fit_records": fit_records}
    config = make_run(data=data, train={"epochs": 5, "log_interval": 1, "max_iters": 3})
    result = train(config)
    n, records = 36, result.tally.seen
    read_ahead = config.data.look_ahead * config.data.batch_size
    tolerance = 0.05 if fit_records == 1000 else 0.15  # of ten records the mean is not exact
    assert 5 * n * (1 - tolerance) < records < 5 * n * (1 + tolerance) + read_ahead
    assert result.step > 3
    state = checkpoint.read_state(checkpoint.find(config.system.out_dir, "latest"))
    assert state["max_iters"] == result.step
    again = make_run(data=data, train={"epochs": 5, "init_from": "resume"})
    assert train(again).step == result.step, "it is over"


def test_pictures_change_nothing(make_run: MakeRun, tmp_path: Path) -> None:
    """Drawn with dropout on, and the training goes on as if nobody had looked."""
    runs = [
        make_run(
            model={"dropout": 0.2},
            logging={"pictures": n},
            train={"max_iters": 3, "eval_interval": 1, "log_interval": 1},
            system={"out_dir": str(tmp_path / str(n))},
        )
        for n in (0, 1)
    ]
    losses = []
    for config in runs:
        train(config)
        lines = (Path(config.system.out_dir) / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert losses[0] == losses[1]
    assert len(list((tmp_path / "1" / "pictures").glob("*.png"))) == 8
    assert not (tmp_path / "0" / "pictures").exists()


POISONED = """
from waves_data import Waves


class Poisoned(Waves):
    poison = 3e38  # finite, and its square is not

    def __getitem__(self, i):
        item = super().__getitem__(i)
        if i == 7:
            item["wave"][2] = self.poison
        return item


class Holed(Poisoned):
    poison = float("nan")
"""


@pytest.fixture
def poisoned(tmp_path: Path, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """Runs on waves of which one record holds what no loss survives."""
    (tmp_path / "poisoned_data.py").write_text(POISONED)
    monkeypatch.delitem(sys.modules, "poisoned_data", raising=False)

    def make(kind: str, **plan: object) -> RunConfig:
        data = {
            "dataset": {"kind": f"poisoned_data:{kind}"},
            "look_ahead": 1,
            "val_fraction": 0,
            "max_bad_fraction": 0.1,
        }
        config = make_run(data=data, train={"log_interval": 1, "ledger": True, **plan})
        wave = {**config.modalities["wave"].model_dump(mode="json"), "scale": "identity"}
        dumped = config.model_dump(mode="json")
        return RunConfig.model_validate(
            {**dumped, "modalities": {**dumped["modalities"], "wave": wave}}
        )

    return make


def test_a_record_that_breaks_the_gradient_is_skipped_counted_and_named(
    poisoned: MakeRun, tmp_path: Path
) -> None:
    config = poisoned("Poisoned", max_iters=12)
    train(config)
    model, _, _ = checkpoint.load_model(checkpoint.find(config.system.out_dir, "latest"))
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    lines = (Path(config.system.out_dir) / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"train"' in line]
    with_it = sum("7" in records for records in ledger(config))
    assert with_it > 0 and steps[-1]["bad_steps"] == with_it

    strict = poisoned("Poisoned", max_iters=12, max_bad_steps=0)
    system = strict.system.model_copy(update={"out_dir": str(tmp_path / "strict")})
    with pytest.raises(TrainingError, match=r"not finite at step \d+.*read the records") as stopped:
        train(strict.model_copy(update={"system": system}))
    named = str(stopped.value).rsplit("read the records ", 1)[1].split(", ")
    assert "7" in named and len(named) < 20


def test_a_record_with_nan_never_reaches_the_model_and_is_named(
    poisoned: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    config = poisoned("Holed", max_iters=12)
    result = train(config)
    told = capsys.readouterr().out
    assert result.tally.n_bad > 0 and not any("7" in records for records in ledger(config))
    assert "an observed value that is not finite (give it weight 0)" in told
    assert re.search(r"first: .*\b7\b", told), told
