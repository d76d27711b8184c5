"""What happened between two lines of metrics, kept on the device until it is read."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Mapping
from math import isfinite
from typing import NamedTuple

import torch
from torch import Tensor

from lom_core.distributed import World
from lom_core.flops import Outline, flops_of
from lom_core.model import Lom

Metrics = dict[str, float]


class Step(NamedTuple):
    """What a step leaves: outlines of this rank's batches and their summed losses, and what all
    ranks share."""

    outlines: list[Outline]
    sums: dict[str, Tensor]
    counts: Mapping[str, float]  # what the answers weigh, over all ranks
    norm: Tensor  # of the whole gradient, before clipping
    stop: bool  # a signal asked some rank to


class Interval:
    """The steps since ``began``. ``waited`` are the seconds that the loader kept them waiting."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.waited = 0.0
        self.steps: list[Step] = []

    def bad_steps(self) -> list[list[str]]:
        """This rank's records of each step whose gradient was not finite."""
        norms = torch.stack([step.norm for step in self.steps]).tolist()
        return [ids for ids, norm in zip(self.ids(), norms, strict=True) if not isfinite(norm)]

    def ids(self) -> list[list[str]]:
        """This rank's records of each step."""
        return [[i for batch in step.outlines for i in batch.ids] for step in self.steps]

    def metrics(self, model: Lom, world: World, peak: float) -> tuple[Metrics, int]:
        """Mean losses and the last gradient's norm; tokens a second, how full the rows were, the
        share of the time that the loader was waited for, the largest memory of a process in GiB,
        and the share of the devices' ``peak`` FLOP/s that observations needed (MFU); and the
        number of tokens."""
        names = list(self.steps[-1].sums)  # every step of every rank runs every modality
        own = [float(torch.stack([step.sums[n] for step in self.steps]).sum()) for n in names]
        counts = [sum(step.counts[n] for step in self.steps) for n in names]
        batches = [batch for step in self.steps for batch in step.outlines]
        own += [sum(batch.n_tokens for batch in batches), sum(batch.n_slots for batch in batches)]
        own += [flops_of(model, batches)]
        *sums, tokens, slots, flops = world.total(own)
        found = {
            f"loss/{name}": value / count
            for name, value, count in zip(names, sums, counts, strict=True)
            if count
        }
        norm = self.steps[-1].norm
        found["grad_norm"] = float(norm)  # waits for the device, so the clock is read after it
        seconds = time.perf_counter() - self.began
        worst = world.gather((self.waited / seconds, peak_memory(norm.device)))
        return {
            **found,
            "tokens_per_second": tokens / seconds,
            "fill": tokens / max(slots, 1),
            "mfu": flops / (seconds * world.size * peak),
            "loader_wait": max(wait for wait, _ in worst),
            "memory_gib": max(memory for _, memory in worst),
        }, int(tokens)

    def ledger(self, world: World) -> Iterable[list[str]]:
        """The records of each step, in the order of its rows, of all ranks."""
        parts = world.gather(self.ids())
        return ([i for part in step for i in part] for step in zip(*parts, strict=True))


def peak_memory(device: torch.device) -> float:
    """The most that this process has held so far, in GiB: of the device, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
