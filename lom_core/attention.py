"""Attention within the segments of a flat sequence: one description, three kernels, no grid.

``starts`` (s + 1,) says where segments begin and ``given`` (s,) how many of a segment's leading
slots all see one another; each further slot sees itself and all before it. So given = 0 is causal,
given = length is full, and anything between is a prefix: one table of jobs serves them all,

    job = (first query, n queries, first key, n keys, causal?)

where a causal job lines up the *ends* of queries and keys.

On CUDA in half precision the jobs run in the varlen flash kernel. On the CPU equal jobs form a
bucket (b, h, n, e) for torch's flash kernel, inside one operator that torch.compile takes as a
whole; its backward is slow where keys are few, so that plain products take its place there.
(varlen_attn has no CPU kernel and flex_attention no CPU backward.)
Anything else (float32 on a GPU, old GPUs, heads of odd widths) runs the same buckets through the
public SDPA.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

Job = tuple[int, int, int, int, bool]
SHORT = 192  # keys up to which the backward's products beat the flash kernel on a CPU


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(e)) v within segments.

    Args:
        q, k, v: (n, h, e).
        starts: (s + 1,) int32 on the CPU, cumulative, ending with n.
        given: (s,) int32 on the CPU.

    Returns:
        (n, h, e), in q's dtype.
    """
    if q.device.type == "cpu":
        out: Tensor = _on_cpu(q.contiguous(), k.contiguous(), v.contiguous(), starts, given)[0]
        return out
    if _flash_takes(q):
        return cast(Tensor, _varlen(q, k, v, starts, given))
    return cast(Tensor, _bucketed(q, k, v, starts, given))


class Past:
    """Keys and values of one layer, kept for the slots that follow in each of b segments.

    The first call holds their beginnings, each shared by b / s of them if there are s; each later
    one the next slot of each.

    Args:
        segments, room: b, and how many slots each can come to have.
    """

    def __init__(self, segments: int, room: int) -> None:
        self.segments, self.room = segments, room
        self.lengths: Tensor | None = None  # (b,) slots so far; None before the first call
        self.longest, self.ragged = 0, False  # the most of them, and are there others?
        self.keys = self.values = torch.zeros(0)  # (b, h, room, e)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
        """:func:`attend` where nothing is kept yet; then each slot's over all before it and itself.

        Args:
            q, k, v: (n, h, e), by segment and then slot.
        """
        if self.lengths is None:
            self._begin(k, v, starts)
            return attend(q, k, v, starts, given)
        every = torch.arange(self.segments, device=q.device)
        self.keys[every, :, self.lengths], self.values[every, :, self.lengths] = k, v
        self.lengths, self.longest = self.lengths + 1, self.longest + 1
        mask = None
        if self.ragged:
            places = torch.arange(self.longest, device=q.device)
            mask = rearrange(places < self.lengths[:, None], "b n -> b 1 1 n")
        q = rearrange(q, "b h e -> b h 1 e")
        keys, values = self.keys[:, :, : self.longest], self.values[:, :, : self.longest]
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return rearrange(out, "b h 1 e -> b h e")

    def _begin(self, k: Tensor, v: Tensor, starts: Tensor) -> None:
        lengths = starts.diff().long()
        self.longest, self.ragged = int(lengths.max()), bool((lengths != lengths[0]).any())
        segment = torch.arange(len(lengths)).repeat_interleave(lengths)
        place = torch.arange(len(segment)) - starts[segment]
        share = self.segments // len(lengths)

        def kept(t: Tensor) -> Tensor:
            """(b, h, room, e) of (n, h, e)."""
            laid = t.new_zeros(len(lengths), self.room, *t.shape[1:])
            laid[segment.to(t.device), place.to(t.device)] = t
            laid = rearrange(laid, "s n h e -> s h n e")
            return laid.repeat_interleave(share, dim=0)  # a copy: each will hold its own

        self.keys, self.values = kept(k), kept(v)
        self.lengths = lengths.repeat_interleave(share).to(k.device)


# ------------------------------------------------------------------------------------ the jobs


@lru_cache(maxsize=16)
def _jobs(starts: tuple[int, ...], given: tuple[int, ...]) -> list[Job]:
    found: list[Job] = []
    for start, end, prefix in zip(starts, starts[1:], given, strict=False):
        length = end - start
        if prefix:
            found.append((start, prefix, start, prefix, False))
        if prefix < length:
            found.append((start + prefix, length - prefix, start, length, True))
    return found


