"""The body: a pre-norm transformer over a flat sequence of slots, x (n, d) -> (n, d)."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lom_core.attention import Past, attend
from lom_core.config import ModelConfig


class Transformer(nn.Module):
    """``n_layer`` blocks and a last norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.recompute = False  # what a block computes inside, in the backward pass
        self.dtype = torch.float32  # of x; pure bfloat16 changes it with the weights
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = _norm(config.n_embd, config)

    def forward(
        self,
        x: Tensor,
        starts: Tensor,
        given: Tensor,
        places: Tensor,
        pasts: Sequence[Past] | None = None,
    ) -> Tensor:
        """Attention within segments only.

        Args:
            x: (n, d).
            starts, given: (s + 1,) and (s,) int32 on the CPU, as in :class:`lom_core.batch.Batch`.
            places: (n,) each slot's place in its segment; read by rotary embeddings only.
            pasts: one a layer: x continues what they keep.
        """
        for i, block in enumerate(self.blocks):
            if self.recompute and self.training:
                x = checkpoint(block, x, starts, given, places, use_reentrant=False)
            else:
                x = block(x, starts, given, places, None if pasts is None else pasts[i])
        out: Tensor = self.norm(x)
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = _norm(config.n_embd, config)
        self.attention = Attention(config)
        self.mlp_norm = _norm(config.n_embd, config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, starts: Tensor, given: Tensor, places: Tensor, past: Past | None = None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x), starts, given, places, past))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


class Attention(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.n_head = config.n_embd, config.n_head
        self.qkv = nn.Linear(d, 3 * d, bias=config.bias)
        self.out = nn.Linear(d, d, bias=config.bias)
        self.qk_norm = config.qk_norm
        self.rotary = config.rotary

    def forward(
        self, x: Tensor, starts: Tensor, given: Tensor, places: Tensor, past: Past | None = None
    ) -> Tensor:
        q, k, v = self.project(x, places)
        heads = (attend if past is None else past.attend)(q, k, v, starts, given)
        out: Tensor = self.out(rearrange(heads, "n h e -> n (h e)"))
        return out

    def project(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (n, h, e) of slots (n, d)."""
        q, k, v = rearrange(self.qkv(x), "n (three h e) -> three n h e", three=3, h=self.n_head)
        if self.qk_norm:
            q, k = (F.rms_norm(t, (t.shape[-1],)).to(v.dtype) for t in (q, k))
        if self.rotary:
            q, k = (rotate(t, places).to(v.dtype) for t in (q, k))
        return q, k, v


class MLP(nn.Module):
    """Hidden width 4 d, or 8/3 d (to a multiple of 64) for SwiGLU, which has a third matrix."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.kind = config.n_embd, config.mlp
        hidden = 64 * ceil(8 * d / 3 / 64) if self.kind == "swiglu" else 4 * d
        self.up = nn.Linear(d, 2 * hidden if self.kind == "swiglu" else hidden, bias=config.bias)
        self.down = nn.Linear(hidden, d, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.kind == "swiglu":
            gate, x = x.chunk(2, dim=-1)
            x = F.silu(gate) * x
        elif self.kind == "gelu":
            x = gelu(x)
        else:
            x = F.relu(x).square()
        out: Tensor = self.down(x)
        return out


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form (Hendrycks and Gimpel 2016), written with the cheaper sigmoid:
    0.5 (1 + tanh(z)) = sigmoid(2 z), z = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x * torch.sigmoid(1.5957691216 * (x + 0.044715 * x * x * x))


def rotate(x: Tensor, places: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary position embedding (Su et al. 2021): pairs (x1, x2) turned by place x frequency.

    Args:
        x: (n, h, e), e even. places: (n,).
    """
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = places[:, None, None].float() * frequency  # (n, 1, e/2)
    x1, x2 = x.float().chunk(2, dim=-1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([x1 * cos - x2 * sin, x1 * sin + x2 * cos], dim=-1)


def _norm(width: int, config: ModelConfig) -> nn.Module:
    if config.norm == "rms":
        return nn.RMSNorm(width, eps=1e-5)
    return nn.LayerNorm(width, bias=config.bias)
