"""Attention: the bucketed path equals a plain masked softmax, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lom_core import attention


def reference(q: Tensor, k: Tensor, v: Tensor, starts: list[int], given: list[int]) -> Tensor:
    """softmax with an explicit (n, n) mask, the definition."""
    n = q.shape[0]
    see = torch.zeros(n, n, dtype=torch.bool)
    for a, b, g in zip(starts, starts[1:], given, strict=False):
        for i in range(a, b):
            see[i, a : max(i + 1, a + g) if i < a + g else i + 1] = True
    scores = torch.einsum("qhe,khe->hqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hqk,khe->qhe", scores.masked_fill(~see, float("-inf")).softmax(-1), v)


@st.composite
def segments(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    given = [draw(st.integers(0, n)) for n in lengths]
    starts = [0]
    for n in lengths:
        starts.append(starts[-1] + n)
    return starts, given


@settings(max_examples=60, deadline=None)
@given(segments(), st.integers(1, 3), st.sampled_from([attention.attend, attention._bucketed]))
def test_any_segments_equal_the_definition(
    layout: tuple[list[int], list[int]], n_head: int, attend: Callable[..., Tensor]
) -> None:
    starts, prefix = layout
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(starts[-1], n_head, 4, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    )
    args = torch.tensor(starts, dtype=torch.int32), torch.tensor(prefix, dtype=torch.int32)
    out = attend(q, k, v, *args)
    grad = torch.randn_like(out)
    got = torch.autograd.grad(out, (q, k, v), grad)
    expected = reference(q, k, v, starts, prefix)
    torch.testing.assert_close(out, expected, atol=1e-10, rtol=1e-8)
    for a, b in zip(got, torch.autograd.grad(expected, (q, k, v), grad), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("length", [64, 300, 1500])
def test_half_precision_is_as_good_as_its_digits(length: int) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2 * length, 2, 16, dtype=torch.bfloat16) for _ in range(3))
    starts = torch.tensor([0, length, 2 * length], dtype=torch.int32)
    for prefix in (torch.tensor([0, 0]), torch.tensor([length, length]), torch.tensor([7, 40])):
        out = attention.attend(q, k, v, starts, prefix.int())
        exact = attention.attend(q.double(), k.double(), v.double(), starts, prefix.int())
        torch.testing.assert_close(out.double(), exact, atol=2e-2, rtol=2e-2)


def test_operator_is_registered_properly() -> None:
    args = [torch.randn(6, 2, 4, requires_grad=True) for _ in range(3)]
    offsets = torch.tensor([0, 4, 6], dtype=torch.int32), torch.tensor([2, 0], dtype=torch.int32)
    torch.library.opcheck(attention._on_cpu, (*args, *offsets))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the flash kernel needs CUDA")
@pytest.mark.parametrize("prefix", [[0, 0, 0], [5, 300, 2], [3, 0, 2]])
def test_flash_kernel_equals_buckets(prefix: list[int]) -> None:
    starts = torch.tensor([0, 5, 305, 307], dtype=torch.int32)
    given = torch.tensor(prefix, dtype=torch.int32)
    q, k, v = (
        torch.randn(307, 4, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    fast = attention.attend(q, k, v, starts, given)
    slow = attention._bucketed(q.float(), k.float(), v.float(), starts, given)
    torch.testing.assert_close(fast.float(), slow, atol=2e-2, rtol=2e-2)
    grad = torch.randn_like(fast)
    for a, b in zip(
        torch.autograd.grad(fast, (q, k, v), grad),
        torch.autograd.grad(slow, (q, k, v), grad.float()),
        strict=True,
    ):
        torch.testing.assert_close(a.float(), b.float(), atol=5e-2, rtol=5e-2)
