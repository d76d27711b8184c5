"""Heads: hidden state -> answer, and how an answer is scored. All in model units.

Losses are per value, (n, w); the model weighs and sums them. A head also scores *any* point
prediction by its own measure (``score_point``), so that trivial predictors stand beside the model.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lom_core.roles import Array


class HeadModule(nn.Module):
    """What ``Head.build`` returns."""

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """(n, w) from hidden states (n, d) and targets (n, w) (or (n,) int64 when discrete)."""
        raise TypeError(f"{type(self).__name__} has no loss()")

    def point(self, h: Tensor) -> Tensor:
        """The single best answer: (n, w), or (n,) int64 when discrete."""
        raise TypeError(f"{type(self).__name__} has no point()")

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """(n, w) losses of a point prediction made without the model.

        Where the head also predicts a spread, the point gets the constant one that suits these
        very targets best: no trivial predictor is made to look worse than it is.
        """
        raise TypeError(f"{type(self).__name__} has no score_point()")


class HuberHead(HeadModule):
    def __init__(self, n_embd: int, width: int, delta: float) -> None:
        super().__init__()
        self.delta = delta
        self.project = nn.Linear(n_embd, width)

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(self.point(h), target, reduction="none", delta=self.delta)

    def point(self, h: Tensor) -> Tensor:
        out: Tensor = self.project(h)
        return out.float()

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        return F.huber_loss(point, target, reduction="none", delta=self.delta)


class GaussianHead(HeadModule):
    """-ln N(target; mean, sigma), sigma = softplus(s) + min_sigma, one for each value."""

    def __init__(self, n_embd: int, width: int, min_sigma: float) -> None:
        super().__init__()
        self.min_sigma = min_sigma
        self.project = nn.Linear(n_embd, 2 * width)
        # softplus(0.5413) = 1: start at the spread of the scaled data.
        with torch.no_grad():
            self.project.bias[width:] = 0.5413

    def distribution(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """mean and sigma, (n, w) float32 each."""
        mean, s = self.project(h).float().chunk(2, dim=-1)
        return mean, F.softplus(s) + self.min_sigma

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        return _gaussian(target, *self.distribution(h))

    def point(self, h: Tensor) -> Tensor:
        return self.distribution(h)[0]

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        weights = weights.expand_as(target)
        variance = (weights * (target - point) ** 2).sum() / weights.sum().clamp(min=1e-30)
        return _gaussian(target, point, variance.sqrt().clamp(min=self.min_sigma))


def _gaussian(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * ((x - mean) / sigma) ** 2 + sigma.log() + 0.5 * math.log(2 * math.pi)


class CategoricalHead(HeadModule):
    """Logits of each token. ``log_frequency`` (vocab,) is how often each occurs in training."""

    log_frequency: Tensor

    def __init__(self, n_embd: int, vocab_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_embd, vocab_size)
        uniform = torch.full((vocab_size,), -math.log(vocab_size))
        self.register_buffer("log_frequency", uniform)

    def fit(self, content: Array) -> None:
        """Count tokens (n,), one more of each, so that none is impossible; begin from there."""
        n_of = np.bincount(content, minlength=len(self.log_frequency)) + 1.0
        self.log_frequency.copy_(torch.from_numpy(np.log(n_of / n_of.sum())))
        with torch.no_grad():
            self.project.bias.copy_(self.log_frequency)

    def score_frequency(self, target: Tensor) -> Tensor:
        """(n, 1) losses of answering with the frequencies: the entropy of the single token."""
        return rearrange(-self.log_frequency[target], "n -> n 1")

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(self.project(h).float(), target, reduction="none")
        return rearrange(losses, "n -> n 1")

    def point(self, h: Tensor) -> Tensor:
        out: Tensor = self.project(h)
        return out.argmax(-1)

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Probability p on the point, the rest shared evenly; p = how often the point is right."""
        n_other = max(self.project.out_features - 1, 1)
        right = (point == target)[:, None]
        p = ((weights * right).sum() / weights.sum().clamp(min=1e-30)).clamp(1e-6, 1 - 1e-6)
        return torch.where(right, -p.log(), -((1 - p) / n_other).log())
