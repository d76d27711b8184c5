"""Place on the sphere, season and time -> vector."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import Tensor, nn

if TYPE_CHECKING:
    from lom_climate import SphereTime

YEAR, DAY = 366.0, 24.0  # days in positions' year, hours in a day
YEAR_HARMONICS, DAY_HARMONICS = 4, 2


class SphereTimePosition(nn.Module):
    """(n, 5) latitude, longitude (degrees), hours, day of year, hour of day -> (n, n_embd)."""

    waves: Tensor
    hours: Tensor

    def __init__(self, n_embd: int, config: SphereTime) -> None:
        super().__init__()
        waves = math.pi / 2 * 2.0 ** torch.arange(config.n_sphere)
        low, high = math.log10(config.min_hours), math.log10(config.max_hours)
        hours = 2 * math.pi / torch.logspace(high, low, config.n_hours)
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("hours", hours, persistent=False)
        n = 3 + 2 * (3 * config.n_sphere + YEAR_HARMONICS + DAY_HARMONICS + config.n_hours)
        self.project = nn.Linear(n, n_embd)

    def forward(self, positions: Tensor) -> Tensor:
        lat, lon = positions[:, :2].deg2rad().unbind(1)
        east, north, up = lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()
        place = torch.stack([east, north, up], dim=1)  # (n, 3) unit vector
        hours, day, hour = positions[:, 2:].unbind(1)
        phases = [
            rearrange(rearrange(place, "n k -> n k 1") * self.waves, "n k f -> n (k f)"),
            _harmonics(day / YEAR, YEAR_HARMONICS),
            _harmonics(hour / DAY, DAY_HARMONICS),
            rearrange(hours, "n -> n 1") * self.hours,
        ]
        phase = torch.cat(phases, dim=1)
        out: Tensor = self.project(torch.cat([place, phase.sin(), phase.cos()], dim=1))
        return out


def _harmonics(turns: Tensor, n: int) -> Tensor:
    """(n,) turns -> (n, k) phases of the first k harmonics."""
    orders = torch.arange(1, n + 1, device=turns.device)
    return 2 * math.pi * rearrange(turns, "n -> n 1") * orders
