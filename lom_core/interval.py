"""What happened between two lines of metrics, kept on the device until it is read."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lom_core.batch import Batch
from lom_core.distributed import World
from lom_core.flops import Outline, flops_of
from lom_core.model import Lom

Metrics = dict[str, float]


@dataclass(frozen=True)
class Step:
    """What a step leaves: this rank's batches and summed losses, and what all ranks share."""

    batches: list[Batch]
    sums: dict[str, Tensor]
    counts: Mapping[str, float]  # what the answers weigh, over all ranks
    norm: Tensor  # of the whole gradient, before clipping
    outlines: list[Outline]  # of this rank's batches
    stop: bool  # a signal asked some rank to


class Interval:
    """Sums over steps. ``waited`` are the seconds that the loader kept them waiting."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.waited = 0.0
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}
        self.norms: list[Tensor] = []
        self.ids: list[list[str]] = []
        self.tokens = self.slots = 0
        self.outlines: list[Outline] = []
        self.stop = False

    def add(self, step: Step) -> None:
        for name, value in step.sums.items():
            self.sums[name] = self.sums.get(name, 0) + value
            self.counts[name] = self.counts.get(name, 0) + step.counts[name]
        self.tokens += sum(batch.n_tokens for batch in step.batches)
        self.slots += sum(batch.n_slots for batch in step.batches)
        self.outlines += step.outlines
        self.norms.append(step.norm)
        self.ids.append([i for batch in step.batches for i in batch.ids])
        self.stop = step.stop

    def bad_steps(self) -> list[list[str]]:
        """This rank's records of each step whose gradient was not finite."""
        finite = torch.stack(self.norms).isfinite().tolist()
        return [ids for ids, fine in zip(self.ids, finite, strict=True) if not fine]

    def metrics(self, model: Lom, world: World, peak: float) -> tuple[Metrics, int]:
        """Mean losses and the last gradient's norm; tokens a second, how full the rows were, the
        share of the time that the loader was waited for, the largest memory of a process in GiB,
        and the share of the devices' ``peak`` FLOP/s that observations needed (MFU); and the
        number of tokens."""
        own = [float(value) for value in self.sums.values()]  # every rank runs every modality
        own += [self.tokens, self.slots, flops_of(model, self.outlines)]
        *sums, tokens, slots, flops = world.total(own)
        found = {
            f"loss/{name}": value / self.counts[name]
            for name, value in zip(self.sums, sums, strict=True)
            if self.counts[name]
        }
        norm = self.norms[-1]
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
        parts = world.gather(self.ids)
        return ([i for part in step for i in part] for step in zip(*parts, strict=True))


def peak_memory(device: torch.device) -> float:
    """The most that this process has held so far, in GiB: of the device, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
