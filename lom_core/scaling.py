"""Scales: physical units <-> model units, float32, per channel, fitted once and then kept.

A token's w values interleave c channels, last axis fastest (an RGB patch is "ph pw c"), so value
j belongs to channel j % c. Statistics are buffers: they travel in the checkpoint.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lom_core.errors import DataError
from lom_core.roles import Array

RESOLUTION = float(np.finfo(np.float32).eps)  # relative


class ScaleModule(nn.Module):
    """y = (warp(x) - shift) / spread, and its inverse. Subclasses say what ``warp`` is."""

    shift: Tensor
    spread: Tensor
    mean: Tensor
    fitted: Tensor
    mean_name = "training_mean"  # what it is called among the trivial predictors

    def __init__(self, width: int, n_channels: int) -> None:
        super().__init__()
        assert width % n_channels == 0, f"{width} values a token do not hold {n_channels} channels"
        self.n_channels = n_channels
        for name, value in (("shift", 0.0), ("spread", 1.0), ("mean", 0.0)):
            self.register_buffer(name, torch.full((width,), value))
        self.register_buffer("fitted", torch.tensor(False))

    def warp(self, x: Tensor) -> Tensor:
        return x

    def unwarp(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(n, w) as stored, of tokens at ``positions`` (n, p) -> (n, w) float32 model units.

        The scales of the core are the same everywhere; others may depend on where and when.
        """
        return (self.warp(x.float()) - self.shift) / self.spread

    def inverse(self, y: Tensor, positions: Tensor | None = None) -> Tensor:
        """(n, w) model units -> (n, w) float32 physical units."""
        return self.unwarp(y.float() * self.spread + self.shift)

    def log_jacobian(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """(n, w) ln |dy/dx| at x (n, w): what turns a density of y into one of x.

        The scales work value by value, so that one backward pass gives every derivative.
        """
        with torch.enable_grad():
            x = x.detach().float().requires_grad_()
            (slope,) = torch.autograd.grad(self.forward(x, positions).sum(), x)
        return slope.abs().log()

    def fit(self, content: Array, weights: Array, positions: Array | None = None) -> None:
        """Statistics of the observed values (weight > 0) of tokens (n, w), for each channel."""
        observed = np.broadcast_to(weights > 0, content.shape)
        for channel in range(self.n_channels):
            every = np.s_[channel :: self.n_channels]
            values = content[:, every][observed[:, every]].astype(np.float64)
            if not values.size:
                raise DataError(
                    f"channel {channel}: no observed value to fit the scale on; "
                    "raise fit_records or check the data's masks"
                )
            self._fit_channel(torch.from_numpy(values), every)
        self.fitted.fill_(True)

    def _fit_channel(self, values: Tensor, every: slice) -> None:
        """Set the buffers at ``every`` from the channel's values (k,) float64."""
        warped = self.warp_channel(values, every)
        spread = float(warped.std(correction=0))
        self.shift[every] = float(warped.mean())
        # A constant channel stays constant; what float32 cannot tell apart, and rounding, is one.
        told = spread > RESOLUTION * float(warped.abs().max())
        self.spread[every] = spread if told else 1.0

    def warp_channel(self, values: Tensor, every: slice) -> Tensor:
        return values


class IdentityScale(ScaleModule):
    """x as it is. ``mean`` is fitted all the same: the trivial predictor needs it."""

    def _fit_channel(self, values: Tensor, every: slice) -> None:
        self.mean[every] = float(values.mean())


class ZScoreScale(ScaleModule):
    """(x - mean) / standard deviation."""


class ArcsinhScale(ScaleModule):
    """Z-score of arcsinh(x / softening) (the stretch of Lupton, Gunn and Szalay 1999)."""

    softening: Tensor

    def __init__(self, width: int, n_channels: int, softening: float | None) -> None:
        super().__init__(width, n_channels)
        self.fit_softening = softening is None
        self.register_buffer("softening", torch.full((width,), softening or 1.0))

    def warp(self, x: Tensor) -> Tensor:
        return torch.asinh(x / self.softening)

    def unwarp(self, x: Tensor) -> Tensor:
        return torch.sinh(x) * self.softening

    def warp_channel(self, values: Tensor, every: slice) -> Tensor:
        if self.fit_softening:
            deviation = float((values - values.median()).abs().median()) * 1.4826
            # More than half of the values may be equal (an empty sky of zeros).
            self.softening[every] = deviation or float(values.std(correction=0)) or 1.0
        return torch.asinh(values / float(self.softening[every][0]))


class LogScale(ScaleModule):
    """Z-score of ln(max(x, floor)), floor = the smallest value fitted."""

    floor: Tensor

    def __init__(self, width: int, n_channels: int) -> None:
        super().__init__(width, n_channels)
        self.register_buffer("floor", torch.full((width,), 1e-30))

    def warp(self, x: Tensor) -> Tensor:
        return torch.log(torch.maximum(x, self.floor))

    def unwarp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def log_jacobian(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        # By hand: at the floor itself, `maximum` halves its derivative.
        return -torch.log(torch.maximum(x.float(), self.floor)) - self.spread.log()

    def warp_channel(self, values: Tensor, every: slice) -> Tensor:
        n_bad = int((values <= 0).sum())
        if n_bad:
            raise DataError(
                f"scale 'log' needs positive values, {n_bad} of {len(values)} are not; "
                "use 'arcsinh'"
            )
        self.floor[every] = float(values.min())
        return values.log()