@lru_cache(maxsize=16)
def _buckets(starts: tuple[int, ...], given: tuple[int, ...]) -> list[tuple[Tensor, Tensor, bool]]:
    """(query slots (b, nq), key slots (b, nk), causal?) of jobs of the same shape."""
    found: dict[tuple[int, int, bool], list[tuple[int, int]]] = defaultdict(list)
    for q0, nq, k0, nk, causal in _jobs(starts, given):
        found[nq, nk, causal].append((q0, k0))
    return [
        (_slots([q0 for q0, _ in firsts], nq), _slots([k0 for _, k0 in firsts], nk), causal)
        for (nq, nk, causal), firsts in found.items()
    ]


def _slots(firsts: list[int], length: int) -> Tensor:
    return torch.tensor(firsts)[:, None] + torch.arange(length)


# ------------------------------------------------------------------------------ buckets on the CPU

# An opaque operator, so that torch.compile does not recompile when the lengths change.

_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@torch.library.custom_op("lom::cpu_attention", mutates_args=())
def _on_cpu(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor
) -> tuple[Tensor, Tensor]:
    """Also returns the log of the softmax's denominator (n, h), which the backward starts from."""
    out = torch.empty_like(q)
    denominator = q.new_empty(q.shape[:2], dtype=torch.promote_types(q.dtype, torch.float32))
    for q_slots, k_slots, causal in _buckets(tuple(starts.tolist()), tuple(given.tolist())):
        qb, kb, vb = _take(q, q_slots), _take(k, k_slots), _take(v, k_slots)
        how, mask = _causal(qb, kb, causal)
        ob, log_sum = _FLASH(qb, kb, vb, 0.0, how, attn_mask=mask)
        out[q_slots] = rearrange(ob, "b h n e -> b n h e")
        denominator[q_slots] = rearrange(log_sum, "b h n -> b n h")
    return out, denominator


@torch.library.custom_op("lom::cpu_attention_backward", mutates_args=())
def _on_cpu_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    denominator: Tensor,
    starts: Tensor,
    given: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    # A slot is a query once, but with a prefix a key twice: keys and values accumulate.
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for q_slots, k_slots, causal in _buckets(tuple(starts.tolist()), tuple(given.tolist())):
        qb, kb, vb = _take(q, q_slots), _take(k, k_slots), _take(v, k_slots)
        gb, ob = _take(grad, q_slots), _take(out, q_slots)
        log_sum = rearrange(denominator[q_slots], "b n h -> b h n")
        backward = _by_products if kb.shape[2] <= SHORT else _by_flash
        dqb, dkb, dvb = backward(gb, qb, kb, vb, ob, log_sum, causal)
        dq[q_slots] = rearrange(dqb, "b h n e -> b n h e")
        dk.index_add_(0, k_slots.flatten(), rearrange(dkb, "b h n e -> (b n) h e"))
        dv.index_add_(0, k_slots.flatten(), rearrange(dvb, "b h n e -> (b n) h e"))
    return dq, dk, dv


Gradients = tuple[Tensor, Tensor, Tensor]


def _by_flash(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, causal: bool
) -> Gradients:
    how, mask = _causal(q, k, causal)
    found: Gradients = _FLASH_BACKWARD(grad, q, k, v, out, log_sum, 0.0, how, attn_mask=mask)
    return found


def _by_products(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, log_sum: Tensor, causal: bool
) -> Gradients:
    """The same by batched products, probabilities in float32: faster where keys are few.

    d softmax: p (dp - sum p dp), and sum p dp = grad . out (Dao et al. 2022).
    """
    scale = q.shape[-1] ** -0.5
    b, nq, nk = q.shape[0], q.shape[2], k.shape[2]
    q, k, v, grad, out = (rearrange(x, "b h n e -> (b h) n e") for x in (q, k, v, grad, out))
    log_sum = rearrange(log_sum, "b h n -> (b h) n 1")
    probs = (q @ k.mT).to(log_sum.dtype).mul_(scale).sub_(log_sum).exp_()
    if causal:
        probs.tril_(nk - nq)
    inner = (grad.to(probs.dtype) * out.to(probs.dtype)).sum(-1, keepdim=True)
    ds = (grad @ v.mT).to(probs.dtype).sub_(inner).mul_(probs).mul_(scale).to(q.dtype)
    dq, dk, dv = ds @ k, ds.mT @ q, probs.to(q.dtype).mT @ grad
    dq, dk, dv = (rearrange(x, "(b h) n e -> b h n e", b=b) for x in (dq, dk, dv))
    return dq, dk, dv


def _take(x: Tensor, slots: Tensor) -> Tensor:
    """(b, h, n, e) of slots (b, n); a bucket that holds every slot holds them in order: a view."""
    if slots.numel() == len(x):
        return rearrange(x, "(b n) h e -> b h n e", n=slots.shape[1])
    return rearrange(x[slots], "b n h e -> b h n e")


