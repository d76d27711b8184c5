"""Position embedders: (n, p) float32 -> (n, d). The model calls them outside autocast."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn


class IndexPosition(nn.Module):
    """A row of a table for the first coordinate, a whole number."""

    def __init__(self, n_embd: int, max_positions: int) -> None:
        super().__init__()
        self.table = nn.Embedding(max_positions, n_embd)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, positions: Tensor) -> Tensor:
        out: Tensor = self.table(positions[:, 0].long())
        return out


class FourierPosition(nn.Module):
    """Sines and cosines at log-spaced periods of each of p coordinates, then a linear map."""

    frequencies: Tensor

    def __init__(
        self, n_embd: int, pos_width: int, n_frequencies: int, min_period: float, max_period: float
    ) -> None:
        super().__init__()
        periods = torch.logspace(math.log10(max_period), math.log10(min_period), n_frequencies)
        self.register_buffer("frequencies", 2 * math.pi / periods, persistent=False)
        self.project = nn.Linear(2 * n_frequencies * pos_width, n_embd)

    def forward(self, positions: Tensor) -> Tensor:
        phase = rearrange(positions, "n p -> n p 1") * self.frequencies
        waves = torch.stack([phase.sin(), phase.cos()])
        out: Tensor = self.project(rearrange(waves, "two n p f -> n (two p f)"))
        return out


class MLPPosition(nn.Module):
    """Two layers on (position - offset) / unit."""

    def __init__(
        self, n_embd: int, pos_width: int, hidden: int, offset: float, unit: float
    ) -> None:
        super().__init__()
        self.offset, self.unit = offset, unit
        self.layers = nn.Sequential(
            nn.Linear(pos_width, hidden), nn.GELU(), nn.Linear(hidden, n_embd)
        )

    def forward(self, positions: Tensor) -> Tensor:
        out: Tensor = self.layers((positions - self.offset) / self.unit)
        return out
