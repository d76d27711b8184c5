"""Many processes, one run: each finds its place here when ``torchrun`` starts it.

A step's R = batch_size x gradient_accumulation_steps rows are those of the run, however many
processes share them: rank r of w owns R / w neighbouring lanes, and takes its share of the
accumulation. So the same batches make the same step on 1, 2 or 64 processes, and a run can be
resumed on another number of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lom_core.batch import Batch
from lom_core.config import DataConfig, SystemConfig
from lom_core.device import pick_device
from lom_core.errors import ConfigError
from lom_core.model import Lom


@dataclass(frozen=True)
class World:
    """This process among those of the run; all methods must be called by every one of them."""

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, by rank."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value)
        return found

    def sums(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sum over ranks of each key; ranks may lack keys. Added up in the order of ranks."""
        total: dict[str, float] = {}
        for part in self.gather(dict(values)):
            for key, value in part.items():
                total[key] = total.get(key, 0.0) + value
        return total

    def total(self, values: Sequence[float]) -> list[float]:
        """The same numbers of every rank, added up; cheap enough for every step."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor)
        found: list[float] = tensor.tolist()
        return found

    def lanes(self, config: DataConfig) -> range:
        """The rows of a step that this rank reads.

        Errors:
            ConfigError: the accumulation cannot be shared between so many processes.
        """
        steps = config.gradient_accumulation_steps
        if steps % self.size:
            raise ConfigError(
                f"gradient_accumulation_steps={steps} is no multiple of {self.size} processes; it "
                "counts the batches of a step over all of them"
            )
        share = config.batch_size * steps // self.size
        return range(self.rank * share, (self.rank + 1) * share)


@contextmanager
def joined(system: SystemConfig) -> Iterator[tuple[World, torch.device]]:
    """This process's world and device; what ``torchrun`` started meets the others first."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), pick_device(system)
        return
    device = pick_device(system, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Objects and counts travel between CPUs, gradients between devices.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size), device
    finally:
        dist.destroy_process_group()


class Parallel:
    """The model as every rank calls it: gradients are summed over ranks at a step's last batch."""

    def __init__(self, model: Lom, world: World = World()) -> None:
        self.model, self.world = model, world
        self.module: nn.Module = model
        if world.size > 1:
            # All modules run in every batch, so no parameter is ever unused.
            self.module = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.module(batch)
        return losses

    def collecting(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of each batch of a step."""
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()