def _causal(q: Tensor, k: Tensor, causal: bool) -> tuple[bool, Tensor | None]:
    """(is_causal, mask) for the kernels, which line up the *first* query and key."""
    nq, nk = q.shape[2], k.shape[2]
    if not causal or nq == nk:
        return causal, None
    mask = torch.full((nq, nk), float("-inf"), dtype=q.dtype, device=q.device)
    return False, mask.triu(1 + nk - nq)


@_on_cpu.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty(q.shape[:2], dtype=dtype)


@_on_cpu_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    denominator: Tensor,
    starts: Tensor,
    given: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]
) -> None:
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:])


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor
) -> tuple[Tensor | None, ...]:
    q, k, v, out, denominator, starts, given = ctx.saved_tensors  # type: ignore[attr-defined]
    gradients = _on_cpu_backward(grad.contiguous(), q, k, v, out, denominator, starts, given)
    return *gradients, None, None


_on_cpu.register_autograd(_backward, setup_context=_save)


# ------------------------------------------------------------------------- buckets, any device


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _bucketed(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
    out = torch.empty_like(q)
    for slots in _buckets(tuple(starts.tolist()), tuple(given.tolist())):
        q_slots, k_slots = slots[0].to(q.device), slots[1].to(q.device)
        qb, kb, vb = _take(q, q_slots), _take(k, k_slots), _take(v, k_slots)
        how, mask = _causal(qb, kb, slots[2])
        ob = F.scaled_dot_product_attention(qb, kb, vb, attn_mask=mask, is_causal=how)
        out = out.index_copy(0, q_slots.flatten(), rearrange(ob, "b h n e -> (b n) h e"))
    return out


# --------------------------------------------------------------------- the flash kernel, CUDA


@dataclass(frozen=True)
class _Call:
    """One call of the kernel: jobs of one kind. Slots are None where they are all of them."""

    q_slots: Tensor | None
    k_slots: Tensor | None
    q_starts: Tensor
    k_starts: Tensor
    max_q: int
    max_k: int
    causal: bool


@lru_cache(maxsize=4)  # all layers of a step share one; it holds device memory
def _calls(starts: tuple[int, ...], given: tuple[int, ...], device: torch.device) -> list[_Call]:
    jobs = _jobs(starts, given)
    calls = []
    for causal in (False, True):
        found = [job for job in jobs if job[4] is causal]
        if not found:
            continue
        whole = len(found) == len(jobs)
        nq, nk = [job[1] for job in found], [job[3] for job in found]
        slots = [
            None if whole else torch.cat([torch.arange(first, first + n) for first, n in pairs])
            for pairs in ([job[:2] for job in found], [job[2:4] for job in found])
        ]
        q_slots, k_slots = (None if s is None else s.to(device) for s in slots)
        q_starts, k_starts = (_cumulative(n).to(device) for n in (nq, nk))
        calls.append(_Call(q_slots, k_slots, q_starts, k_starts, max(nq), max(nk), causal))
    return calls


# Not compiled: it reads the offsets, and the kernel's operator is opaque anyway.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def _varlen(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
    """The jobs of each kind, full and causal, in one call of the varlen kernel."""
    out = torch.empty_like(q)
    for call in _calls(tuple(starts.tolist()), tuple(given.tolist()), q.device):
        if call.q_slots is None or call.k_slots is None:
            return _flash(q, k, v, call)
        part = _flash(q[call.q_slots], k[call.k_slots], v[call.k_slots], call)
        out = out.index_copy(0, call.q_slots, part)
    return out


def _flash(q: Tensor, k: Tensor, v: Tensor, call: _Call) -> Tensor:
    from torch.nn.attention import varlen

    # The way to ask for causal attention moved between torch 2.11 and 2.13.
    how: dict[str, Any] = {"window_size": (-1, 0 if call.causal else -1)}
    if _takes_is_causal():
        how = {"is_causal": call.causal}
    lengths = call.q_starts, call.k_starts, call.max_q, call.max_k
    return cast(Tensor, varlen.varlen_attn(q, k, v, *lengths, **how))


def _flash_takes(q: Tensor) -> bool:
    """The kernel is for half precision, heads of a multiple of 8 up to 256, Ampere and later."""
    half, width = q.dtype in (torch.bfloat16, torch.float16), q.shape[-1]
    return half and width % 8 == 0 and width <= 256 and _capability(q.device) >= (8, 0)


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    """Of a GPU; of anything else none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@cache
def _takes_is_causal() -> bool:
    from torch.nn.attention import varlen

    return "is_causal" in inspect.signature(varlen.varlen_attn).parameters


def _cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
