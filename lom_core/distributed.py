"""Many processes, one run: each finds its place here when ``torchrun`` starts it.

A step's R = batch_size x gradient_accumulation_steps rows are those of the run, however many
processes share them: rank r of w owns R / w neighbouring lanes, and takes its share of the
accumulation. So the same batches make the same step on 1, 2 or 64 processes, and a run can be
resumed on another number of them.

``ddp`` gives each process the whole model. The other strategies are one engine, FSDP2, which gives
each process some rows of every weight, and of its gradient and moments; they differ in how long
whole weights and gradients are kept.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lom_core.batch import Batch
from lom_core.config import DataConfig, SystemConfig
from lom_core.device import pick_device, products_dtype
from lom_core.errors import ConfigError, TrainingError
from lom_core.model import Lom

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule


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

    def agree(self, facts: Mapping[str, object]) -> None:
        """Each rank must know the same: a machine with a stale view of the disk, or with data of
        its own, would train on another run.

        Errors:
            TrainingError: on every rank, the first fact in which two differ.
        """
        first, *others = self.gather(dict(facts))
        for rank, found in enumerate(others, 1):
            for name, value in first.items():
                if found.get(name) != value:
                    raise TrainingError(
                        f"process 0 begins with {name} = {value}, process {rank} with "
                        f"{found.get(name)}: data and out_dir must be the same for all processes"
                    )

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
    device = pick_device(system, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(), device
        return
    # Objects and counts travel between CPUs, gradients between devices.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size), device
    except BaseException:
        # NCCL would wait for the others, who wait for this process: its end is what tells them.
        if device.type == "cpu":
            dist.destroy_process_group()
        raise
    leave()


def leave() -> None:
    """Destroy the process group, and its threads with it.

    DTensor's caches keep each mesh for good, and a mesh keeps its group: then gloo's threads run
    until the interpreter ends, which sometimes aborts the process.
    """
    from torch.distributed.device_mesh import DeviceMesh

    dist.destroy_process_group()
    gc.collect()  # a sharded model is full of cycles
    for mesh in [found for found in gc.get_objects() if type(found) is DeviceMesh]:
        getattr(mesh, "_pg_registry", {}).clear()  # private: another torch may not have it


def is_shared(system: SystemConfig, world: World) -> bool:
    """Does each process hold a part of every weight?"""
    return system.strategy != "ddp" and world.size > 1


def place(model: Lom, system: SystemConfig, world: World, device: torch.device) -> None:
    """Bring the model, equal on every rank, to the device, or this process's part of it.

    Errors:
        ConfigError: cpu_offload where it cannot be.
    """
    shared = is_shared(system, world)
    if system.cpu_offload and not (shared and device.type == "cuda"):
        raise ConfigError(
            "cpu_offload needs CUDA, several processes and strategy zero1, zero2 or fsdp; this is "
            f"{world.size} on {device.type} with {system.strategy}"
        )
    model.body.recompute = system.activation_checkpointing
    if system.dtype == "pure_bfloat16":
        model.body.dtype = torch.bfloat16
        model.body.to(torch.bfloat16)
    if not shared:
        model.to(device)
        if system.compile:
            model.body.compile()
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    options: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (world.size,)),
        "reshard_after_forward": system.strategy == "fsdp",
    }
    if system.cpu_offload:
        options["offload_policy"] = CPUOffloadPolicy()
    dtype = products_dtype(system)
    # Weights travel in the precision that products want them in; autocast would cast them after.
    halved = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for block in model.body.blocks:
        if system.compile:  # the collectives stay outside of it
            block.compile()
        fully_shard(block, mp_policy=halved, **options)
    fully_shard(model.body.norm, **options)  # weights of one group have one dtype
    fully_shard(model, **options)
    for method in ("assess", "predict"):
        register_fsdp_forward_method(model, method)


class Parallel:
    """The model as every rank calls it: gradients are summed over ranks at a step's last batch,
    or after each one where no rank may keep whole gradients (zero2, fsdp)."""

    def __init__(self, model: Lom, world: World = World(), strategy: str = "ddp") -> None:
        self.model, self.world, self.strategy = model, world, strategy
        self.module: nn.Module = model
        self.device = model.device
        if world.size > 1 and strategy == "ddp":
            # All modules run in every batch, so no parameter is ever unused.
            self.module = DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = self.module(batch)
        return losses

    def collecting(self, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward of each batch of a step."""
        if self.world.size > 1 and self.strategy == "zero1":
            sharded = cast("FSDPModule", self.module)
            sharded.set_requires_gradient_sync(last)
            sharded.set_reshard_after_backward(last)
        if last or not isinstance(self.module, DistributedDataParallel):
            return nullcontext()
        return self.module.no_sync()
