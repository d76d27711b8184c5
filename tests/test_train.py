"""The trainer's promises: accumulation, exact resume, evaluation apart, bad records told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lom_core import checkpoint
from lom_core.config import OptimizerConfig, RunConfig
from lom_core.data import Reader
from lom_core.distributed import Parallel
from lom_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    TooManyBadRecords,
    TrainingError,
)
from lom_core.evaluate import validation_readers
from lom_core.loader import Loader
from lom_core.model import Lom
from lom_core.optim import Update, learning_rate, make_optimizers
from lom_core.start import start
from lom_core.train import train, train_step

MakeRun = Callable[..., RunConfig]
CPU = torch.device("cpu")


def weights(config: RunConfig) -> dict[str, torch.Tensor]:
    model, _, _ = checkpoint.load_model(checkpoint.find(config.system.out_dir, "latest"))
    return model.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def metrics(config: RunConfig, split: str = "train") -> list[dict[str, Any]]:
    path = Path(config.system.out_dir) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def test_training_lowers_the_loss_and_beats_the_trivial_predictors(make_run: MakeRun) -> None:
    config = make_run(
        data={"dataset": {"kind": "waves_data:Waves", "n": 200}, "batch_size": 8},
        optimizer={"learning_rate": 3e-3, "lr_decay_iters": 150},
        train={"max_iters": 150, "eval_interval": 150, "log_interval": 10},
    )
    result = train(config)
    last = result.metrics["val"]
    for name, trivial in (("wave", "training_mean"), ("word", "unigram")):
        assert last[f"loss/{name}"] < last[f"{trivial}/{name}"], last
        assert last[f"loss/{name}"] < last[f"previous_token/{name}"], last
    assert metrics(config)[-1]["loss"] < metrics(config)[0]["loss"]


@pytest.mark.parametrize(("stop", "num_workers"), [(1, 0), (3, 2), (7, 0)])
def test_stop_and_resume_is_bitwise_the_uninterrupted_run(
    make_run: MakeRun, tmp_path: Path, stop: int, num_workers: int
) -> None:
    # Dropout draws from the random generator; 9 steps of about 10 records cross two epochs of 36.
    model = {"dropout": 0.2}
    data = {"dataset": {"kind": "waves_data:Waves", "broken": [3]}, "max_bad_fraction": 0.5}
    whole = make_run(
        model=model, data=data, train={"max_iters": 9}, system={"out_dir": str(tmp_path / "whole")}
    )
    assert train(whole).tally.n_bad > 0
    data |= {"num_workers": num_workers}
    parts = {"out_dir": str(tmp_path / "parts")}
    train(make_run(model=model, data=data, train={"max_iters": stop}, system=parts))
    resumed = make_run(
        model=model, data=data, train={"max_iters": 9, "init_from": "resume"}, system=parts
    )
    result = train(resumed)
    assert result.step == 9
    assert same(weights(whole), weights(resumed))
    state = [
        checkpoint.read_state(checkpoint.find(c.system.out_dir, "latest")) for c in (whole, resumed)
    ]
    for key in ("tokens", "lanes", "tally", "best"):
        assert state[0][key] == state[1][key], key


def test_one_command_starts_a_run_and_goes_on_with_it(make_run: MakeRun, tmp_path: Path) -> None:
    """A fine-tune, too: it begins from the other run once."""
    base = make_run(train={"max_iters": 3}, system={"out_dir": str(tmp_path / "base")})
    train(base)
    plan, schedule = {"init_from": base.system.out_dir, "log_interval": 1}, {"lr_decay_iters": 5}
    whole = make_run(
        train={**plan, "max_iters": 5},
        optimizer=schedule,
        system={"out_dir": str(tmp_path / "whole")},
    )
    train(whole)
    for steps in (2, 5, 5):  # stopped after two, restarted, and restarted once it had ended
        parts = make_run(
            train={**plan, "max_iters": steps, "requeue": True},
            optimizer=schedule,
            system={"out_dir": str(tmp_path / "parts")},
        )
        assert train(parts).step == steps
    assert same(weights(whole), weights(parts))
    assert [line["step"] for line in metrics(parts, "train")] == [1, 2, 3, 4, 5]


def test_workers_do_not_change_the_run(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [
        make_run(
            data={"num_workers": n},
            train={"max_iters": 5},
            system={"out_dir": str(tmp_path / f"{n}")},
        )
        for n in (0, 1, 3)
    ]
    for run in runs:
        train(run)
    assert same(weights(runs[0]), weights(runs[1])) and same(weights(runs[0]), weights(runs[2]))


def steps(config: RunConfig, n: int) -> Lom:
    """n bare steps, without evaluation."""
    torch.manual_seed(0)
    source, _ = validation_readers(config)
    reader = Reader(source, config.registry, config.data.block_size)
    begun = start(config, reader, torch.device("cpu"), Path(config.system.out_dir))
    model = begun.model
    rows = iter(Loader(reader, config.data, config.train.seed))
    for _ in range(n):
        train_step(Parallel(model), Update(begun.optimizers, CPU), next(rows), config, 1e-3)
    return model


@pytest.mark.parametrize("objective", ["next_token", "masked"])
def test_accumulated_gradients_equal_those_of_one_batch(make_run: MakeRun, objective: str) -> None:
    """Batches of 4, 2 or 1 of the same four rows, one of them without any word."""
    gradients = []
    for size in (4, 2, 1):
        config = make_run(
            objective=objective,
            data={"batch_size": size, "gradient_accumulation_steps": 4 // size, "block_size": 24},
            optimizer={"grad_clip": 0},
        )
        torch.manual_seed(0)
        reader = Reader(validation_readers(config)[0], config.registry, 24)
        model = start(config, reader, torch.device("cpu"), Path(config.system.out_dir)).model
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        rows = next(iter(Loader(reader, config.data, config.train.seed)))
        assert any("word" not in row.spans for row in rows) and len(rows) == 4
        # Plain descent at rate 1 moves the weights by the gradient itself.
        train_step(
            Parallel(model),
            Update([torch.optim.SGD(model.parameters())], CPU),
            rows,
            config,
            rate=1.0,
        )
        gradients.append({name: before[name] - p for name, p in model.named_parameters()})
    assert any(g.any() for g in gradients[0].values())
    for name, whole in gradients[0].items():
        for parts in gradients[1:]:
            torch.testing.assert_close(parts[name], whole, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("objective", ["next_token", "masked"])
def test_accumulation_over_k_equals_one_batch_k_times_larger(
    make_run: MakeRun, objective: str
) -> None:
    large = steps(make_run(objective=objective, data={"batch_size": 4}), 3)
    small = steps(
        make_run(objective=objective, data={"batch_size": 1, "gradient_accumulation_steps": 4}), 3
    )
    for (name, a), b in zip(large.state_dict().items(), small.state_dict().values(), strict=True):
        # Adam divides by the gradient's own size, which lifts rounding where it is near zero.
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4, msg=name)


def test_evaluation_leaves_the_training_stream_alone(make_run: MakeRun, tmp_path: Path) -> None:
    often = make_run(
        model={"dropout": 0.2},
        train={"max_iters": 6, "eval_interval": 1, "log_interval": 1},
        system={"out_dir": str(tmp_path / "often")},
    )
    never = make_run(
        model={"dropout": 0.2},
        train={"max_iters": 6, "eval_interval": 100, "log_interval": 1},
        system={"out_dir": str(tmp_path / "never")},
    )
    train(often)
    train(never)
    assert [m["loss"] for m in metrics(often)] == [m["loss"] for m in metrics(never)]
    assert len(metrics(often, "val")) > len(metrics(never, "val"))


def test_eval_only_writes_no_checkpoint(make_run: MakeRun) -> None:
    config = make_run(train={"eval_only": True})
    result = train(config)
    assert result.step == 0 and "loss" in result.metrics["val"]
    assert not (Path(config.system.out_dir) / "checkpoints").exists()


def test_init_from_a_checkpoint_starts_a_new_run_with_its_weights_and_scales(
    make_run: MakeRun, tmp_path: Path
) -> None:
    first = make_run(train={"max_iters": 3})
    train(first)
    second = make_run(
        train={"max_iters": 0, "init_from": first.system.out_dir, "eval_only": True},
        system={"out_dir": str(tmp_path / "second")},
    )
    assert (
        train(second).metrics["val"]
        == train(make_run(train={"init_from": "resume", "eval_only": True})).metrics["val"]
    )


def test_a_finished_run_is_not_overwritten(make_run: MakeRun) -> None:
    train(make_run(train={"max_iters": 1}))
    with pytest.raises(ConfigError, match=r"holds a run already: init_from=resume"):
        train(make_run(train={"max_iters": 1}))


def test_no_run_takes_the_place_of_another(make_run: MakeRun, tmp_path: Path) -> None:
    """A fine-tune that a scheduler starts again, and an evaluation, delete nothing."""
    config = make_run(train={"max_iters": 2})
    train(config)
    log = tmp_path / "run" / "metrics.jsonl"
    before = log.read_text()
    with pytest.raises(ConfigError, match=r"holds a run already: init_from=resume"):
        train(make_run(train={"max_iters": 1, "init_from": str(tmp_path / "run")}))
    for begin in ("resume", str(tmp_path / "run")):
        train(make_run(train={"max_iters": 2, "eval_only": True, "init_from": begin}))
    assert log.read_text().startswith(before)
    assert len(metrics(config, "val")) == before.count('"split": "val"') + 2


def test_resume_without_a_checkpoint(make_run: MakeRun) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        train(make_run(train={"init_from": "resume"}))


def test_another_number_of_rows_a_step_is_refused_on_resume(make_run: MakeRun) -> None:
    train(make_run(train={"max_iters": 1}))
    with pytest.raises(CheckpointError, match=r"4 rows a step, this run 8"):
        train(make_run(data={"batch_size": 8}, train={"init_from": "resume"}))


def test_resuming_with_accumulation_instead_of_batch_size_reads_the_same_rows(
    make_run: MakeRun,
) -> None:
    train(make_run(train={"max_iters": 2}))
    config = make_run(
        data={"batch_size": 2, "gradient_accumulation_steps": 2},
        train={"max_iters": 4, "init_from": "resume"},
    )
    assert train(config).step == 4


def test_bad_records_are_counted_by_reason_and_stop_the_run_past_the_cap(make_run: MakeRun) -> None:
    data = {"dataset": {"kind": "waves_data:Waves", "broken": [3, 4, 5]}}
    result = train(make_run(data=data | {"max_bad_fraction": 0.2}, train={"max_iters": 4}))
    assert set(result.tally.bad) == {"cannot be read"}
    assert "cosmic ray in record" in result.tally.examples["cannot be read"]
    data = {"dataset": {"kind": "waves_data:Waves", "broken": list(range(0, 40, 2))}}
    with pytest.raises(TooManyBadRecords, match=r"records cannot be used .*cosmic ray in record"):
        train(make_run(data=data, system={"out_dir": f"{make_run().system.out_dir}-2"}))


def test_not_one_good_record_is_told_before_training(make_run: MakeRun) -> None:
    data = {"dataset": {"kind": "waves_data:Waves", "broken": list(range(40))}}
    with pytest.raises(DataError, match=r"none of 36 records can be used; the first: .*cosmic ray"):
        train(make_run(data=data))


@pytest.mark.filterwarnings("ignore")
def test_a_loss_that_is_not_finite_stops_the_run(make_run: MakeRun) -> None:
    config = make_run(
        optimizer={"learning_rate": 1e30, "grad_clip": 0, "warmup_iters": 0},
        train={"max_iters": 50, "log_interval": 1},
    )
    with pytest.raises(TrainingError, match="not finite at step"):
        train(config)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gradient_that_is_not_finite_changes_nothing(dtype: str) -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    update = Update([optimizer], CPU, dtype)
    config = OptimizerConfig()

    def step(x: float) -> float:
        update.backward(model(torch.tensor([[x, 1.0]])).sum())
        return float(update.apply(config, 1e-2))

    assert step(1.0) > 0
    before = [p.clone() for p in model.parameters()]
    moments = {k: v.clone() for k, v in optimizer.state[model.weight].items()}
    scale = update.scaler.get_scale()
    assert not torch.tensor(step(float("inf"))).isfinite()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    after = optimizer.state[model.weight]
    assert all(torch.equal(moments[k], after[k]) for k in ("exp_avg", "exp_avg_sq", "step"))
    if dtype == "float16":
        assert update.scaler.get_scale() == scale / 2, "an overflow halves the scale"
    step(1.0)
    assert not torch.equal(before[0], model.weight), "and the next step goes on"


def test_float16_trains_and_its_scale_is_resumed(make_run: MakeRun) -> None:
    config = make_run(system={"dtype": "float16"}, train={"max_iters": 4, "log_interval": 1})
    train(config)
    state = checkpoint.read_state(checkpoint.find(config.system.out_dir, "latest"))
    assert state["scaler"]["scale"] >= 1
    longer = make_run(
        system={"dtype": "float16"},
        train={"max_iters": 6, "log_interval": 1, "init_from": "resume"},
    )
    assert train(longer).step == 6
    assert all(line["loss"] == line["loss"] for line in metrics(longer)), "finite"


def test_patience_ends_a_run_that_gets_no_better(make_run: MakeRun) -> None:
    config = make_run(
        optimizer={"learning_rate": 1e-30},
        train={"max_iters": 50, "eval_interval": 2, "patience": 3},
    )
    result = train(config)
    assert (result.stopped, result.step) == ("patience", 8), "the first is the best; then three"
    again = train(
        make_run(train={"max_iters": 50, "eval_interval": 2, "patience": 3, "init_from": "resume"})
    )
    assert again.step > 8


def test_bfloat16_autocast_stays_near_float32(make_run: MakeRun, tmp_path: Path) -> None:
    losses = []
    for dtype in ("float32", "bfloat16"):
        config = make_run(
            system={"dtype": dtype, "out_dir": str(tmp_path / dtype)}, train={"log_interval": 8}
        )
        train(config)
        losses.append(metrics(config)[-1]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_schedule_warms_up_then_falls_to_min_lr() -> None:
    config = OptimizerConfig(learning_rate=1.0, min_lr=0.1, warmup_iters=9, lr_decay_iters=109)
    rates = [learning_rate(step, config, max_iters=1000) for step in range(150)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[59] == pytest.approx(0.55)  # half way down the cosine
    assert rates[109:] == [0.1] * 41
    assert learning_rate(500, config.model_copy(update={"decay_lr": False}), 1000) == 1.0


def test_schedules_have_their_shapes() -> None:
    base = {"learning_rate": 1.0, "min_lr": 0.0, "warmup_iters": 0, "lr_decay_iters": 100}

    def rates(schedule: str, *steps: int) -> list[float]:
        config = OptimizerConfig.model_validate({**base, "schedule": schedule})
        return [learning_rate(step, config, 1000) for step in steps]

    assert rates("linear", 0, 50, 100, 200) == [1, 0.5, 0, 0]
    assert rates("wsd", 0, 79, 90, 100) == pytest.approx([1, 1, 0.5, 0])
    assert rates("constant", 0, 100) == [1, 1]
    noam = OptimizerConfig(learning_rate=1.0, min_lr=0.0, warmup_iters=100, schedule="noam")
    assert learning_rate(99, noam, 1000) == pytest.approx(100 / 101)
    assert learning_rate(399, noam, 1000) == pytest.approx(0.5)


def test_decay_is_on_matrices_only(make_run: MakeRun) -> None:
    config = make_run()
    model = Lom(config.registry, config.model)
    (adamw,) = make_optimizers(model, config.optimizer)
    plain, decayed = sorted(adamw.param_groups, key=lambda group: group["weight_decay"])
    assert {p.ndim for p in decayed["params"]} == {2} and {p.ndim for p in plain["params"]} == {1}
    assert decayed["weight_decay"] == 0.1 and plain["weight_decay"] == 0
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))
