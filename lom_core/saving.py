"""Saver: checkpoints written beside the training, by every process that holds a part of them.

The step waits only while tensors are copied into buffers; a thread writes them. Each process
writes its own file, then a note with the file's hash; the main one waits for the notes, adds
``state.json``, syncs, renames the folder to its final name and points ``latest`` at it. No
collective runs in the thread, so it cannot meet those of the training.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, Self

import torch
from torch import Tensor

from lom_core import tensors
from lom_core.checkpoint import FORMAT, MODEL, OPTIMIZER, STATE, pointed, root_of
from lom_core.distributed import World
from lom_core.errors import CheckpointError
from lom_core.model import Lom

PATIENCE = 1800.0  # seconds that the main process waits for the parts of the others


class Saver:
    """Writes ``step-N`` folders; one at a time, and the next save waits for the one before.

    Args:
        sharded: every process holds a part of the weights; else the main one writes all.
        staying: which of these steps' checkpoints stay, once nothing points at them.
    """

    def __init__(
        self,
        out_dir: Path,
        world: World,
        sharded: bool = False,
        staying: Callable[[Iterable[int]], set[int]] = set,
    ) -> None:
        self.root, self.world, self.sharded = root_of(out_dir), world, sharded
        self.staying = staying
        self.buffers: dict[str, dict[str, Tensor]] = {MODEL: {}, OPTIMIZER: {}}
        self.thread: Thread | None = None
        self.error, self.lost = "", False  # lost: some process failed to write its part
        if world.main:  # what a killed run left half written
            for part in self.root.glob(".step-*"):
                shutil.rmtree(part, ignore_errors=True)

    def save(
        self,
        model: Lom,
        optimizers: list[torch.optim.Optimizer],
        state: Mapping[str, Any],
        random: Mapping[str, Tensor],
        best: bool = False,
    ) -> None:
        """Copy what this process holds, and begin to write it.

        Args:
            random: the random generators of all ranks.

        Errors:
            CheckpointError: the save before this one failed; the checkpoint before it is whole.
        """
        self.wait()
        begins: dict[str, int] = {}
        if self.world.main or self.sharded:
            found = {MODEL: model.state_dict(), OPTIMIZER: optimizer_tensors(model, optimizers)}
            for stem, wholes in found.items():
                own = {}
                for name, tensor in wholes.items():
                    rows, begins[name] = tensors.local_rows(tensor)
                    if rows.numel() and (tensors.is_sharded(tensor) or self.world.main):
                        own[name] = rows.detach().contiguous()
                if stem == OPTIMIZER and self.world.main:
                    own |= random
                tensors.stage(own, self.buffers[stem])
        job = (dict(state), begins, best)
        self.thread = Thread(target=self._run, args=job, name="lom-saver", daemon=True)
        self.thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """What was begun is written, whatever happened; its failure is raised if nothing else."""
        if kind is None:
            self.wait()
        elif self.thread is not None:
            self.thread.join()

    @property
    def failed(self) -> bool:
        """Did the save that was begun last fail already?"""
        return bool(self.error)

    def wait(self) -> None:
        """Until what was begun is written. Every rank must call it.

        Errors:
            CheckpointError: on every rank, what failed on any.
        """
        if self.thread is None:
            return
        if not self.world.main:
            self.thread.join()
        # The main one may wait for the note of a process whose disk is too full to hold it.
        errors = [error for error in self.world.gather(self.error) if error]
        self.lost = bool(errors)
        self.thread.join()
        self.thread = None
        errors += [error for error in self.world.gather(self.error) if error]
        if errors:
            raise CheckpointError(errors[0])

    def _run(self, state: dict[str, Any], begins: Mapping[str, int], best: bool) -> None:
        """In the thread. What goes wrong is told by ``wait``."""
        final = self.root / f"step-{state['step']:08d}"
        part = self.root / f".{final.name}"
        try:
            if self.world.main or self.sharded:
                self._write_own(part, begins)
            if self.world.main:
                self._finish(part, final, state, best)
        except Exception as error:  # noqa: BLE001  (nobody else would see it)
            told = str(error) or type(error).__name__
            self.error = f"cannot write {final}: {told}; the previous checkpoint is whole"
            if self.world.main:
                shutil.rmtree(part, ignore_errors=True)
            else:
                _note(part, self.world.rank, {"error": told})

    def _write_own(self, part: Path, begins: Mapping[str, int]) -> None:
        """This process's files and the note that they are there."""
        part.mkdir(parents=True, exist_ok=True)
        shard = f"-{self.world.rank + 1:05d}-of-{self.world.size:05d}" if self.sharded else ""
        hashes = {}
        for stem, own in self.buffers.items():
            path = part / f"{stem}{shard}.safetensors"
            hashes[path.name] = tensors.write(path, own, {k: begins.get(k, 0) for k in own})
            sync(path)
        _note(part, self.world.rank, hashes)

    def _finish(self, part: Path, final: Path, state: dict[str, Any], best: bool) -> None:
        """Wait for all parts; then the checkpoint appears at once, and older ones go."""
        files: dict[str, str] = {}
        for rank in range(self.world.size if self.sharded else 1):
            files |= self._read_note(part, rank)
        text = json.dumps({"format": FORMAT, **state, "files": files}, indent=1)
        (part / STATE).write_text(text, encoding="utf8")
        sync(part / STATE)
        sync(part)
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
        sync(self.root)
        point(self.root, "latest", final.name)
        if best:
            point(self.root, "best", final.name)
        self._prune()

    def _read_note(self, part: Path, rank: int) -> dict[str, str]:
        """A process's file hashes, as soon as it has noted them."""
        path, began = part / f"rank-{rank}.json", time.monotonic()
        while not path.exists():
            if self.lost:
                raise CheckpointError(f"process {rank} or another wrote nothing")
            if time.monotonic() - began > PATIENCE:
                raise CheckpointError(
                    f"process {rank} wrote nothing to {part} in {PATIENCE / 60:.0f} minutes; "
                    "out_dir must be in a file system that all processes share"
                )
            time.sleep(0.02)
        told: dict[str, str] = json.loads(path.read_text(encoding="utf8"))
        path.unlink()
        if "error" in told:
            raise CheckpointError(f"process {rank}: {told['error']}")
        return told

    def _prune(self) -> None:
        """Delete checkpoints that nothing points at and that are not to stay.

        One whose files somebody still reads (NFS keeps them) goes at the next start instead.
        """
        found = {path: re.fullmatch(r"step-(\d+)", path.name) for path in self.root.glob("step-*")}
        folders = {int(match[1]): path for path, match in found.items() if match}
        staying = {folders[step].name for step in self.staying(folders)}
        staying |= {pointed(self.root / name) or "" for name in ("latest", "best")}
        for path in folders.values():
            if path.name not in staying:  # never a half of one under its own name
                shutil.rmtree(path.rename(self.root / f".{path.name}.old"), ignore_errors=True)


def optimizer_tensors(model: Lom, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Each parameter's state (moments, step) under ``parameter/key``."""
    found = {}
    for name, parameter in model.named_parameters():
        for optimizer in optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                found[f"{name}/{key}"] = value
    return found


def point(root: Path, name: str, target: str) -> None:
    """Make ``latest`` or ``best`` name a checkpoint, in one rename."""
    part = root / f".{name}.part"
    part.write_text(target + "\n", encoding="utf8")
    sync(part)
    part.replace(root / name)


def sync(path: Path) -> None:
    """Wait until the disk has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _note(part: Path, rank: int, told: Mapping[str, str]) -> None:
    path = part / f"rank-{rank}.json"
    try:
        path.with_suffix(".part").write_text(json.dumps(told), encoding="utf8")
        path.with_suffix(".part").replace(path)
    except OSError:
        if "error" not in told:
            raise  # else the main process finds out by waiting
