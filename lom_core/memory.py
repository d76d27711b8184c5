"""Memory that training needs, worked out before anything is allocated.

Weights, gradients and AdamW's two moments take 4 + 4 + 8 bytes a parameter in float32. How N
processes share them is the strategy (ZeRO: Rajbhandari et al. 2020), as FSDP2 does it. Activations
are what autograd keeps between forward and backward, counted in a forward pass of tensors that have
shapes and no data: exact for what is kept, but for kernels of another device and what torch.compile
fuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
from lom_core.optim import freeze, make_optimizers


@dataclass(frozen=True)
class Sizes:
    """How large a model is.

    Args:
        parameters: number of all; learning: of those with a gradient; parts: of the body, of each
            modality, and of what opens each observation.
        weights, gradients, moments: bytes of all.
        unit: bytes of the most that FSDP gathers at once: a block, or all that is no block.
    """

    parameters: int
    learning: int
    parts: dict[str, int]
    weights: int
    gradients: int
    moments: int
    unit: int


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
    """What each of N processes keeps at most, by strategy.

    ``ddp`` keeps all of it. The others own an N-th, beside which ``zero1`` gathers all weights and
    all gradients for a step, ``zero2`` all weights but the gradients of one unit, ``fsdp`` (ZeRO-3)
    the weights of the unit in use and of the next. With ``cpu_offload`` only what is gathered is on
    the device. Alone, a process keeps all of it in any strategy.
    """
    w, g, m, unit = sizes.weights, sizes.gradients, sizes.moments, sizes.unit
    if processes == 1:
        return dict.fromkeys(("ddp", "zero1", "zero2", "fsdp"), Share(w, g, m))
    own_w, own_g, own_m = (-(-n // processes) for n in (w, g, m))
    return {
        "ddp": Share(w, g, m),
        "zero1": Share(own_w + w, own_g + g, own_m),
        "zero2": Share(own_w + w, own_g + unit, own_m),
        "fsdp": Share(own_w + 2 * unit, own_g + unit, own_m),
        "fsdp, cpu_offload": Share(2 * unit, unit, 0),
    }


def fake_model(config: RunConfig) -> Lom:
    """The run's model without a single weight: shapes only, of any size on any machine."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = Lom(config.registry, config.model)
        freeze(model, config.optimizer)
        if config.system.dtype == "pure_bfloat16":  # as `place` does, which fakes do not survive
            model.body.dtype = torch.bfloat16
            for module in model.body.modules():
                for name, p in module.named_parameters(recurse=False):
                    setattr(module, name, nn.Parameter(p.to(torch.bfloat16), p.requires_grad))
    return model


def sizes_of(model: Lom, config: RunConfig) -> Sizes:
    """Sizes of a placed model, fake or real."""
    blocks = [_bytes(block.parameters()) for block in model.body.blocks]
    parts = model.n_parameters()
    named = {name.removesuffix(" parts"): n for name, n in parts.items()}
    total = sum(p.numel() for p in model.parameters())
    learning = [p for p in model.parameters() if p.requires_grad]
    weights = _bytes(model.parameters())
    moments = 0
    for optimizer in make_optimizers(model, config.optimizer):
        n_moments = 1 if isinstance(optimizer, torch.optim.Muon) else 2
        moments += n_moments * sum(_bytes(group["params"]) for group in optimizer.param_groups)
    return Sizes(
        parameters=total,
        learning=sum(p.numel() for p in learning),
        parts={**named, "start of an observation": total - sum(parts.values())},
        weights=weights,
        gradients=_bytes(learning),
        moments=moments,
        unit=max([*blocks, weights - sum(blocks)]),
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
    inputs = n_layer * batch.n_slots * config.model.n_embd * model.body.dtype.itemsize
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


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
