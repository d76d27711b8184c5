"""Heads keep their promises: densities integrate to 1, samples follow them, quantiles invert cdfs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from lom_core import ConfigError, Head, ModalityConfig, Scale
from lom_core.heads import Draw, HeadModule
from lom_core.scaling import ScaleModule

SPREAD = ["gaussian", "student_t", "mixture", {"kind": "student_t", "dof": 2.5}]
CONTINUOUS = [*SPREAD, "quantile"]
H = torch.randn(5, 8, generator=torch.Generator().manual_seed(3))


def build(kind: Any, width: int = 3, vocab: int = 0) -> HeadModule:
    torch.manual_seed(0)
    head = Head.model_validate(kind).build(8, width, vocab)
    assert isinstance(head, HeadModule)
    return head.eval()


@pytest.mark.parametrize("kind", SPREAD, ids=str)
def test_densities_integrate_to_one_and_give_the_cdf(kind: Any) -> None:
    head, grid = build(kind), torch.linspace(-300, 300, 200_001)
    h = H[:1].expand(len(grid), -1)
    density = head.log_prob(h, grid[:, None].expand(-1, 3)).exp().double()
    below = torch.cumulative_trapezoid(density, grid.double(), dim=0)
    assert below[-1].tolist() == pytest.approx([1, 1, 1], abs=2e-4)
    middle = len(grid) // 2 + 100
    cdf = head.cdf(h[:1], grid[middle].expand(1, 3))
    assert cdf[0].tolist() == pytest.approx(below[middle - 1].tolist(), abs=1e-3)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=str)
def test_quantiles_invert_the_cdf_and_rise(kind: Any) -> None:
    head, levels = build(kind), torch.tensor([0.03, 0.2, 0.5, 0.8, 0.97])
    found = head.quantiles(H, levels)
    assert found.shape == (5, 5, 3) and (found.diff(dim=0) > 0).all()
    for level, at in zip(levels, found, strict=True):
        assert torch.allclose(head.cdf(H, at), level.expand(5, 3), atol=1e-4)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=str)
def test_samples_follow_the_distribution(kind: Any) -> None:
    head, n = build(kind), 4000
    h = H[:1].expand(n, -1)
    drawn = head.sample(h, Draw(generator=torch.Generator().manual_seed(1)))
    pit = head.cdf(h, drawn).sort(dim=0).values
    even = ((torch.arange(n) + 0.5) / n)[:, None]
    assert (pit - even).abs().max() < 0.03  # Kolmogorov-Smirnov: 1.95 / sqrt(n) at p = 0.001
    cold = head.sample(h, Draw(0.0, generator=torch.Generator()))
    assert torch.allclose(cold, head.point(h), atol=1e-6)


def test_the_rarest_draw_is_no_impossible_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.rand is exactly 0 once in 2^24 draws: as likely a t beyond 150 as that."""
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.zeros(size))
    head = build({"kind": "student_t", "dof": 4.0})
    centre, scale = head.distribution(H)  # type: ignore[operator]
    assert ((head.sample(H, Draw()) - centre) / scale).abs().max() < 200


@pytest.mark.parametrize("kind", SPREAD, ids=str)
def test_crps_is_the_integral_over_the_cdf(kind: Any) -> None:
    head, grid = build(kind, width=1), torch.linspace(-60, 60, 60_001)
    truth = torch.tensor([[0.7]])
    cdf = head.cdf(H[:1].expand(len(grid), -1), grid[:, None])[:, 0].double()
    step = (grid >= 0.7).double()
    expected = torch.trapezoid((cdf - step) ** 2, grid.double()).item()
    with torch.no_grad():
        found = head.crps(H[:1], truth).item()
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("kind", CONTINUOUS, ids=str)
def test_training_finds_the_distribution(kind: Any) -> None:
    """Draws from one distribution, no input: the head learns its 80% interval."""
    head, rng = build(kind, width=1), np.random.default_rng(0)
    target = torch.tensor(rng.normal(2.0, 0.5, (512, 1)), dtype=torch.float32)
    h = torch.ones(512, 8)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        head.loss(h, target).mean().backward()
        optimizer.step()
    low, high = head.quantiles(h[:1], torch.tensor([0.1, 0.9])).detach()
    assert float(low) == pytest.approx(2 - 1.2816 * 0.5, abs=0.15)
    assert float(high) == pytest.approx(2 + 1.2816 * 0.5, abs=0.15)
    constant = head.score_point(torch.full_like(target, 2.0), target, torch.ones(512, 1)).mean()
    assert head.loss(h, target).mean().item() == pytest.approx(float(constant), abs=0.06)


