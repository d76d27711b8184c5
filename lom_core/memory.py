"""Memory that training needs, worked out before anything is allocated.

Weights, gradients and AdamW's two moments are float32: 4 + 4 + 8 bytes a parameter. How N
processes share them is the strategy (ZeRO: Rajbhandari et al. 2020). Activations are what autograd
keeps between forward and backward, counted in a forward pass of tensors that have shapes and no
data: exact for what is kept, but for kernels of another device and what torch.compile fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lom_core.batch import Batch, Span
from lom_core.config import RunConfig
from lom_core.device import autocast
from lom_core.model import Lom

FLOAT = 4  # bytes


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters.

    Args:
        total: all of them. learning: those with a gradient.
        unit: the most that FSDP gathers at once: of a block, or of all that is no block.
        parts: of the body, of each modality, and of what opens each observation.
    """

    total: int
    learning: int
    unit: int
    parts: dict[str, int]


@dataclass(frozen=True)
class Activations:
    """Bytes that one batch needs besides the model.

    Args:
        whole: all that autograd keeps for the backward.
        checkpointed: with activation checkpointing it keeps each block's input, and all of one
            block at a time, which is computed again.
        working: while the backward passes through a block: the gradients of what that kept.
    """

    whole: int
    checkpointed: int
    working: int


@dataclass(frozen=True)
class Share:
    """Bytes that one process keeps of the model in one strategy."""

    parameters: int
    gradients: int
    moments: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.moments


def shares(sizes: Sizes, processes: int) -> dict[str, Share]:
    """What each of N processes keeps, by strategy.

    ``ddp`` keeps all of it, ``zero1`` a share of the moments, ``zero2`` of the gradients too,
    ``fsdp`` (ZeRO-3) of the parameters too, beside the unit in use and the next one, gathered.
    With ``cpu_offload`` only those two are on the device.
    """

    def one(n: int) -> int:
        return -(-n // processes)

    p, g, m = FLOAT * sizes.total, FLOAT * sizes.learning, 2 * FLOAT * sizes.learning
    gathered = min(2 * FLOAT * sizes.unit, p)
    return {
        "ddp": Share(p, g, m),
        "zero1": Share(p, g, one(m)),
        "zero2": Share(p, one(g), one(m)),
        "fsdp": Share(min(one(p) + gathered, p), one(g), one(m)),
        "fsdp, cpu_offload": Share(gathered, 0, 0),
    }


def fake_model(config: RunConfig) -> Lom:
    """The run's model without a single weight: shapes only, of any size on any machine."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return Lom(config.registry, config.model)


def sizes_of(model: Lom) -> Sizes:
    """Parameters of a model, fake or real."""
    total = _count(model)
    blocks = [_count(block) for block in model.body.blocks]
    parts = model.n_parameters()
    named = {name.removesuffix(" parts"): n for name, n in parts.items()}
    return Sizes(
        total=total,
        learning=sum(p.numel() for p in model.parameters() if p.requires_grad),
        unit=max([*blocks, total - sum(blocks)]),
        parts={**named, "start of an observation": total - sum(parts.values())},
    )


def activations(model: Lom, config: RunConfig, batch: Batch) -> Activations:
    """What autograd keeps of one batch in the run's precision.

    Args:
        model: a fake one. batch: real, on the CPU; its sizes matter, its values do not.
    """
    mode = model.bos.fake_mode  # type: ignore[attr-defined]
    kept = {"body": 0, "else": 0}
    with _saved(model, kept), autocast(config.system, torch.device("cpu")):
        losses = model(_fake(batch, mode.from_tensor))
    del losses
    n_layer = len(model.body.blocks)
    inputs = n_layer * batch.n_slots * config.model.n_embd * FLOAT
    block = kept["body"] // n_layer
    whole = kept["else"] + kept["body"]
    return Activations(whole, min(whole, kept["else"] + inputs + block), working=block)


@contextmanager
def _saved(model: Lom, kept: dict[str, int]) -> Iterator[None]:
    """Adds up the storages that autograd saves, weights apart, by where in the model it does."""
    where = "else"
    seen = {p.untyped_storage()._cdata for p in model.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            kept[where] += storage.nbytes()
        return tensor

    def enter(*_: Any) -> None:
        nonlocal where
        where = "body"

    def leave(*_: Any) -> None:
        nonlocal where
        where = "else"

    handles = [
        model.body.register_forward_pre_hook(enter),
        model.body.register_forward_hook(leave),
    ]
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _fake(batch: Batch, fake: Callable[[Tensor], Tensor]) -> Batch:
    """Its spans without data; the offsets, which the model reads on the CPU, keep theirs."""
    spans = {
        name: Span(**{f.name: fake(getattr(span, f.name)) for f in fields(span)})
        for name, span in batch.spans.items()
    }
    return replace(batch, spans=spans, bos=fake(batch.bos))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
