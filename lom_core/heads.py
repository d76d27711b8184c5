"""Heads: hidden state -> answer, and how an answer is scored. All in model units.

Losses are per value, (n, w); the model weighs and sums them. A head also scores *any* point
prediction by its own measure (``score_point``), so that trivial predictors stand beside the model.

    head          answers            likelihood  samples  quantiles, cdf
    huber         a point            -           -        -
    gaussian      mean, sigma        x           x        x
    student_t     centre, scale      x           x        x
    mixture       k Gaussians        x           x        x
    quantile      a list of them     -           x        x
    categorical   probabilities      x           x        -
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lom_core.errors import ConfigError
from lom_core.roles import Array


@dataclass(frozen=True)
class Draw:
    """How to sample.

    Args:
        temperature: 1 samples what was learned, below it narrower (a Gaussian's variance and
            logits' inverse are multiplied by it), 0 takes the point.
        top_k: only the k most probable tokens; 0 takes all.
        top_p: only the fewest tokens that are together at least so probable.
        generator: where randomness comes from, on the device of the model.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not self.temperature >= 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature={self.temperature:g} must be >= 0, top_k={self.top_k} >= 0 and "
                f"top_p={self.top_p:g} above 0 and at most 1"
            )

    @property
    def stretch(self) -> float:
        """What a standard deviation is multiplied by."""
        return math.sqrt(self.temperature)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of a tensor's shape."""
        return torch.randn(like.shape, generator=self.generator, device=like.device)

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers in (0, 1) of a tensor's shape, in steps of 2^-24; half a step for 0."""
        drawn = torch.rand(like.shape, generator=self.generator, device=like.device)
        return drawn.clamp(2.0**-25)


class HeadModule(nn.Module):
    """What ``Head.build`` returns."""

    has_quantiles: ClassVar[bool] = False
    levels_from: float = 0.0  # the quantiles it can tell
    levels_to: float = 1.0

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

    def log_prob(self, h: Tensor, target: Tensor) -> Tensor:
        """(n, w) natural logarithm of the density (probability when discrete) of the targets."""
        raise self._cannot("no likelihood")

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        """One answer drawn for each hidden state: (n, w), or (n,) int64 when discrete."""
        raise self._cannot("nothing to sample from (temperature 0 takes its point)")

    def quantiles(self, h: Tensor, levels: Tensor) -> Tensor:
        """(k, n, w) at levels (k,) within 0 .. 1."""
        raise self._cannot("no quantiles")

    def cdf(self, h: Tensor, target: Tensor) -> Tensor:
        """(n, w) probability of an answer below the targets."""
        raise self._cannot("no distribution function")

    def crps(self, h: Tensor, target: Tensor) -> Tensor:
        """(n, w) continuous ranked probability score: twice the mean pinball loss of all quantiles
        (Gneiting and Raftery 2007), of 100 of them here; the absolute error of a point."""
        if not self.has_quantiles:
            return (target - self.point(h)).abs()
        levels = (torch.arange(100, device=h.device) + 0.5) / 100
        found = self.quantiles(h, levels.clamp(self.levels_from, self.levels_to))
        return 2 * pinball(found, target, levels).mean(0)

    def _cannot(self, lacks: str) -> ConfigError:
        name = type(self).__name__.removesuffix("Head").lower()
        others = "student_t, mixture, gaussian" + (
            ", quantile" if "likelihood" not in lacks else ""
        )
        return ConfigError(f"head '{name}' has {lacks}; train with one of {others}")


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


class SpreadHead(HeadModule):
    """Base of heads that predict a density: the loss is its negative logarithm, in nats."""

    has_quantiles = True

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        return -self.log_prob(h, target)


class GaussianHead(SpreadHead):
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

    def log_prob(self, h: Tensor, target: Tensor) -> Tensor:
        return -gaussian_nats(target, *self.distribution(h))

    def point(self, h: Tensor) -> Tensor:
        return self.distribution(h)[0]

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        mean, sigma = self.distribution(h)
        return mean + draw.stretch * sigma * draw.normal(mean)

    def quantiles(self, h: Tensor, levels: Tensor) -> Tensor:
        mean, sigma = self.distribution(h)
        return mean + sigma * columns(normal_quantile(levels))

    def cdf(self, h: Tensor, target: Tensor) -> Tensor:
        mean, sigma = self.distribution(h)
        return normal_cdf((target - mean) / sigma)

    def crps(self, h: Tensor, target: Tensor) -> Tensor:
        """In closed form (Gneiting et al. 2005)."""
        mean, sigma = self.distribution(h)
        z = (target - mean) / sigma
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        inner = z * (2 * normal_cdf(z) - 1) + 2 * density - 1 / math.sqrt(math.pi)
        return sigma * inner

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        weights = weights.expand_as(target)
        variance = (weights * (target - point) ** 2).sum() / weights.sum().clamp(min=1e-30)
        return gaussian_nats(target, point, variance.sqrt().clamp(min=self.min_sigma))


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

    def probabilities(self, h: Tensor) -> Tensor:
        """(n, vocab)."""
        out: Tensor = self.project(h)
        return out.float().softmax(-1)

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        losses = F.cross_entropy(self.project(h).float(), target, reduction="none")
        return rearrange(losses, "n -> n 1")

    def log_prob(self, h: Tensor, target: Tensor) -> Tensor:
        return -self.loss(h, target)

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        if draw.temperature == 0:
            return self.point(h)
        logits = self.project(h).float()
        logits = (logits - logits.amax(-1, keepdim=True)) / draw.temperature  # at most 0
        if 0 < draw.top_k < logits.shape[-1]:
            least = logits.topk(draw.top_k, dim=-1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        if draw.top_p < 1:
            ranked, order = logits.softmax(-1).sort(dim=-1, descending=True)
            surplus = ranked.cumsum(-1) - ranked >= draw.top_p  # the first always stays
            logits = logits.masked_fill(surplus.scatter(-1, order, surplus), -math.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=draw.generator)[:, 0]

    def point(self, h: Tensor) -> Tensor:
        out: Tensor = self.project(h)
        return out.argmax(-1)

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """Probability p on the point, the rest shared evenly; p = how often the point is right."""
        n_other = max(self.project.out_features - 1, 1)
        right = (point == target)[:, None]
        p = ((weights * right).sum() / weights.sum().clamp(min=1e-30)).clamp(1e-6, 1 - 1e-6)
        return torch.where(right, -p.log(), -((1 - p) / n_other).log())


def gaussian_nats(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * ((x - mean) / sigma) ** 2 + sigma.log() + 0.5 * math.log(2 * math.pi)


def pinball(quantiles: Tensor, target: Tensor, levels: Tensor) -> Tensor:
    """(k, n, w) losses of quantiles (k, n, w) at levels (k,)."""
    error = target - quantiles
    return torch.maximum(columns(levels) * error, (columns(levels) - 1) * error)


def columns(levels: Tensor) -> Tensor:
    return levels[:, None, None]


def normal_cdf(z: Tensor) -> Tensor:
    """Probability of a standard normal number below z."""
    out: Tensor = torch.special.ndtr(z)
    return out


def normal_quantile(levels: Tensor) -> Tensor:
    """Its inverse, float32."""
    out: Tensor = torch.special.ndtri(levels.double()).float()
    return out