def test_temperatures_at_the_ends() -> None:
    head = build("categorical", vocab=5)
    assert torch.equal(head.sample(H, Draw(1e-40)), head.point(H))
    with pytest.raises(ConfigError, match="temperature=nan must be >= 0"):
        Draw(float("nan"))


def test_top_k_and_top_p_leave_the_likely_tokens() -> None:
    head = build("categorical", vocab=6)
    h = H[:1].expand(3000, -1)
    ranked = head.probabilities(H[:1])[0].argsort(descending=True)  # type: ignore[operator]

    def drawn(**how: Any) -> set[int]:
        draw = Draw(generator=torch.Generator().manual_seed(0), **how)
        return set(head.sample(h, draw).tolist())

    assert drawn() == set(range(6))
    assert drawn(top_k=2) == set(ranked[:2].tolist())
    assert drawn(temperature=0.0) == drawn(top_p=1e-6) == {int(ranked[0])}
    with pytest.raises(ConfigError, match="top_p=0 above 0"):
        Draw(top_p=0)


@pytest.mark.parametrize("scale", ["identity", "zscore", "arcsinh", "log"])
def test_log_jacobian_is_the_derivative(scale: str) -> None:
    module = Scale.model_validate(scale).build(2, 1)
    assert isinstance(module, ScaleModule)
    content = np.random.default_rng(0).lognormal(1, 1, (200, 2)).astype(np.float32)
    module.fit(content, np.ones((200, 1), np.float32))
    x = torch.from_numpy(content).double()
    numeric = (module.warp(x * 1.0001) - module.warp(x * 0.9999)) / (x * 0.0002) / module.spread
    floor = x <= x.min() * 1.0001  # a one-sided derivative there
    assert torch.allclose(
        module.log_jacobian(x.float())[~floor], numeric.log().float()[~floor], atol=2e-2
    )
    assert module.log_jacobian(x.float()).isfinite().all()


def test_a_log_likelihood_does_not_depend_on_the_units_of_the_model() -> None:
    """The same physical density, N(5, 2^2), written under two scalings."""
    x = torch.linspace(0, 10, 7)[:, None]
    found = []
    for shift, spread in ((0.0, 1.0), (40.0, 0.01)):
        config = ModalityConfig(name="x", input_size=1, scale="zscore", head="gaussian")  # type: ignore[arg-type]
        scale, head = config.scale.build(1, 1), config.head.build(8, 1)
        assert isinstance(scale, ScaleModule) and isinstance(head, HeadModule)
        scale.shift.fill_(shift)
        scale.spread.fill_(spread)
        with torch.no_grad():
            head.project.weight.zero_()  # type: ignore[union-attr,operator]
            mean, sigma = (5 - shift) / spread, 2 / spread
            raw = math.log(math.expm1(sigma - 1e-3)) if sigma < 20 else sigma - 1e-3
            head.project.bias.copy_(torch.tensor([mean, raw]))  # type: ignore[union-attr,operator]
        found.append(head.log_prob(torch.ones(7, 8), scale(x)) + scale.log_jacobian(x))
    assert torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.allclose(found[0], torch.distributions.Normal(5, 2).log_prob(x), atol=1e-3)


def test_what_a_head_lacks_is_told_with_what_has_it() -> None:
    head = build("huber")
    with pytest.raises(ConfigError, match=r"'huber' has no quantiles; train with .*gaussian"):
        head.quantiles(H, torch.tensor([0.5]))
    with pytest.raises(ConfigError, match=r"'quantile' has no likelihood; .*mixture"):
        build("quantile").log_prob(H, torch.zeros(5, 3))
    with pytest.raises(ConfigError, match="lie beyond those of this head"):
        build("quantile").quantiles(H, torch.tensor([0.001]))
    with pytest.raises(ValidationError, match="must rise"):
        Head.model_validate({"kind": "quantile", "levels": [0.9, 0.1]})
