"""What the trainer costs: microseconds a step over a bare loop, and the wait for a checkpoint.

    python tests/benchmarks/trainer.py

The bare loop does what nobody can leave out (the same rows, objective, model, loss, backward,
clipping and AdamW); blocks of both alternate within one run, on one thread, and medians of the
processor time are compared, which other programs do not touch. A checkpoint
is compared with ``torch.save`` of the same weights and moments to the same disk: what the step
waits for it, and how much longer the steps beside the writing take.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lom_core import checkpoint
from lom_core.batch import Row
from lom_core.config import RunConfig
from lom_core.data import LaneState, Reader
from lom_core.distributed import World
from lom_core.loader import Loader
from lom_core.model import Lom
from lom_core.monitor import Monitor
from lom_core.saving import Saver
from lom_core.signals import Signals
from lom_core.sources import ListSource
from lom_core.start import start
from lom_core.train import Run

BLOCK, BLOCKS = 500, 8


def configuration(folder: Path, n_embd: int, n_layer: int) -> RunConfig:
    return RunConfig.model_validate(
        {
            "modalities": {"wave": {"input_size": 8, "pos_input_size": 1}},
            "data": {
                "dataset": {"kind": "python", "target": "builtins:list"},
                "block_size": 64,
                "batch_size": 4,
            },
            "model": {"n_layer": n_layer, "n_head": 2, "n_embd": n_embd},
            "train": {"log_interval": 10**9, "eval_interval": 10**9, "checkpoint_interval": 10**9},
            "system": {"dtype": "float32", "device": "cpu", "out_dir": str(folder)},
        }
    )


class Loop(Run):
    """Without the checkpoint at the end of a block, which is measured by itself."""

    def save(self, best: bool) -> None:
        pass


class Rows(Loader):
    """The same rows again and again: reading them is not what is measured."""

    def __init__(self, rows: list[list[Row]], like: Loader) -> None:
        self.rows = rows
        self.states, self.tally = like.states, like.tally

    def __iter__(self) -> Iterator[list[Row]]:
        while True:
            yield from self.rows


def records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "wave": rng.normal(size=(n, 8)).astype(np.float32),
            "wave_positions": np.arange(n)[:, None],
        }
        for n in rng.integers(10, 40, 64)
    ]


def bare(config: RunConfig, model: Lom, rows_of: Iterator[list[Row]]) -> None:
    """The loop that one writes oneself."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(BLOCK):
        batch = config.objective.prepare(next(rows_of), model.layouts)
        loss = sum(value / batch.counts[name] for name, value in model(batch).items())
        loss.backward()  # type: ignore[union-attr,no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def overhead() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), 32, 1)
        reader = Reader(ListSource(records()), config.registry, 64)
        begun = start(config, reader, torch.device("cpu"), Path(folder))
        loader = Loader(reader, config.data, 0)
        read = iter(loader)
        loader = Rows([next(read) for _ in range(32)], loader)
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        with Monitor(config, Path(folder), begun.progress) as monitor:
            monitor.console.quiet = True
            saver = Saver(Path(folder), World())
            for block in range(BLOCKS + 1):
                run = Loop(config, begun, {}, monitor, saver)
                begun.progress.max_iters = begun.progress.step + BLOCK
                began = time.process_time()
                run.steps(loader, Signals())
                middle = time.process_time()
                bare(config, begun.model, iter(loader))
                if block:  # the first warms up
                    times["ours"].append((middle - began) / BLOCK)
                    times["bare"].append((time.process_time() - middle) / BLOCK)
    ours, own = (statistics.median(times[k]) for k in ("ours", "bare"))
    extra = statistics.median(a - b for a, b in zip(times["ours"], times["bare"], strict=True))
    print(
        f"a step: bare {own * 1e6:.0f} us, trainer {ours * 1e6:.0f} us; overhead {extra * 1e6:.0f} us"
    )


def checkpoints(n_embd: int = 512, n_layer: int = 8, rounds: int = 7) -> None:
    folder = Path(tempfile.mkdtemp())
    config = configuration(folder, n_embd, n_layer)
    model = Lom(config.registry, config.model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    sum(p.sum() for p in model.parameters()).backward()  # type: ignore[union-attr,no-untyped-call]
    optimizer.step()
    state = {"step": 0, "lanes": [LaneState().__dict__]}
    matrix = torch.randn(768, 768)

    def work(seconds: float = 0.5) -> int:
        """How many matrix products are done beside whatever else runs."""
        n, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            matrix @ matrix
            n += 1
        return n

    waits, saves, alone, beside = [], [], [], []
    try:
        with Saver(folder, World()) as saver:
            for step in range(rounds + 1):
                random = checkpoint.random_state(torch.device("cpu"))
                alone.append(work())
                began = time.perf_counter()
                saver.save(model, [optimizer], {**state, "step": step}, random)
                waits.append(time.perf_counter() - began)
                beside.append(work())
                saver.wait()
                began = time.perf_counter()
                weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save(weights, folder / "torch.pt")
                saves.append(time.perf_counter() - began)
        size = sum(p.stat().st_size for p in checkpoint.find(folder).iterdir()) / 2**20
    finally:
        shutil.rmtree(folder)
    wait, save = statistics.median(waits[1:]), statistics.median(saves[1:])
    print(
        f"a checkpoint of {size:.0f} MiB: the step waits {wait * 1e3:.0f} ms (the first time "
        f"{waits[0] * 1e3:.0f}), torch.save takes {save * 1e3:.0f} ms; ratio {wait / save:.3f}; work "
        f"beside the writing runs at {statistics.median(beside) / statistics.median(alone):.2f} of "
        "its speed"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    overhead()
    checkpoints()
