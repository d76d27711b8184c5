"""Saving fails in every way that disks do: told in a line, and the previous checkpoint is whole."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lom_core import checkpoint, saving
from lom_core.config import RunConfig, TrainConfig
from lom_core.distributed import World
from lom_core.errors import CheckpointError
from lom_core.model import Lom
from lom_core.saving import Saver
from lom_core.tensors import TensorFiles, write
from lom_core.train import train

MakeRun = Callable[..., RunConfig]


def lom_train(config: RunConfig, folder: Path, largest_file: int) -> subprocess.CompletedProcess:
    """``lom train`` in a process that may write no file larger than so many bytes."""
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "lom_core", "train", str(path)]
    limit = (largest_file, largest_file)
    return subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_disk_that_fills_stops_the_run_with_a_line(make_run: MakeRun, tmp_path: Path) -> None:
    """The kernel refuses to write on in the middle of a file, as it does on a full disk."""
    train(make_run(train={"max_iters": 2}))
    before = checkpoint.find(tmp_path / "run", "latest")
    size = (before / "optimizer.safetensors").stat().st_size
    plan = {"max_iters": 2000, "checkpoint_interval": 3, "init_from": "resume"}
    done = lom_train(make_run(train=plan), tmp_path, largest_file=size - 4096)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: cannot write") and "the previous checkpoint is whole" in line
    assert "step-00000003" in line, "it did not train on for the other 1997 steps"
    assert checkpoint.find(tmp_path / "run", "latest") == before
    checkpoint.load_model(before)
    assert not list((tmp_path / "run" / "checkpoints").glob(".step*"))


def test_a_folder_that_is_taken_away(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file, where the folder should be")
    with pytest.raises(CheckpointError, match=r"cannot write .*step-00000002"):
        train(make_run(train={"max_iters": 2}))


def test_what_a_killed_run_left_is_cleared(make_run: MakeRun, tmp_path: Path) -> None:
    left = tmp_path / "run" / "checkpoints" / ".step-00000007"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    train(make_run(train={"max_iters": 2}))
    assert not left.exists()


def two(tmp_path: Path, make_run: MakeRun) -> tuple[Lom, list[Saver]]:
    config = make_run()
    model = Lom(config.registry, config.model)
    return model, [Saver(tmp_path, World(rank, 2), sharded=True) for rank in (0, 1)]


def test_one_process_fails_and_the_checkpoint_does_not_appear(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (main, other) = two(tmp_path, make_run)

    def full(path: Path, *_: object) -> str:
        if threading.current_thread() is other.thread:
            raise OSError(28, "No space left on device")
        return write(path, {}, {})

    monkeypatch.setattr("lom_core.tensors.write", full)
    for saver in (main, other):
        saver.save(model, [], {"step": 5}, {})
    for saver in (main, other):
        assert saver.thread is not None
        saver.thread.join()
    assert "process 1: [Errno 28] No space left on device" in main.error
    assert main.failed and other.failed and not (tmp_path / "checkpoints" / "latest").exists()


def test_a_process_that_never_writes_is_not_waited_for_for_ever(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "PATIENCE", 0.1)
    model, (main, _) = two(tmp_path, make_run)
    main.save(model, [], {"step": 5}, {})
    assert main.thread is not None
    main.thread.join()
    assert "process 1 wrote nothing" in main.error and "all processes share" in main.error


def test_a_disk_too_full_to_say_so_is_told_at_once(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main process waits for a note that cannot be written; the others tell it by gathering."""
    model, savers = two(tmp_path, make_run)
    meet, told = threading.Barrier(2), ["", ""]

    def gather(world: World, value: str) -> list[str]:
        told[world.rank] = value
        meet.wait(10)
        found = list(told)
        meet.wait(10)
        return found

    def full(path: Path, *_: object) -> str:
        if threading.current_thread() is savers[1].thread:
            raise OSError(28, "No space left on device")
        return write(path, {}, {})

    def note(part: Path, rank: int, found: dict[str, str]) -> None:
        if rank == 0:
            write_note(part, rank, found)

    write_note = saving._note
    monkeypatch.setattr(World, "gather", gather)
    monkeypatch.setattr("lom_core.tensors.write", full)
    monkeypatch.setattr(saving, "_note", note)
    found: list[str] = []

    def run(saver: Saver) -> None:
        saver.save(model, [], {"step": 5}, {})
        try:
            saver.wait()
        except CheckpointError as error:
            found.append(str(error))

    threads = [threading.Thread(target=run, args=(saver,)) for saver in savers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2 and all("No space left on device" in error for error in found)


def test_no_error_of_the_writing_thread_is_lost(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("lom_core.tensors.write", no_memory)
    config = make_run()
    saver = Saver(tmp_path, World())
    saver.save(Lom(config.registry, config.model), [], {"step": 5}, {})
    with pytest.raises(CheckpointError, match=r"cannot write .*step-00000005: MemoryError"):
        saver.wait()


def test_folders_of_other_names_stay(make_run: MakeRun, tmp_path: Path) -> None:
    config = make_run()
    mine = tmp_path / "checkpoints" / "step-of-mine"
    mine.mkdir(parents=True)
    saver = Saver(tmp_path, World(), staying=lambda _: set())
    for step in (1, 2):
        saver.save(Lom(config.registry, config.model), [], {"step": step}, {})
        saver.wait()
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-of-mine", "step-00000002", "latest"}


def test_the_copy_is_of_the_moment_of_saving(make_run: MakeRun, tmp_path: Path) -> None:
    """Training goes on while it is written; the buffers do not."""
    config = make_run()
    model = Lom(config.registry, config.model)
    with Saver(tmp_path, World()) as saver:
        for step in range(5):
            before = {k: v.clone() for k, v in model.state_dict().items()}
            saver.save(model, [], {"step": step}, {})
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1.0)
            saver.wait()
            stored = checkpoint.stored(
                tmp_path / "checkpoints" / f"step-{step:08d}", checkpoint.MODEL
            )
            assert all(torch.equal(before[k], stored[k]) for k in before)


@given(rows=st.integers(0, 9), borders=st.lists(st.integers(0, 9), max_size=3), part=st.data())
def test_rows_come_together_from_any_shards(
    tmp_path_factory: pytest.TempPathFactory, rows: int, borders: list[int], part: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    whole = torch.randn(rows, 3)
    cuts = sorted({0, rows, *(b for b in borders if b < rows)})
    for i, (begin, end) in enumerate(zip(cuts, cuts[1:] or [0], strict=False)):
        write(folder / f"{i}.safetensors", {"x": whole[begin:end].clone()}, {"x": begin})
    files = TensorFiles(sorted(folder.iterdir()))
    assert torch.equal(files["x"], whole) and files.shape("x") == (rows, 3)
    begin = part.draw(st.integers(0, rows))
    end = part.draw(st.integers(begin, rows))
    assert torch.equal(files.rows("x", begin, end), whole[begin:end])


def test_a_shard_that_is_missing_is_told(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", {"x": torch.zeros(2, 3)}, {"x": 0})
    write(tmp_path / "c.safetensors", {"x": torch.zeros(2, 3)}, {"x": 4})
    files = TensorFiles(sorted(tmp_path.iterdir()))
    with pytest.raises(CheckpointError, match="has no row 2 of x"):
        files["x"]


def test_which_checkpoints_stay() -> None:
    plan = TrainConfig(checkpoint_interval=10, keep=2, log_spaced=True)
    assert plan.staying([1, 2, 4, 8, 10, 16, 20, 30, 33]) == {1, 2, 4, 8, 16, 20, 30}
    assert [s for s in range(1, 21) if plan.saves(s)] == [1, 2, 4, 8, 10, 16, 20]
    every = TrainConfig(checkpoint_interval=10)
    assert every.staying([10, 15, 20, 30]) == {10, 20, 30}


def test_log_spaced_checkpoints_are_there_at_the_end(make_run: MakeRun, tmp_path: Path) -> None:
    train(make_run(train={"max_iters": 9, "checkpoint_interval": 3, "keep": 1, "log_spaced": True}))
    root = tmp_path / "run" / "checkpoints"
    best = (root / "best").read_text().strip()
    steps = {p.name for p in root.glob("step-*")} - {best}
    assert steps == {f"step-{s:08d}" for s in (1, 2, 4, 8, 9)} - {best}
    for path in root.glob("step-*"):
        assert json.loads((path / "state.json").read_text())["step"] == int(path.name[5:])
