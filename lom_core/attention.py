"""Attention within the segments of a flat sequence: one description, two paths, no mask.

``starts`` (s + 1,) says where segments begin and ``given`` (s,) how many of a segment's leading
slots all see one another; each further slot sees itself and all before it. So given = 0 is causal,
given = length is full, and anything between is a prefix: one table of jobs serves them all,

    job = (first query, n queries, first key, n keys, causal?)

where a causal job lines up the *ends* of queries and keys.

On CUDA in half precision the jobs run in the varlen flash kernel. Elsewhere (and in fp32) equal
jobs form a bucket and run as batched matrix products, chunked over queries above 1024, because
flex_attention has no CPU backward and varlen_attn no CPU kernel. Where all lengths are equal, SDPA
is faster than these products (tests/benchmarks/attention.py); it is not used yet, because its
backward must first be wrapped in an operator that torch.compile takes as a whole.
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

Job = tuple[int, int, int, int, bool]
CHUNK = 1024  # queries at a time: bounds the (b, h, q, k) scores of long observations


def attend(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(e)) v within segments.

    Args:
        q, k, v: (n, h, e).
        starts: (s + 1,) int32 on the CPU, cumulative, ending with n.
        given: (s,) int32 on the CPU.

    Returns:
        (n, h, e), in q's dtype.
    """
    if q.is_cuda and q.dtype in (torch.bfloat16, torch.float16):
        return cast(Tensor, _varlen(q, k, v, starts, given))
    out: Tensor = _bucketed(q.contiguous(), k.contiguous(), v.contiguous(), starts, given)[0]
    return out


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


# --------------------------------------------------------------- batched products, any device

# An opaque operator, so that torch.compile does not recompile when the lengths change.


@torch.library.custom_op("lom::attention", mutates_args=())
def _bucketed(
    q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor
) -> tuple[Tensor, Tensor]:
    """Also returns the log of the softmax's denominator (h, n), which the backward starts from."""
    out = torch.empty_like(q)
    denominator = q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)
    scale = q.shape[-1] ** -0.5
    for q_slots, k_slots, causal in _on(q, starts, given):
        qb, kb, vb = _take(q, q_slots), _take(k, k_slots), _take(v, k_slots)
        for begin in range(0, qb.shape[2], CHUNK):
            rows = slice(begin, begin + CHUNK)
            scores = _scores(qb, kb, scale, rows, causal)
            log_sum = torch.logsumexp(scores, dim=-1)
            probs = torch.exp(scores - log_sum[..., None]).to(q.dtype)
            out[q_slots[:, rows]] = rearrange(probs @ vb, "b h q e -> b q h e")
            denominator[:, q_slots[:, rows]] = rearrange(log_sum, "b h q -> h b q")
    return out, denominator


@torch.library.custom_op("lom::attention_backward", mutates_args=())
def _bucketed_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    denominator: Tensor,
    starts: Tensor,
    given: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients by recomputing the probabilities (as in FlashAttention, Dao et al. 2022)."""
    # A slot is a query once, but with a prefix a key twice: keys and values accumulate.
    dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    scale = q.shape[-1] ** -0.5
    for q_slots, k_slots, causal in _on(q, starts, given):
        qb, kb, vb = _take(q, q_slots), _take(k, k_slots), _take(v, k_slots)
        gb, ob = _take(grad, q_slots), _take(out, q_slots)
        log_sum = rearrange(denominator[:, q_slots], "h b q -> b h q")
        dkb, dvb = torch.zeros_like(kb), torch.zeros_like(vb)
        for begin in range(0, qb.shape[2], CHUNK):
            rows = slice(begin, begin + CHUNK)
            scores = _scores(qb, kb, scale, rows, causal)
            probs = torch.exp(scores - log_sum[:, :, rows, None])
            g = gb[:, :, rows]
            dvb += probs.to(q.dtype).mT @ g
            # d softmax: p * (dp - sum p dp), and sum p dp = g . out
            inner = (g.float() * ob[:, :, rows].float()).sum(-1, keepdim=True)
            ds = (probs * ((g @ vb.mT).float() - inner) * scale).to(q.dtype)
            dq[q_slots[:, rows]] = rearrange(ds @ kb, "b h q e -> b q h e")
            dkb += ds.mT @ qb[:, :, rows]
        dk.index_add_(0, k_slots.flatten(), rearrange(dkb, "b h k e -> (b k) h e"))
        dv.index_add_(0, k_slots.flatten(), rearrange(dvb, "b h k e -> (b k) h e"))
    return dq, dk, dv


def _on(q: Tensor, starts: Tensor, given: Tensor) -> list[tuple[Tensor, Tensor, bool]]:
    buckets = _buckets(tuple(starts.tolist()), tuple(given.tolist()))
    if q.device.type == "cpu":
        return buckets
    return [(a.to(q.device), b.to(q.device), causal) for a, b, causal in buckets]


def _take(x: Tensor, slots: Tensor) -> Tensor:
    return rearrange(x[slots], "b n h e -> b h n e")


def _scores(q: Tensor, k: Tensor, scale: float, rows: slice, causal: bool) -> Tensor:
    """(b, h, q, k) float32, with what a query may not see at -inf."""
    scores = (q[:, :, rows] @ k.mT).float() * scale
    if causal:
        nq, nk = q.shape[2], k.shape[2]
        last = torch.arange(nq, device=q.device)[rows] + (nk - nq)  # the last key a query sees
        hidden = torch.arange(nk, device=q.device) > last[:, None]
        scores.masked_fill_(hidden, float("-inf"))
    return scores


@_bucketed.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0], dtype=torch.float32)


@_bucketed_backward.register_fake
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
    gradients = _bucketed_backward(grad.contiguous(), q, k, v, out, denominator, starts, given)
    return *gradients, None, None


_bucketed.register_autograd(_backward, setup_context=_save)


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


@cache
def _takes_is_causal() -> bool:
    from torch.nn.attention import varlen

    return "is_causal" in inspect.signature(varlen.varlen_attn).parameters


def _cumulative(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
