"""Two processes make the run that one makes: bitwise, also after a resume on another number, and
to rounding where each holds a part of the weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.distributed import checkpoint as dcp

from lom_core import checkpoint
from lom_core.config import DataConfig
from lom_core.distributed import World, place
from lom_core.errors import ConfigError
from lom_core.loader import Every
from lom_core.model import Lom
from lom_core.runfile import load_run
from lom_core.sources import ListSource

from .conftest import MODALITIES, WAVES

# One lane in two has words: of the two processes, one never reads any.
HALVES = (
    WAVES
    + """

class Halves(Waves):
    def __getitem__(self, i):
        item = super().__getitem__(i)
        if i % 2:
            item.pop("word", None)
            item.pop("word_positions", None)
        return item
"""
)


def write_run(folder: Path) -> Path:
    (folder / "waves_data.py").write_text(HALVES)
    run = {
        "modalities": MODALITIES,
        "data": {
            "dataset": {"kind": "waves_data:Halves", "n": 40},
            "block_size": 48,
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "shuffle": False,
        },
        "model": {"n_layer": 2, "n_head": 2, "n_embd": 32},
        "optimizer": {"warmup_iters": 2, "learning_rate": 1e-3},
        "train": {"max_iters": 6, "eval_interval": 3, "log_interval": 1, "checkpoint_interval": 2},
        "system": {"dtype": "float32", "device": "cpu", "num_threads": 1},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run))
    return path


def launch(run: Path, world: int, *overrides: str) -> str:
    """Train in a process of its own, or in ``world`` of them under torchrun."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
    command = [
        sys.executable,
        *(torchrun if world > 1 else []),
        "-m",
        "lom_core",
        "train",
        str(run),
    ]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{run.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [*command, *overrides],
        capture_output=True,
        text=True,
        cwd=run.parent,
        env=environment,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(out_dir: Path) -> dict[str, torch.Tensor]:
    return dict(checkpoint.stored(checkpoint.find(out_dir, "latest"), checkpoint.MODEL))


def difference(a: Path, b: Path) -> float:
    """The largest, of any weight."""
    one, two = weights(a), weights(b)
    assert one.keys() == two.keys()
    return max(float((one[k].float() - two[k].float()).abs().max()) for k in one)


def lines(out_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out_dir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_equal_accumulation_over_two_bitwise(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    launch(run, 1, "out_dir=one")
    told = launch(run, 2, "out_dir=two")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different, different
    assert told.count("records: train") == 1, "one process speaks"
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        held_out = ("loss_se/wave", "r2_se/wave", "records/word", "unigram_se/word")
        for key in ("loss", "loss/wave", "loss/word", "tokens", "records", "grad_norm", *held_out):
            assert (key in a) == (key in b)
            assert a.get(key, 0) == pytest.approx(b.get(key, 0), rel=1e-5), (key, a, b)
    state = [
        json.loads(next((tmp_path / d / "checkpoints").glob("step-*6/state.json")).read_text())
        for d in ("one", "two")
    ]
    for key in ("lanes", "tokens", "tally"):
        assert state[0][key] == state[1][key], key


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    run = write_run(tmp_path)
    plan = ("lr_decay_iters=6", "ledger=true")
    launch(run, 1, "out_dir=whole", "max_iters=6", *plan)
    launch(run, 1, "out_dir=parts", "max_iters=2", *plan)
    launch(run, 2, "out_dir=parts", "max_iters=4", "init_from=resume", *plan)
    launch(run, 1, "out_dir=parts", "max_iters=6", "init_from=resume", *plan)
    assert difference(tmp_path / "whole", tmp_path / "parts") == 0
    ledgers = [(tmp_path / d / "ledger.jsonl").read_text() for d in ("whole", "parts")]
    assert ledgers[0] == ledgers[1] and len(ledgers[0].splitlines()) == 6


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on two processes by ddp."""
    folder = tmp_path_factory.mktemp("two")
    launch(write_run(folder), 2, "out_dir=ddp")
    return folder


@pytest.mark.parametrize(
    "options",
    [("strategy=fsdp",), ("strategy=zero1",), ("strategy=zero2", "activation_checkpointing=true")],
    ids=" ".join,
)
def test_sharing_the_weights_changes_no_more_than_rounding(
    on_two: Path, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    out_dir = options[0].removeprefix("strategy=")
    launch(on_two / "run.yaml", 2, f"out_dir={out_dir}", *options)
    assert difference(on_two / "ddp", on_two / out_dir) < 1e-6
    found = checkpoint.find(on_two / out_dir, "latest")
    assert len(list(found.glob("model-0000?-of-00002.safetensors"))) == 2
    monkeypatch.syspath_prepend(on_two)
    monkeypatch.delitem(sys.modules, "waves_data", raising=False)
    model, _, _ = checkpoint.load_model(found)  # one process reads what two wrote
    assert all(torch.equal(weights(on_two / out_dir)[k], v) for k, v in model.state_dict().items())


def test_a_sharded_run_goes_on_whole_and_sharded_again(on_two: Path) -> None:
    run = on_two / "run.yaml"
    resumed = ("out_dir=parts", "lr_decay_iters=6", "init_from=resume")
    launch(run, 2, "out_dir=parts", "max_iters=2", "lr_decay_iters=6", "strategy=fsdp")
    launch(run, 1, *resumed, "max_iters=4")
    launch(run, 2, *resumed, "max_iters=6", "strategy=zero1")
    assert difference(on_two / "ddp", on_two / "parts") < 1e-6


def test_fewer_held_out_records_than_processes(on_two: Path) -> None:
    """All of them run the sharded model as often, or gloo aborts and NCCL waits for ever."""
    run = on_two / "run.yaml"
    few = ("val_fraction=0.03", "max_iters=1")
    launch(run, 2, "out_dir=few", "strategy=fsdp", *few)
    launch(run, 1, "out_dir=few1", *few)
    a, b = ([line for line in lines(on_two / d) if line["split"] == "val"] for d in ("few", "few1"))
    assert [line["records/wave"] for line in a] == [1, 1]
    assert [x["loss"] for x in a] == pytest.approx([x["loss"] for x in b], rel=1e-5)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_shards_are_those_of_torch_distributed_checkpoint(on_two: Path) -> None:
    """Its reader of safetensors reads them."""
    launch(on_two / "run.yaml", 2, "out_dir=dcp", "strategy=fsdp", "max_iters=2")
    found = checkpoint.find(on_two / "dcp", "latest")
    ours = dict(checkpoint.stored(found, checkpoint.MODEL))
    ours |= dict(checkpoint.stored(found, checkpoint.OPTIMIZER))
    theirs = {name: torch.zeros_like(tensor) for name, tensor in ours.items() if tensor.ndim}
    dcp.load(theirs, storage_reader=dcp.HuggingFaceStorageReader(str(found)), no_dist=True)
    assert len(theirs) > len(checkpoint.stored(found, checkpoint.MODEL)), "moments, too"
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_offload_is_refused_where_it_cannot_be(
    on_two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(on_two)
    monkeypatch.delitem(sys.modules, "waves_data", raising=False)
    config = load_run(on_two / "run.yaml", ["cpu_offload=true"])
    model = Lom(config.registry, config.model)
    with pytest.raises(ConfigError, match=r"needs CUDA.*this is 1 on cpu with ddp"):
        place(model, config.system, World(), torch.device("cpu"))


def test_ranks_share_lanes_and_records() -> None:
    fields = {"dataset": {"kind": "python", "target": "a:b"}, "batch_size": 3}
    config = DataConfig.model_validate({**fields, "gradient_accumulation_steps": 4})
    assert World().lanes(config) == range(12)
    assert [World(rank, 2).lanes(config) for rank in (0, 1)] == [range(6), range(6, 12)]
    with pytest.raises(ConfigError, match="gradient_accumulation_steps=4 is no multiple of 3"):
        World(0, 3).lanes(config)
    source = ListSource([{"x": i} for i in range(7)])
    parts = [Every(source, rank, 3) for rank in range(3)]
    assert [len(part) for part in parts] == [3, 2, 2]
    seen = [part[i]["x"] for part in parts for i in range(len(part))]
    assert sorted(seen) == list(range(7))
