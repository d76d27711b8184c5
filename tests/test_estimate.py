"""What a run will need: counted as training counts it, measured, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lom_core import memory
from lom_core.cli.common import duration
from lom_core.cli.estimate import verdict
from lom_core.config import RunConfig
from lom_core.data import Reader
from lom_core.device import autocast
from lom_core.distributed import World, place
from lom_core.errors import TooManyBadRecords
from lom_core.estimate import Estimate, Probe, Reading, Tokens, estimate, expected, read
from lom_core.evaluate import validation_readers
from lom_core.loader import Loader
from lom_core.model import Lom, layouts
from lom_core.start import start
from lom_core.tally import Tally
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


def reader_of(config: RunConfig) -> Reader:
    source, _ = validation_readers(config)
    data = config.data
    return Reader(source, config.registry, data.block_size, data.shuf, config.objective.leads)


# --------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("num_workers", [0, 2])
def test_tokens_are_those_of_the_records_in_the_rows(make_run: MakeRun, num_workers: int) -> None:
    config = make_run(data={"num_workers": num_workers})
    reader = reader_of(config)
    reading, taken = read(reader, config, 3)
    by_id = {str(reader.source[i]["id"]): reader.read(i, 0) for i in range(len(reader.source))}
    assert len(taken) == 3 and reading.tokens.records >= 200 and reading.steps > 3
    words = [len(o.tokens["word"]) for o in by_id.values() if "word" in o.tokens]
    assert set(words) == {6}
    found = reading.modalities
    assert found["word"] and found["wave"]
    assert (found["word"].min, found["word"].max, found["word"].mean) == (6, 6, 6.0)
    assert found["wave"].records == reading.tokens.records > found["word"].records
    lengths = [o.n_slots - 1 for o in by_id.values()]
    assert min(lengths) <= reading.tokens.min and reading.tokens.max <= max(lengths)
    total = sum(t.mean * t.records for t in found.values() if t)
    assert total == pytest.approx(reading.tokens.mean * reading.tokens.records)
    slots = reading.steps * config.data.batch_size * config.data.block_size
    assert reading.fill == pytest.approx((total + reading.tokens.records) / slots)
    assert reading.padded < reading.fill <= 1
    assert reading.epoch == pytest.approx(len(reader.source) / reading.records_per_step)


def test_bad_records_shorten_the_epoch_and_too_many_are_an_error(make_run: MakeRun) -> None:
    broken = {"kind": "waves_data:Waves", "broken": list(range(0, 40, 4))}
    config = make_run(data={"dataset": broken, "max_bad_fraction": 0.9})
    reading, _ = read(reader_of(config), config, 2)
    bad = reading.tally.n_bad / reading.tally.seen
    assert 0.1 < bad < 0.4
    assert reading.epoch == pytest.approx(36 * (1 - bad) / reading.records_per_step)
    with pytest.raises(TooManyBadRecords, match="max_bad_fraction"):
        estimate(make_run(data={"dataset": broken}))


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("objective", ["next_token", {"kind": "masked", "ratio": 0.4}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "pure_bfloat16"])
def test_activations_without_data_are_those_of_a_real_pass(
    make_run: MakeRun, objective: Any, dtype: str
) -> None:
    config = make_run(
        objective=objective, system={"dtype": dtype}, model={"dropout": 0.1, "n_layer": 3}
    )
    rows = next(iter(Loader(reader_of(config), config.data, 0)))
    batch = config.objective.prepare(rows, layouts(config.registry))
    found = memory.activations(memory.fake_model(config), config, batch)
    model, whole = Lom(config.registry, config.model), 0
    place(model, config.system, World(), torch.device("cpu"))
    seen = {p.data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal whole
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            whole += storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, autocast(config.system, torch.device("cpu")):
        losses = model(batch)
    assert losses and found.whole == whole
    assert found.working < found.checkpointed < found.whole


def test_strategies_keep_less_and_less() -> None:
    sizes = memory.Sizes(1000, 800, {}, weights=4000, gradients=3200, moments=6400, unit=200)
    alone, many = memory.shares(sizes, 1), memory.shares(sizes, 4)
    assert set(alone.values()) == {memory.Share(4000, 3200, 6400)}
    assert many["ddp"] == memory.Share(4000, 3200, 6400)
    assert many["zero1"] == memory.Share(1000 + 4000, 800 + 3200, 1600)
    assert many["zero2"] == memory.Share(1000 + 4000, 800 + 200, 1600)
    assert many["fsdp"] == memory.Share(1000 + 400, 800 + 200, 1600)
    assert many["fsdp, cpu_offload"] == memory.Share(400, 200, 0)
    totals = [share.total for share in many.values()]
    assert totals == sorted(totals, reverse=True)


@pytest.mark.parametrize(
    ("optimizer", "dtype", "moments"),
    [
        ({}, "bfloat16", lambda body, rest: 8 * (body + rest)),
        ({}, "pure_bfloat16", lambda body, rest: 4 * body + 8 * rest),
        ({"freeze": ["body"]}, "float32", lambda body, rest: 8 * rest),
    ],
)
def test_sizes_are_those_of_what_training_starts_with(
    make_run: MakeRun, tmp_path: Path, optimizer: dict[str, Any], dtype: str, moments: Any
) -> None:
    config = make_run(optimizer=optimizer, system={"dtype": dtype})
    begun = start(config, reader_of(config), torch.device("cpu"), tmp_path / "none")
    sizes = memory.sizes_of(memory.fake_model(config), config)
    assert sizes == memory.sizes_of(begun.model, config)
    parameters = list(begun.model.parameters())
    assert sizes.parameters == sum(sizes.parts.values()) == sum(p.numel() for p in parameters)
    assert sizes.learning == sum(p.numel() for p in parameters if p.requires_grad)
    body = sizes.parts["body"]
    assert sizes.moments == moments(body, sizes.parameters - body)


def test_muon_keeps_one_moment_of_the_matrices(make_run: MakeRun) -> None:
    config = make_run(optimizer={"algorithm": "muon"})
    model = memory.fake_model(config)
    matrices = sum(p.numel() for p in model.body.parameters() if p.ndim == 2)
    sizes = memory.sizes_of(model, config)
    assert sizes.moments == 8 * sizes.parameters - 4 * matrices


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_the_estimate_is_near_the_measured_peak(make_run: MakeRun, tmp_path: Path) -> None:
    """malloc gives large tensors back at once here, so that the process holds what torch does."""
    model = {"n_layer": 6, "n_head": 4, "n_embd": 256}
    data = {"block_size": 256, "batch_size": 16}
    config = make_run(model=model, data=data, system={"num_threads": 1})
    (tmp_path / "run.json.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-m", "lom_core", "estimate", "run.json.yaml", "--json", "--steps=2"]
    told = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True).stdout
    found = json.loads(told)
    assert found["single"] > 3e8
    assert found["single"] == pytest.approx(found["probe"]["memory"], rel=0.3)


# --------------------------------------------------------------------------------- the whole of it


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }


def test_it_leaves_nothing_behind_and_takes_no_notice_of_a_run(
    make_run: MakeRun, tmp_path: Path
) -> None:
    config = make_run(train={"max_iters": 2})
    before = files(tmp_path)
    fresh = estimate(config, steps=3)
    assert files(tmp_path) == before and not (tmp_path / "run").exists()
    train(config)
    before = files(tmp_path)
    again = estimate(config, steps=3)
    assert files(tmp_path) == before
    assert again.flops == fresh.flops and again.sizes == fresh.sizes


def test_the_flops_of_a_step_are_those_of_all_its_batches(make_run: MakeRun) -> None:
    one = estimate(make_run(data={"batch_size": 8}), steps=0)
    two = estimate(make_run(data={"batch_size": 4, "gradient_accumulation_steps": 2}), steps=0)
    assert one.flops == two.flops > 6 * one.sizes.parts["body"] * one.reading.tokens_per_step * 0.9
    assert one.rows_per_step == two.rows_per_step == 8
    assert two.activations.whole < one.activations.whole
    assert one.probe is None and not one.time


def test_epochs_are_counted_in_steps(make_run: MakeRun) -> None:
    found = estimate(make_run(train={"epochs": 5}), steps=0)
    assert found.reading.epoch
    assert found.steps == pytest.approx(5 * found.reading.epoch, rel=0.2)


def test_the_probe_makes_real_steps(make_run: MakeRun) -> None:
    found = estimate(make_run(data={"num_workers": 1}), steps=4)
    assert found.probe is not None and found.probe.steps == 4 and found.probe.device == "cpu"
    assert 0 < found.probe.mfu < 1
    assert found.time["run"] >= found.time["steps"] >= 8 * found.probe.seconds
    assert json.loads(json.dumps(found.as_dict()))["probe"]["steps"] == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_expected_time(make_run: MakeRun, workers: int) -> None:
    config = make_run(data={"num_workers": workers}, train={"eval_interval": 30})
    tokens = Tokens(1, 1.0, 1, 1.0, 1)
    reading = Reading(1, tokens, {}, 1.0, 1.0, 1.0, 1.0, Tally(), seconds=0.5, epoch=None)
    probe = Probe("cpu", 10, 3.0, 2.0, 1e9, 0.5, None, evaluation=7.0)
    found = expected(config, 100, reading, probe)
    step = 2.0 if workers else 2.5
    assert found["step"] == step and found["steps"] == 100 * step + 1.0
    assert found["evaluations"] == 5 * 7.0  # before the first step, at 30, 60, 90 and at the end
    assert found["run"] == found["steps"] + 35.0


def test_the_verdict_on_the_loader() -> None:
    tokens = Tokens(1, 1.0, 1, 1.0, 1)
    slow = Reading(1, tokens, {}, 1.0, 1.0, 1.0, 1.0, Tally(), seconds=3.0, epoch=None)
    probe = Probe("cpu", 10, 1.0, 1.0, 1e9, 0.5, None, evaluation=0.0)
    assert verdict(slow, probe, 0) == (
        False,
        "training waits for the loader 75% of the time: set num_workers=4",
    )
    assert verdict(slow, probe, 2) == (
        False,
        "training waits for the loader 67% of the time: try num_workers=8",
    )
    for workers in (0, 2):
        assert verdict(replace(slow, seconds=0.01), probe, workers)[0]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0.0123, "12.3 ms"),
        (4.25, "4.2 s"),
        (59.99, "60 s"),
        (200, "3 min 20 s"),
        (3599.8, "60 min 0 s"),
        (18600, "5 h 10 min"),
        (183600, "2 d 3 h"),
    ],
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_model_that_fits_nowhere_is_estimated_too(make_run: MakeRun) -> None:
    model = {"n_layer": 80, "n_head": 64, "n_embd": 8192}
    found: Estimate = estimate(make_run(model=model), processes=512, steps=0)
    assert found.sizes.parameters > 60e9
    whole, sharded = found.memory["ddp"].total, found.memory["fsdp"].total
    assert whole == 16 * found.sizes.parameters and sharded < whole / 50
    assert np.isfinite(found.flops)
