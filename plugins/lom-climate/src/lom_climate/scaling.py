"""Anomalies from the climatology of each place and month."""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from lom_climate.times import MONTH_STARTS
from lom_core.errors import DataError
from lom_core.roles import Array
from lom_core.scaling import ScaleModule

FEWEST = 3  # values from which the spread of a place is its own
NARROWEST = 0.05  # smallest spread of a place, as a share of the channel's


class ClimatologyScale(ScaleModule):
    """y = (x - climatology[place, month]) / anomaly_spread[place], for each channel.

    Buffers: ``climatology`` (places, months, c) and ``anomaly_spread`` (places, c). Places are bins
    of latitude and longitude, row by row from the south pole and Greenwich.
    """

    climatology: Tensor
    anomaly_spread: Tensor
    starts: Tensor
    mean_name = "climatology"  # 0 in model units

    def __init__(self, width: int, n_channels: int, degrees: float, months: int) -> None:
        super().__init__(width, n_channels)
        self.degrees, self.months = degrees, months
        self.rows, self.columns = math.ceil(180 / degrees), math.ceil(360 / degrees)
        places = self.rows * self.columns
        self.register_buffer("climatology", torch.zeros(places, months, n_channels))
        self.register_buffer("anomaly_spread", torch.ones(places, n_channels))
        starts = torch.tensor(MONTH_STARTS[1:12], dtype=torch.float32)
        self.register_buffer("starts", starts, persistent=False)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        mean, spread = self._at(positions)
        pixels = rearrange(x.float(), "n (k c) -> n k c", c=self.n_channels)
        return rearrange((pixels - mean) / spread, "n k c -> n (k c)")

    def inverse(self, y: Tensor, positions: Tensor | None = None) -> Tensor:
        mean, spread = self._at(positions)
        pixels = rearrange(y.float(), "n (k c) -> n k c", c=self.n_channels)
        return rearrange(pixels * spread + mean, "n k c -> n (k c)")

    def fit(self, content: Array, weights: Array, positions: Array | None = None) -> None:
        """Means and spreads of the observed values (weight > 0); how much they weigh is not used.

        Errors:
            DataError: a channel without an observed value.
        """
        if positions is None:
            raise DataError("scale 'climatology' needs positions")
        place, month = (t.numpy() for t in self.bins(torch.from_numpy(positions)))
        pixels = content.reshape(len(content), -1, self.n_channels)
        seen = np.broadcast_to(weights > 0, content.shape).reshape(pixels.shape)
        for channel in range(self.n_channels):
            self._fit_one(channel, pixels[..., channel], seen[..., channel], place, month)
        self.fitted.fill_(True)

    def _fit_one(self, channel: int, x: Array, seen: Array, place: Array, month: Array) -> None:
        """One channel from pixels (n, k) of tokens at places and months (n,)."""
        if not seen.any():
            raise DataError(
                f"channel {channel}: no observed value to fit the climatology on; "
                "raise fit_records or check the data's masks"
            )
        places, months, _ = self.climatology.shape
        x = np.where(seen, x, 0).astype(np.float64)
        n_of = np.bincount(place * months + month, seen.sum(1), places * months)
        sums = np.bincount(place * months + month, x.sum(1), places * months)
        n_of, sums = n_of.reshape(places, months), sums.reshape(places, months)
        n_place, whole = n_of.sum(1, keepdims=True), sums.sum() / n_of.sum()
        of_place = np.where(n_place > 0, sums.sum(1, keepdims=True) / np.maximum(n_place, 1), whole)
        mean = np.where(n_of > 0, sums / np.maximum(n_of, 1), of_place)
        squares = np.where(seen, x - mean[place, month][:, None], 0) ** 2
        variance = np.bincount(place, squares.sum(1), places) / np.maximum(n_place[:, 0], 1)
        typical = float(np.sqrt(squares.sum() / n_of.sum())) or 1.0
        spread = np.maximum(np.sqrt(variance), NARROWEST * typical)
        spread = np.where(n_place[:, 0] < FEWEST, typical, spread)
        self.climatology[..., channel] = torch.from_numpy(mean).float()
        self.anomaly_spread[:, channel] = torch.from_numpy(spread).float()

    def bins(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Number of the place and of the month of positions (n, 5), (n,) int64 each."""
        row = ((positions[:, 0] + 90) / self.degrees).long().clamp(0, self.rows - 1)
        column = ((positions[:, 1] % 360) / self.degrees).long().clamp(0, self.columns - 1)
        day = positions[:, 3].contiguous()
        month = torch.bucketize(day, self.starts.to(day.device), right=True)
        return row * self.columns + column, month * self.months // 12

    def _at(self, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Climatology and spread of tokens at positions (n, 5), (n, 1, c) each."""
        if positions is None:
            raise DataError("scale 'climatology' needs positions")
        place, month = self.bins(positions)
        mean, spread = self.climatology[place, month], self.anomaly_spread[place]
        return rearrange(mean, "n c -> n 1 c"), rearrange(spread, "n c -> n 1 c")
