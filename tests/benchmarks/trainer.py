"""What the trainer costs: microseconds a step over a bare loop, and the wait for a checkpoint.

    python tests/benchmarks/trainer.py

The bare loop does what nobody can leave out (the same rows, objective, model, loss, backward,
clipping and AdamW); steps of both alternate within one run, on one thread, and their processor
time is compared, which other programs do not touch. A checkpoint is compared with ``torch.save`` of the same weights and moments to the same disk: what the step
waits for it, and how much longer the steps beside the writing take.
"""

from __future__ import annotations

import io
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
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
from lom_core.optim import make_optimizers
from lom_core.saving import Saver
from lom_core.signals import Signals
from lom_core.sources import ListSource
from lom_core.start import start
from lom_core.train import Run

ROUNDS, WARM = 100, 5


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
            "train": {"eval_interval": 10**9, "checkpoint_interval": 10**9},
            "system": {"dtype": "float32", "device": "cpu", "out_dir": str(folder)},
        }
    )


class Loop(Run):
    """Without the checkpoint at its end, which is measured by itself."""

    def save(self, best: bool) -> None:
        pass


def records() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "wave": rng.normal(size=(n, 8)).astype(np.float32),
            "wave_positions": np.arange(n)[:, None],
        }
        for n in rng.integers(10, 40, 64)
    ]


class Beside(Loader):
    """Hands the trainer the same rows in every round; before each a bare loop takes a step, on the
    rows that come half a round later: neither finds what the other has just cached.

    ``bare`` and ``ours``: microseconds of processor time a step, of each round. Ours are all that
    the trainer does between being given rows and asking for the next.
    """

    def __init__(self, rows: list[list[Row]], like: Loader, config: RunConfig, model: Lom) -> None:
        self.rows, self.config, self.model = rows, config, model
        self.states, self.tally = like.states, like.tally
        self.optimizers = make_optimizers(model, config.optimizer)
        self.bare: list[float] = []
        self.ours: list[float] = []

    def __iter__(self) -> Iterator[list[Row]]:
        n = len(self.rows)
        while True:
            bare = ours = 0.0
            for i, rows in enumerate(self.rows):
                began = time.process_time()
                self.step(self.rows[(i + n // 2) % n])
                middle = time.process_time()
                yield rows
                bare += middle - began
                ours += time.process_time() - middle
            self.bare.append(bare / n * 1e6)
            self.ours.append(ours / n * 1e6)

    def step(self, rows: list[Row]) -> None:
        """The loop that one writes oneself."""
        batch = self.config.objective.prepare(rows, self.model.layouts)
        loss = sum(value / batch.counts[name] for name, value in self.model(batch).items())
        loss.backward()  # type: ignore[union-attr,no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def overhead() -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(Path(folder), 32, 1)
        reader = Reader(ListSource(records()), config.registry, 64)
        begun = start(config, reader, torch.device("cpu"), Path(folder))
        loader = Loader(reader, config.data, 0)
        read = iter(loader)
        # So many that a round writes some lines of metrics, and no cache knows them the next time.
        rows = [next(read) for _ in range(4 * config.train.log_interval)]
        begun.progress.max_iters = ROUNDS * len(rows) + 1  # a round's end is noted at the next step
        beside = Beside(rows, loader, config, begun.model)
        with (
            redirect_stdout(io.StringIO()),
            Monitor(config, Path(folder), begun.progress) as monitor,
        ):
            Loop(config, begun, {}, monitor, Saver(Path(folder), World())).steps(beside, Signals())
    bare, ours = np.array(beside.bare[WARM:]), np.array(beside.ours[WARM:])
    extra = ours - bare
    again = np.random.default_rng(0).choice(extra, (1000, len(extra)))
    low, high = np.quantile(np.median(again, axis=1), [0.025, 0.975])
    print(
        f"a step: bare {np.median(bare):.0f} us, trainer {np.median(ours):.0f} us; overhead "
        f"{np.median(extra):.0f} us [{low:.0f}, {high:.0f}]"
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
