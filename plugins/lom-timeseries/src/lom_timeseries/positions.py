"""Position embedders of time and band: (n, p) float32 -> (n, d)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lom_core.positions import FourierPosition

if TYPE_CHECKING:
    from lom_timeseries.light_curve_kinds import AstromerTime, TimeAndBand


class BandVector(nn.Module):
    """A learned vector for the band's number in the second coordinate; nothing for 0 bands."""

    def __init__(self, n_bands: int, n_embd: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n_bands, n_embd) if n_bands else None
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, at: Tensor, positions: Tensor) -> Tensor:
        """``at`` (n, d) plus the vectors of the positions' bands."""
        if self.table is None:
            return at
        out: Tensor = at + self.table(positions[:, 1].round().long())
        return out


class TimeAndBandPosition(nn.Module):
    """The core's Fourier features of the first coordinate, and a vector for the second."""

    def __init__(self, config: TimeAndBand, n_embd: int) -> None:
        super().__init__()
        self.time = FourierPosition(
            n_embd, 1, config.n_frequencies, config.min_period, config.max_period
        )
        self.band = BandVector(config.n_bands, n_embd)

    def forward(self, positions: Tensor) -> Tensor:
        out: Tensor = self.band(self.time(positions[:, :1]), positions)
        return out


class AstromerPosition(nn.Module):
    """sin(omega_j t) for even j, cos(omega_j t) for odd j, omega_j = 10000^(-2j/d)."""

    omega: Tensor
    even: Tensor

    def __init__(self, config: AstromerTime, n_embd: int) -> None:
        super().__init__()
        j = torch.arange(n_embd, dtype=torch.float64)
        omega = torch.pow(torch.tensor(10000.0, dtype=torch.float64), -2 * j / n_embd)
        self.register_buffer("omega", omega.float(), persistent=False)
        self.register_buffer("even", j % 2 == 0, persistent=False)
        self.band = BandVector(config.n_bands, n_embd)

    def forward(self, positions: Tensor) -> Tensor:
        phase = positions[:, :1] * self.omega  # (n, d)
        out: Tensor = self.band(torch.where(self.even, phase.sin(), phase.cos()), positions)
        return out
