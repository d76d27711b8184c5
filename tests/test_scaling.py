"""Scales and heads and position embedders: known answers and inverses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal

from lom_core.builtin import MLP, Categorical, Fourier, Gaussian, Huber, Index
from lom_core.errors import DataError
from lom_core.roles import Scale
from lom_core.scaling import ScaleModule

KINDS = ["identity", "zscore", "arcsinh", "log"]


def fitted(
    kind: object, content: np.ndarray, weights: np.ndarray | None = None, n_channels: int = 1
) -> ScaleModule:
    module = Scale.model_validate(kind).build(content.shape[1], n_channels)
    assert isinstance(module, ScaleModule)
    module.fit(content, np.ones_like(content) if weights is None else weights)
    return module


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(KINDS), st.integers(0, 2**32), st.floats(-6, 6), st.sampled_from([1, 3]))
def test_inverse_gives_the_physical_value_back(
    kind: str, seed: int, magnitude: float, channels: int
) -> None:
    rng = np.random.default_rng(seed)
    content = (10**magnitude * rng.lognormal(0, 1.5, (50, 6))).astype(np.float32)
    if kind != "log":
        content *= rng.choice([-1, 1], content.shape)
    scale = fitted(kind, content, n_channels=channels)
    x = torch.from_numpy(content)
    torch.testing.assert_close(
        scale.inverse(scale(x)), x, rtol=2e-4, atol=float(np.abs(content).max()) * 2e-5
    )


@pytest.mark.parametrize("kind", ["zscore", "arcsinh", "log"])
def test_scaled_data_has_mean_0_and_spread_1_in_each_channel(
    kind: str, rng: np.random.Generator
) -> None:
    content = (rng.lognormal(0, 1, (500, 6)) * np.tile([1.0, 100.0, 1e4], 2)).astype(np.float32)
    scaled = fitted(kind, content, n_channels=3)(torch.from_numpy(content)).reshape(-1, 3)
    torch.testing.assert_close(scaled.mean(0), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std(0), torch.ones(3), atol=2e-3, rtol=0)


def test_what_was_not_observed_does_not_count() -> None:
    content = np.array([[1.0], [3.0], [1e9]], np.float32)
    scale = fitted("zscore", content, np.array([[1.0], [0.2], [0.0]]))
    assert scale.shift.item() == 2 and scale.spread.item() == 1


def test_stored_integers_are_scaled_as_numbers() -> None:
    content = np.arange(250, dtype=np.uint8).reshape(-1, 1)
    assert fitted("zscore", content)(torch.from_numpy(content)).abs().max() < 2


def test_arcsinh_is_linear_in_the_noise_and_keeps_brightness(rng: np.random.Generator) -> None:
    content = rng.normal(0, 2, (4000, 1)).astype(np.float32)
    content[:40] = 1e5  # bright sources
    scale = fitted("arcsinh", content)
    assert scale.softening.item() == pytest.approx(2, rel=0.1)
    faint, bright, brighter = scale(torch.tensor([[0.02], [1e4], [1e5]])).flatten()
    assert faint < bright < brighter


@pytest.mark.parametrize("kind", ["zscore", "arcsinh"])
def test_a_constant_channel_stays_finite(kind: str) -> None:
    content = np.zeros((10, 1), np.float32)
    assert torch.isfinite(fitted(kind, content)(torch.zeros(1, 1))).all()
    rounded = fitted(kind, np.full((1000, 1), 0.1))  # their standard deviation rounds to 3e-17
    assert rounded(torch.tensor([[0.101]])).abs() < 1


def test_scales_that_cannot_be_fitted() -> None:
    content = np.array([[1.0], [-2.0]], np.float32)
    with pytest.raises(
        DataError, match="'log' needs positive values, 1 of 2 are not; use 'arcsinh'"
    ):
        fitted("log", content)
    with pytest.raises(DataError, match="channel 0: no observed value"):
        fitted("zscore", content, np.zeros((2, 1)))


def test_statistics_travel_in_the_state_dict() -> None:
    content = np.random.default_rng(1).normal(5, 3, (100, 1)).astype(np.float32)
    one = fitted("arcsinh", content)
    two = Scale.model_validate("arcsinh").build(1)
    two.load_state_dict(one.state_dict())
    x = torch.linspace(-10, 10, 7)[:, None]
    assert torch.equal(one(x), two(x))


# --------------------------------------------------------------------------------------- heads


def test_huber_head_is_torchs() -> None:
    head = Huber(delta=0.5).build(8, 3)
    h, target = torch.randn(4, 8), torch.randn(4, 3)
    expected = torch.nn.HuberLoss(reduction="none", delta=0.5)(head.point(h), target)
    assert torch.equal(head.loss(h, target), expected)


def test_gaussian_head_is_the_likelihood() -> None:
    head = Gaussian().build(8, 3)
    h, target = torch.randn(4, 8), torch.randn(4, 3)
    mean, sigma = head.distribution(h)
    torch.testing.assert_close(head.loss(h, target), -Normal(mean, sigma).log_prob(target))


def test_categorical_head_is_cross_entropy() -> None:
    head = Categorical().build(8, 1, 5)
    h, target = torch.randn(4, 8), torch.tensor([0, 1, 4, 4])
    assert head.loss(h, target).mean().item() == pytest.approx(
        torch.nn.functional.cross_entropy(head.project(h), target).item()
    )


def test_trivial_predictors_get_the_spread_that_suits_them_best() -> None:
    torch.manual_seed(0)
    target, weights = torch.randn(200, 1) * 3 + 1, torch.ones(200, 1)
    point = torch.zeros(200, 1)
    got = Gaussian().build(4, 1).score_point(point, target, weights).mean()
    best = min(-Normal(0.0, s).log_prob(target).mean() for s in torch.linspace(1, 6, 500))
    assert got.item() == pytest.approx(best.item(), abs=1e-4)
    words, guess = torch.tensor([1, 1, 1, 2]), torch.tensor([1, 1, 1, 1])
    scored = Categorical().build(4, 1, 5).score_point(guess, words, torch.ones(4, 1))
    assert scored.flatten().exp().reciprocal().tolist() == pytest.approx([0.75] * 3 + [0.25 / 4])


# ----------------------------------------------------------------------------------- positions


def test_fourier_tells_close_wavelengths_apart_in_float32() -> None:
    place = Fourier(min_period=0.001, max_period=2.0).build(64, 1)
    wavelengths = torch.linspace(0.36, 0.98, 7780)[:, None]
    assert len(torch.unique(place(wavelengths), dim=0)) == 7780
    assert len(torch.unique(wavelengths.bfloat16())) < 400  # why positions are never bfloat16


def test_index_and_mlp_shapes() -> None:
    assert Index(max_positions=9).build(16, 2)(torch.tensor([[8.0, 3.0]])).shape == (1, 16)
    mlp = MLP(offset=5.0, unit=2.0).build(16, 3)
    assert mlp(torch.full((4, 3), 5.0)).shape == (4, 16)
    assert torch.equal(mlp(torch.full((1, 3), 7.0)), mlp.layers(torch.ones(1, 3)))
    assert Index(max_positions=9).check(np.array([[9.0]])) and not Index(max_positions=9).check(
        np.array([[8.0]])
    )
