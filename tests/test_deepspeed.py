"""DeepSpeed files become parts of run files; what cannot be meant or is not here is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lom_core.deepspeed import translate
from lom_core.errors import ConfigError
from lom_core.runfile import load_run
from tests.test_cli import RUN, lom

# What such files look like: DeepSpeed's documentation, "CIFAR-10" and "BERT pre-training".
FULL: dict[str, Any] = {
    "train_batch_size": 64,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 4,
    "steps_per_print": 50,
    "gradient_clipping": 1.0,
    "fp16": {"enabled": True, "loss_scale": 0, "initial_scale_power": 16},
    "optimizer": {
        "type": "AdamW",
        "params": {"lr": 5e-5, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01},
    },
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"warmup_num_steps": 500, "total_num_steps": 10000, "warmup_type": "linear"},
    },
    "zero_optimization": {
        "stage": 2,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "overlap_comm": True,
    },
    "activation_checkpointing": {"partition_activations": True},
    "wall_clock_breakdown": False,
}


def test_a_whole_file() -> None:
    made = translate(FULL)
    assert made.run == {
        "data": {"batch_size": 4, "gradient_accumulation_steps": 16},
        "system": {
            "dtype": "float16",
            "strategy": "zero2",
            "cpu_offload": True,
            "activation_checkpointing": True,
        },
        "optimizer": {
            "grad_clip": 1.0,
            "learning_rate": 5e-5,
            "weight_decay": 0.01,
            "beta1": 0.9,
            "beta2": 0.999,
            "schedule": "linear",
            "warmup_iters": 500,
            "lr_decay_iters": 10000,
            "min_lr": 0.0,
        },
        "train": {"log_interval": 50},
    }
    assert set(made.left) == {
        "fp16.loss_scale",
        "fp16.initial_scale_power",
        "zero_optimization.overlap_comm",
        "activation_checkpointing.partition_activations",
        "wall_clock_breakdown",
    }


def test_the_names_of_the_climate_guide() -> None:
    made = translate(
        {"zero_stage": 3, "fp16": True, "gradient_checkpointing": True, "cpu_offload": True}
    )
    assert made.run["system"] == {
        "strategy": "fsdp",
        "dtype": "float16",
        "activation_checkpointing": True,
        "cpu_offload": True,
    }


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stages(stage: int) -> None:
    strategy = ["ddp", "zero1", "zero2", "fsdp"][stage]
    found = translate({"zero_optimization": {"stage": stage, "offload_param": None}}).run
    assert found == {"system": {"strategy": strategy}}


def test_auto_is_left_to_the_run_file() -> None:
    made = translate(
        {
            "train_batch_size": "auto",
            "gradient_clipping": "auto",
            "bf16": {"enabled": "auto"},
            "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": [0.9, 0.95]}},
        }
    )
    assert made.run == {"optimizer": {"beta1": 0.9, "beta2": 0.95}}
    told = [note.split(" ")[0] for note in made.notes]
    assert told == [
        "train_batch_size",
        "gradient_clipping",
        "bf16.enabled",
        "optimizer.params.lr",
    ]


@settings(max_examples=60, deadline=None)
@given(
    micro=st.integers(1, 9),
    steps=st.integers(1, 9),
    processes=st.integers(1, 9),
    said=st.sets(st.sampled_from(["total", "micro", "steps"]), min_size=1),
)
def test_batch_sizes_make_the_same_step(
    micro: int, steps: int, processes: int, said: set[str]
) -> None:
    whole = {
        "train_batch_size": micro * steps * processes,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
    }
    names = dict(zip(("total", "micro", "steps"), whole, strict=True))
    config = {names[key]: whole[names[key]] for key in said}
    if said == {"steps"}:
        with pytest.raises(ConfigError, match="how large"):
            translate(config, processes)
        return
    found = translate(config, processes).run["data"]
    accumulated = steps if "steps" in said or said == {"total", "micro"} else 1
    assert found["gradient_accumulation_steps"] == accumulated * processes
    rows = found["batch_size"] * found["gradient_accumulation_steps"]
    expected = whole["train_batch_size"] if "total" in said else micro * accumulated * processes
    assert rows == expected


@pytest.mark.parametrize(
    ("config", "processes", "told"),
    [
        ({"train_batch_size": 30, "train_micro_batch_size_per_gpu": 4}, None, "contradict"),
        ({**{k: FULL[k] for k in list(FULL)[:3]}}, 8, "on 8 processes contradict"),
        ({"train_batch_size": 3}, 4, "contradict"),
        ({"train_micro_batch_size_per_gpu": 4}, None, "--processes N"),
        ({"train_batch_size": 0}, 1, "above 0"),
        ({"train_batch_size": "many"}, 1, "above 0"),
        ({"fp16": {"enabled": True}, "bf16": {"enabled": True}}, None, "both enabled"),
        ({"zero_optimization": {"stage": 4}}, None, "possible: 0, 1, 2, 3"),
        ({"zero_optimization": {"stage": [1]}}, None, "possible: 0, 1, 2, 3"),
        ({"zero_optimization": 2}, None, "no object"),
        (
            {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}},
            None,
            "device=nvme is not here",
        ),
        ({"zero_optimization": {"stage": 0, "offload_param": {}}}, None, ""),
        ({"cpu_offload": True}, None, "stage 1, 2 or 3"),
        ({"optimizer": {"type": "Lamb"}}, None, "possible: AdamW, Muon"),
        ({"optimizer": "AdamW"}, None, "no object"),
        ({"optimizer": {"type": "Adam", "params": {"adam_w_mode": False}}}, None, "adam_w_mode"),
        ({"optimizer": {"type": "Adam", "params": {"betas": 0.9}}}, None, "not two numbers"),
        ({"optimizer": {"type": "Adam", "params": {"lr": -1}}}, None, "learning_rate=-1"),
        ({"optimizer": {"type": "Adam", "params": {"lr": "x"}}}, None, "learning_rate='x'"),
        ({"scheduler": {"type": "OneCycle"}}, None, "possible: WarmupLR"),
        ({"scheduler": {"type": "WarmupCosineLR"}}, None, "optimizer.params.lr"),
        ({"gradient_clipping": "strong"}, None, "grad_clip='strong'"),
    ],
)
def test_what_cannot_be_meant_is_an_error(
    config: dict[str, Any], processes: int | None, told: str
) -> None:
    if not told:
        assert translate(config, processes).run == {"system": {"strategy": "ddp"}}
        return
    with pytest.raises(ConfigError) as raised:
        translate(config, processes)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_schedules() -> None:
    cosine = {"type": "WarmupCosineLR", "params": {"total_num_steps": 900, "cos_min_ratio": 0.01}}
    adam = {"type": "Adam", "params": {"lr": 1e-3}}
    found = translate({"scheduler": cosine, "optimizer": adam}).run["optimizer"]
    assert found["schedule"] == "cosine" and found["warmup_iters"] == 1000
    assert found["min_lr"] == pytest.approx(1e-5) and found["lr_decay_iters"] == 900
    made = translate({"scheduler": {"type": "WarmupLR", "params": {"warmup_max_lr": 2e-4}}})
    assert made.run["optimizer"]["schedule"] == "constant"
    assert made.run["optimizer"]["learning_rate"] == 2e-4
    assert any("linear here" in note for note in made.notes)


def test_the_command_writes_a_part_that_merges(
    tmp_path: Path, monkeypatch: Any, waves: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    Path("ds.json").write_text(json.dumps(FULL))
    printed = lom("config", "import-deepspeed", "ds.json")
    assert printed.code == 0 and "left out: fp16.loss_scale" in printed.out
    written = lom("config", "import-deepspeed", "ds.json", "--into", "deepspeed.yaml")
    assert written.code == 0
    assert yaml.safe_load(Path("deepspeed.yaml").read_text()) == translate(FULL).run
    run = load_run("run.yaml", ["deepspeed.yaml", "max_iters=7"])
    assert run.system.strategy == "zero2" and run.optimizer.beta2 == 0.999
    assert run.model.n_embd == 16 and run.data.gradient_accumulation_steps == 16
    again = lom("config", "import-deepspeed", "ds.json", "--into", "run.yaml")
    assert again.code == 2 and "exists" in again.err and Path("run.yaml").read_text() == RUN
    Path("broken.json").write_text("{'a': 1}")
    broken = lom("config", "import-deepspeed", "broken.json")
    assert broken.code == 2 and "is not JSON" in broken.err and broken.err.count("\n") == 1
