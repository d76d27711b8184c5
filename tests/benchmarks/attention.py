"""Attention on CPU: buckets of equal lengths against SDPA, forward and backward, interleaved.

    python tests/benchmarks/attention.py

Prints, for several lengths, how long SDPA with a padding-free batch takes relative to ours, and how
long a padded grid with a mask takes relative to packed segments of mixed lengths. Ratios of medians
within one interleaved run; above 1 ours is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from lom_core.attention import attend

HEADS, WIDTH, SLOTS, ROUNDS = 6, 64, 4096, 7


def timed(step: Callable[[], Tensor]) -> float:
    begin = time.perf_counter()
    step().sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - begin


def ratio(ours: Callable[[], Tensor], other: Callable[[], Tensor]) -> float:
    """Median of other over median of ours, run in turn; the first round only warms up."""
    pairs = [(timed(ours), timed(other)) for _ in range(ROUNDS + 1)][1:]
    mine, theirs = zip(*pairs, strict=True)
    return statistics.median(theirs) / statistics.median(mine)


def inputs() -> list[Tensor]:
    torch.manual_seed(0)
    shape = (SLOTS, HEADS, WIDTH)
    return [torch.randn(shape, dtype=torch.bfloat16, requires_grad=True) for _ in range(3)]


def packed(lengths: list[int]) -> Callable[[], Tensor]:
    q, k, v = inputs()
    starts = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    given = torch.zeros(len(lengths), dtype=torch.int32)
    return lambda: attend(q, k, v, starts, given)


def dense(length: int) -> Callable[[], Tensor]:
    """SDPA on (b, h, t, e): all observations of one length."""
    q, k, v = (x.view(-1, length, HEADS, WIDTH).transpose(1, 2) for x in inputs())
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)


def padded(lengths: list[int]) -> Callable[[], Tensor]:
    """SDPA on a grid as long as the longest, with a boolean mask."""
    t = max(lengths)
    q, k, v = (
        torch.randn(len(lengths), HEADS, t, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    real = torch.arange(t) < torch.tensor(lengths)[:, None]
    mask = (real[:, None, :] & torch.ones(t, t, dtype=torch.bool).tril())[:, None]
    mask |= torch.eye(t, dtype=torch.bool)
    return lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


if __name__ == "__main__":
    for length in (64, 256, 1024, 4096):
        lengths = [length] * (SLOTS // length)
        print(f"equal lengths {length:>5}: SDPA / ours {ratio(packed(lengths), dense(length)):.2f}")
    mixed = [32] * 32 + [96] * 16 + [512] * 3
    print(f"32 to 512 mixed: padded SDPA / ours {ratio(packed(mixed), padded(mixed)):.2f}")
