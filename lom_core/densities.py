"""More heads: heavy tails, several peaks, quantiles of any shape. See lom_core.heads."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from lom_core.errors import ConfigError
from lom_core.heads import (
    Draw,
    GaussianHead,
    HeadModule,
    SpreadHead,
    columns,
    gaussian_nats,
    normal_cdf,
    normal_quantile,
    pinball,
)


class StudentTHead(GaussianHead):
    """-ln t(target; centre, scale) with a fixed number of degrees of freedom.

    Its tails take outliers (cosmic rays, bad epochs) that would rule a Gaussian's loss.
    """

    def __init__(self, n_embd: int, width: int, min_sigma: float, dof: float) -> None:
        super().__init__(n_embd, width, min_sigma)
        self.dof = dof

    def log_prob(self, h: Tensor, target: Tensor) -> Tensor:
        return -self._nats(target, *self.distribution(h))

    def _nats(self, x: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
        nu = self.dof
        norm = math.lgamma((nu + 1) / 2) - math.lgamma(nu / 2) - 0.5 * math.log(nu * math.pi)
        return (nu + 1) / 2 * torch.log1p(((x - centre) / scale) ** 2 / nu) + scale.log() - norm

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        """By the polar method of Bailey (1994)."""
        centre, scale = self.distribution(h)
        radius = (self.dof * (draw.uniform(centre) ** (-2 / self.dof) - 1)).clamp(min=0).sqrt()
        t = radius * torch.cos(2 * math.pi * draw.uniform(centre))
        return centre + draw.stretch * scale * t

    def quantiles(self, h: Tensor, levels: Tensor) -> Tensor:
        centre, scale = self.distribution(h)
        t = _scipy_special().stdtrit(self.dof, levels.cpu().double().numpy())
        return centre + scale * columns(torch.as_tensor(t, device=h.device).float())

    def cdf(self, h: Tensor, target: Tensor) -> Tensor:
        centre, scale = self.distribution(h)
        z = ((target - centre) / scale).detach().cpu().double().numpy()
        return torch.as_tensor(_scipy_special().stdtr(self.dof, z), device=h.device).float()

    def crps(self, h: Tensor, target: Tensor) -> Tensor:
        return HeadModule.crps(self, h, target)

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """With the scale of the highest likelihood, found by expectation maximisation."""
        weights, squares = weights.expand_as(target), (target - point) ** 2
        total = weights.sum().clamp(min=1e-30)
        variance = (weights * squares).sum() / total
        for _ in range(50):
            variance = variance.clamp(min=self.min_sigma**2)
            share = (self.dof + 1) / (self.dof + squares / variance)
            variance = (weights * share * squares).sum() / total
        return self._nats(target, point, variance.sqrt().clamp(min=self.min_sigma))


class MixtureHead(SpreadHead):
    """-ln sum_k p_k N(target; mean_k, sigma_k), for each value: answers with several peaks."""

    def __init__(self, n_embd: int, width: int, components: int, min_sigma: float) -> None:
        super().__init__()
        self.components, self.min_sigma = components, min_sigma
        self.project = nn.Linear(n_embd, 3 * components * width)
        with torch.no_grad():  # apart, or they would learn the same
            _, means, s = rearrange(self.project.bias, "(three k w) -> three k w", three=3, w=width)
            means.copy_(torch.linspace(-1, 1, components + 2)[1:-1, None].expand_as(means))
            s.fill_(0.5413)

    def distribution(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln p, mean and sigma, (k, n, w) float32 each."""
        parts = self.project(h).float()
        k = self.components
        logits, mean, s = rearrange(parts, "n (three k w) -> three k n w", three=3, k=k)
        return logits.log_softmax(0), mean, F.softplus(s) + self.min_sigma

    def log_prob(self, h: Tensor, target: Tensor) -> Tensor:
        log_p, mean, sigma = self.distribution(h)
        return torch.logsumexp(log_p - gaussian_nats(target, mean, sigma), dim=0)

    def point(self, h: Tensor) -> Tensor:
        """The mixture's mean."""
        log_p, mean, _ = self.distribution(h)
        return (log_p.exp() * mean).sum(0)

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        if draw.temperature == 0:
            return self.point(h)
        log_p, mean, sigma = self.distribution(h)
        gumbel = -torch.log(-torch.log(draw.uniform(log_p).clamp(max=1 - 1e-7)))
        chosen = (log_p / draw.temperature + gumbel).argmax(0, keepdim=True)  # (1, n, w)
        mean, sigma = (t.gather(0, chosen)[0] for t in (mean, sigma))
        return mean + draw.stretch * sigma * draw.normal(mean)

    def quantiles(self, h: Tensor, levels: Tensor) -> Tensor:
        """By bisection of the distribution function, to 2^-40 of its range."""
        log_p, mean, sigma = self.distribution(h)
        z = normal_quantile(levels)[:, None, None, None]
        each = mean + sigma * z  # (levels, k, n, w): the answer lies between the components'
        low, high = each.amin(1), each.amax(1)
        for _ in range(40):
            middle = (low + high) / 2
            below = self._cdf(middle[:, None], log_p, mean, sigma, dim=1) < columns(levels)
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    def cdf(self, h: Tensor, target: Tensor) -> Tensor:
        return self._cdf(target, *self.distribution(h), dim=0)

    @staticmethod
    def _cdf(x: Tensor, log_p: Tensor, mean: Tensor, sigma: Tensor, dim: int) -> Tensor:
        return (log_p.exp() * normal_cdf((x - mean) / sigma)).sum(dim)

    score_point = GaussianHead.score_point  # a mixture of one


