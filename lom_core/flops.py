"""Floating-point operations of a step, counted by formula, and what the device could do at best.

    FLOPs of a step = 6 x weights x slots + 12 x d x layers x (query, key) pairs

but for details: a matrix product of (n, a) with (a, b) is 2 n a b operations forward, as many for
the gradient of its weights and as many for that of its input, if these are asked for. Only what
observations need counts: their slots, and the pairs of slots that see one another. The rests of
rows, the masked half of causal attention, what activation checkpointing computes again, norms and
activations do not. That is the model's FLOPs in MFU (Chowdhery et al. 2022, appendix B).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from lom_core.batch import Batch
from lom_core.model import Lom
from lom_core.transformer import Block


@dataclass(frozen=True)
class Costs:
    """FLOPs of a model, forward and backward, for each ...

    Args:
        slot: slot of an observation, in the body's linear layers.
        pair: (query, key) pair that attention looks at, over all layers and heads.
        known, question, answer: shown token, asked token, and answer of each modality.
    """

    slot: int
    pair: int
    known: Mapping[str, int]
    question: Mapping[str, int]
    answer: Mapping[str, int]


_COSTS: WeakKeyDictionary[Lom, Costs] = WeakKeyDictionary()


class Outline(NamedTuple):
    """What the cost of a batch depends on: cheap to note at each step, counted when it is told.

    Args:
        n_tokens, n_slots, starts, bos, given, ids: as in :class:`lom_core.batch.Batch`.
        tokens: of each modality, how many are shown, and are asked for.
    """

    n_tokens: int
    n_slots: int
    starts: Tensor
    bos: Tensor
    given: Tensor
    ids: list[str]
    tokens: list[tuple[str, int, int]]


def outline(batch: Batch) -> Outline:
    """Of a batch on the CPU, as the objective made it."""
    sizes = batch.n_tokens, batch.n_slots
    tokens = [(name, s.shown.numel(), s.asked.numel()) for name, s in batch.spans.items()]
    return Outline(*sizes, batch.starts, batch.bos, batch.given, batch.ids, tokens)


def flops_of(model: Lom, outlines: Sequence[Outline]) -> float:
    """FLOPs that forward and backward of batches need; some microseconds a batch."""
    costs = _COSTS.get(model)
    if costs is None:
        costs = _COSTS[model] = costs_of(model)
    n_slots, n_pairs = slots_and_pairs(outlines)
    total = costs.slot * n_slots + costs.pair * n_pairs
    for batch in outlines:
        for name, shown, asked in batch.tokens:
            total += costs.known[name] * shown
            total += (costs.question[name] + costs.answer[name]) * asked
    return float(total)


def slots_and_pairs(outlines: Sequence[Outline]) -> tuple[int, int]:
    """Slots of observations, and the (query, key) pairs among them that see one another.

    Of n slots the g given ones all see one another, and each further one sees itself and all
    before it: g^2 + (n (n + 1) - g (g + 1)) / 2 pairs.
    """
    if not outlines:
        return 0, 0
    which = np.arange(len(outlines))
    before = np.cumsum([0, *(b.n_slots for b in outlines[:-1])])  # batches laid end to end
    starts = np.concatenate([b.starts.numpy() for b in outlines])
    starts = starts + np.repeat(before, [b.starts.numel() for b in outlines])
    of = np.repeat(which, [b.bos.numel() for b in outlines])
    bos = np.concatenate([b.bos.numpy() for b in outlines]) + before[of]
    # Segments of observations: rests have no BOS. A batch's end is the next one's first start.
    segment = np.searchsorted(starts, bos, side="right") - 1
    n = starts[segment + 1] - starts[segment]
    g = np.concatenate([b.given.numpy() for b in outlines]).astype(np.int64)[segment - of]
    pairs = g * g + (n * (n + 1) - g * (g + 1)) // 2
    return int(n.sum()), int(pairs.sum())


def costs_of(model: Lom) -> Costs:
    """What each slot, pair and token costs; what does not learn needs no gradient."""
    parts = {name: model.part(name) for name in model.registry.names()}
    known = {n: _linear(p.embed, False) + _linear(p.place, False) for n, p in parts.items()}
    question = {n: _linear(p.ask, False) if p.ask is not None else 0 for n, p in parts.items()}
    learns = any(
        p.requires_grad
        for n, p in model.named_parameters()
        if not n.startswith("body.") and ".head." not in n
    )
    slot = pair = 0
    for block in model.body.blocks:
        assert isinstance(block, Block)
        slot += _linear(block, learns)
        learns = learns or _learns(block.attention.qkv)
        # q k^T and its product with v: 2 d each; backward there are four of that size.
        pair += (12 if learns else 4) * block.attention.qkv.in_features
        learns = learns or _learns(block)
    answer = {n: _linear(p.head, learns) for n, p in parts.items()}
    return Costs(slot, pair, known, question, answer)


def _linear(module: nn.Module, learns: bool) -> int:
    """FLOPs of one token in the linear layers of a module, in the order in which it holds them.

    Args:
        learns: does anything before it, so that the gradient of its input is needed?
    """
    total = 0
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            product = 2 * layer.in_features * layer.out_features
            total += product * (1 + layer.weight.requires_grad + learns)
        learns = learns or any(p.requires_grad for p in layer.parameters(recurse=False))
    return total


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters())


# ------------------------------------------------------------------------------- the device's peak

# Dense bfloat16 with float32 accumulation in TFLOP/s, as the makers' data sheets state it (float16
# for those without bfloat16), by words of the device's name: the entry with most words that fit.
PEAKS = {
    "B200": 2250,
    "GB200": 2500,
    "H100": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200": 989,
    "H200 NVL": 835,
    "H800": 989,
    "H20": 148,
    "GH200": 989,
    "A100": 312,
    "A800": 312,
    "A40": 149.7,
    "A30": 165,
    "A10": 125,
    "A10G": 70,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "RTX 4090": 165.2,
    "RTX 3090": 71,
    "RTX A6000": 154.8,
    "MI300X": 1307,
    "MI250X": 191.5,  # of each of its two dies, which are devices of their own
}
SECONDS = 0.3  # that measuring takes


def peak_flops(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of matrix products that the device reaches at best.

    Stated ones for the GPUs of ``PEAKS`` in half precision; else, and for a part of a GPU (MIG),
    those of a large square product, measured once a process for each number of threads.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        stated = stated_peak(torch.cuda.get_device_name(device))
        if stated:
            return stated
    return _measured_peak(device, dtype, torch.get_num_threads())


def stated_peak(name: str) -> float | None:
    """FLOP/s that the maker states, by ``torch.cuda.get_device_name``; None if it is not known."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    fitting = [key for key in PEAKS if words.issuperset(key.split())]
    if not fitting or "MIG" in words:
        return None
    return PEAKS[max(fitting, key=lambda key: len(key.split()))] * 1e12


@cache
def _measured_peak(device: torch.device, dtype: torch.dtype, num_threads: int) -> float:
    n = 8192 if device.type == "cuda" else 2048
    x = torch.ones(n, n, device=device, dtype=dtype) / n
    best, began = 0.0, time.perf_counter()
    while best == 0 or time.perf_counter() - began < SECONDS:
        start = time.perf_counter()
        x @ x
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best
