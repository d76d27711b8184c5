"""A run that is asked to stop, or killed at any instant, goes on bitwise as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from lom_core import checkpoint
from lom_core.train import train

from .test_train import MakeRun, metrics, same, weights


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_signal_saves_and_leaves_with_a_code_of_its_own(
    make_run: MakeRun, tmp_path: Path, num_workers: int
) -> None:
    """SIGTERM in the middle, then resume: bitwise the weights of the uninterrupted run.

    It comes as under torchrun and Slurm: to the loader's processes, too, and twice.
    """
    whole = make_run(train={"max_iters": 400}, system={"out_dir": str(tmp_path / "whole")})
    parts = make_run(
        train={"max_iters": 400, "log_interval": 1},
        data={"num_workers": num_workers},
        system={"out_dir": str(tmp_path / "parts")},
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(parts.model_dump(mode="json")))
    command = [sys.executable, "-m", "lom_core", "train", str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("step      3"):
            os.killpg(running.pid, signal.SIGTERM)
            running.send_signal(signal.SIGTERM)
            break
    told = running.stdout.read()
    assert running.wait(timeout=60) == 75
    assert "stopped at step" in told and "init_from=resume goes on" in told
    state = checkpoint.read_state(checkpoint.find(tmp_path / "parts", "latest"))
    assert 3 <= state["step"] < 400
    evaluated = {line["step"] for line in metrics(parts, "val")}
    assert state["step"] % 100 == 0 or state["step"] not in evaluated, "it saves, and no more"
    train(
        parts.model_copy(update={"train": parts.train.model_copy(update={"init_from": "resume"})})
    )
    train(whole)
    assert same(weights(whole), weights(parts))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_kill_9_at_any_instant_loses_nothing(
    make_run: MakeRun, tmp_path: Path, num_workers: int
) -> None:
    """Killed again and again, often while a checkpoint is written: the same weights at the end."""
    plan = {"max_iters": 60, "checkpoint_interval": 1, "eval_interval": 7, "log_interval": 1}
    data = {"num_workers": num_workers}
    model = {"dropout": 0.2}
    whole = make_run(
        model=model, data=data, train=plan, system={"out_dir": str(tmp_path / "whole")}
    )
    out_dir = tmp_path / "parts"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    rng = np.random.default_rng(num_workers)
    for _ in range(5):
        begun = (out_dir / "checkpoints" / "latest").exists()
        parts = make_run(
            model=model,
            data=data,
            train={**plan, "init_from": "resume" if begun else "scratch"},
            system={"out_dir": str(out_dir)},
        )
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(parts.model_dump(mode="json")))
        command = [sys.executable, "-m", "lom_core", "train", str(path)]
        running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        for line in running.stdout:
            if line.startswith("step"):
                break  # it has begun; then any instant will do
        time.sleep(float(rng.uniform(0, 0.6)))
        running.kill()
        running.wait()
    resumed = {**plan, "init_from": "resume"}
    train(make_run(model=model, data=data, train=resumed, system={"out_dir": str(out_dir)}))
    train(whole)
    assert same(weights(whole), weights(parts))