class QuantileHead(HeadModule):
    """Quantiles at fixed levels, which never cross, scored by the pinball loss (Koenker 1978).

    Between its levels it interpolates; beyond them it knows nothing.
    """

    has_quantiles = True
    levels: Tensor

    def __init__(self, n_embd: int, width: int, levels: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        self.levels_from, self.levels_to = levels[0], levels[-1]
        self.project = nn.Linear(n_embd, len(levels) * width)
        start = normal_quantile(self.levels)  # of a standard normal
        steps = torch.log(torch.expm1(start.diff()))  # the inverse of softplus
        with torch.no_grad():
            bias = rearrange(self.project.bias, "(l w) -> l w", w=width)
            bias.copy_(torch.cat([start[:1], steps])[:, None].expand_as(bias))

    def distribution(self, h: Tensor) -> Tensor:
        """(levels, n, w) float32, rising."""
        parts = self.project(h).float()
        first, *steps = rearrange(parts, "n (l w) -> l n w", l=len(self.levels))
        return torch.stack([first, *(F.softplus(step) for step in steps)]).cumsum(0)

    def loss(self, h: Tensor, target: Tensor) -> Tensor:
        """Twice the mean pinball loss, which is the CRPS where levels are many and even."""
        return 2 * pinball(self.distribution(h), target, self.levels).mean(0)

    def point(self, h: Tensor) -> Tensor:
        return self.quantiles(h, torch.tensor([0.5], device=h.device))[0]

    def sample(self, h: Tensor, draw: Draw) -> Tensor:
        point = self.point(h)
        u = draw.uniform(point).clamp(self.levels_from, self.levels_to)
        found = self._at(self.distribution(h), u[None])[0]
        return point + draw.stretch * (found - point)

    def quantiles(self, h: Tensor, levels: Tensor) -> Tensor:
        lowest, highest = float(levels.min()), float(levels.max())
        if lowest < self.levels_from - 1e-6 or highest > self.levels_to + 1e-6:
            raise ConfigError(
                f"quantiles {lowest:g} .. {highest:g} lie beyond those of this head: "
                f"{self.levels_from:g} .. {self.levels_to:g}"
            )
        found = self.distribution(h)
        return self._at(found, columns(levels).expand(len(levels), *found.shape[1:]))

    def _at(self, found: Tensor, u: Tensor) -> Tensor:
        """(k, n, w) at levels u (k, n, w), from the head's own (levels, n, w)."""
        upper = torch.bucketize(u.contiguous(), self.levels).clamp(1, len(self.levels) - 1)
        low, high = found.gather(0, upper - 1), found.gather(0, upper)
        share = (u - self.levels[upper - 1]) / (self.levels[upper] - self.levels[upper - 1])
        return low + share * (high - low)

    def cdf(self, h: Tensor, target: Tensor) -> Tensor:
        """Beyond the outermost levels half of what they leave over."""
        found = self.distribution(h)
        n_below = (found <= target).sum(0)  # (n, w)
        upper = n_below.clamp(1, len(self.levels) - 1)
        low, high = (found.gather(0, i[None])[0] for i in (upper - 1, upper))
        share = (target - low) / (high - low)
        inside = self.levels[upper - 1] + share * (self.levels[upper] - self.levels[upper - 1])
        inside = torch.where(n_below == 0, self.levels_from / 2, inside)
        return torch.where(n_below == len(self.levels), (1 + self.levels_to) / 2, inside)

    def score_point(self, point: Tensor, target: Tensor, weights: Tensor) -> Tensor:
        """About the point, with the quantiles of its own errors."""
        errors, weights = target - point, weights.expand_as(target)
        order = errors.flatten().argsort()
        share = weights.flatten()[order].cumsum(0) / weights.sum().clamp(min=1e-30)
        at = torch.searchsorted(share, self.levels).clamp(max=max(len(order) - 1, 0))
        return 2 * pinball(point + columns(errors.flatten()[order][at]), target, self.levels).mean(
            0
        )


def _scipy_special() -> Any:
    try:
        from scipy import special
    except ImportError:
        raise ConfigError(
            "quantiles of head 'student_t' need scipy: pip install 'lom-core[stats]'"
        ) from None
    return special
