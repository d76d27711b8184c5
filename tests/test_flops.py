"""FLOPs by formula equal those that torch counts; peaks are stated or measured."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lom_core import flops
from lom_core.batch import Batch, Observation, pack_row
from lom_core.config import ModelConfig, RunConfig
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.model import Lom, layouts
from lom_core.objectives import masked, next_token, prefix
from lom_core.roles import Tokens

MakeRun = Callable[..., RunConfig]


def by_products(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, given: Tensor) -> Tensor:
    """Full attention in each segment by plain products, which torch's counter knows."""
    out = []
    for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        qs, ks, vs = (x[a:b].transpose(0, 1) for x in (q, k, v))
        out.append(((qs @ ks.mT).softmax(-1) @ vs).transpose(0, 1))
    return torch.cat(out)


def observation(registry: ModalityRegistry, lengths: dict[str, int]) -> Observation:
    rng = np.random.default_rng(0)
    tokens = {}
    for config in registry:
        n, t = lengths.get(config.name, 0), config.tokeniser
        if n:
            shape = (n,) if t.vocab_size else (n, t.width)
            content = rng.integers(0, 2, shape) if t.vocab_size else rng.normal(size=shape)
            positions = np.tile(np.arange(n, dtype=np.float32)[:, None], (1, t.pos_width))
            tokens[config.name] = Tokens(
                content if t.vocab_size else content.astype(np.float32), positions
            )
    return Observation("x", tokens)


@pytest.fixture
def registry(make_run: MakeRun) -> ModalityRegistry:
    return make_run().registry


def batch_of(registry: ModalityRegistry, rows: list[list[dict[str, int]]], n: int) -> Batch:
    names = registry.names()
    packed = [pack_row([observation(registry, o) for o in row], n, names) for row in rows]
    return masked(packed, layouts(registry), 0.5)


def counted(model: Lom, batch: Batch) -> int:
    """What torch counts in forward and backward."""
    with FlopCounterMode(display=False) as counter:
        sum(model(batch).values()).backward()  # type: ignore[union-attr]
    return counter.get_total_flops()


@pytest.mark.parametrize("mlp", ["swiglu", "gelu"])
@pytest.mark.parametrize("frozen", ["", "parts.", "body.", "body.blocks.0.attention."])
def test_the_formula_equals_the_counter_where_rows_are_full(
    registry: ModalityRegistry, monkeypatch: pytest.MonkeyPatch, mlp: str, frozen: str
) -> None:
    monkeypatch.setattr("lom_core.transformer.attend", by_products)
    model = Lom(registry, ModelConfig(n_layer=3, n_head=2, n_embd=32, mlp=mlp))  # type: ignore[arg-type]
    rows = [[{"wave": 9, "word": 5}, {"wave": 16}], [{"word": 15}, {"word": 15}]]
    batch = batch_of(registry, rows, 32)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not (frozen and name.startswith(frozen)))
    assert flops.flops_of(model, [flops.outline(batch)]) == counted(model, batch)


def test_rests_of_rows_cost_nothing(registry: ModalityRegistry) -> None:
    model = Lom(registry, ModelConfig(n_layer=2, n_head=2, n_embd=32))
    rows = [[{"wave": 9, "word": 5}], [{"word": 7}, {"wave": 4}]]
    short, long = (
        flops.flops_of(model, [flops.outline(batch_of(registry, rows, n))]) for n in (16, 200)
    )
    assert short == long > 0


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 7)), min_size=1, max_size=5),
    rest=st.integers(0, 5),
    objective=st.sampled_from(["next_token", "masked", "prefix"]),
)
def test_pairs_are_those_that_attention_lets_through(
    lengths: list[tuple[int, int]], rest: int, objective: str
) -> None:
    registry = ModalityRegistry(
        [ModalityConfig(name="a", input_size=1), ModalityConfig(name="b", input_size=1)]
    )
    found = [observation(registry, {"a": a, "b": b}) for a, b in lengths]
    n = sum(o.n_slots for o in found)
    rows = [pack_row(found, n + rest, ["a", "b"])]
    batch = {
        "next_token": lambda: next_token(rows, layouts(registry)),
        "masked": lambda: masked(rows, layouts(registry), 0.5),
        "prefix": lambda: prefix(rows, layouts(registry), ["a"]),
    }[objective]()
    pairs = 0
    for o, g in zip(found, batch.given.tolist(), strict=False):
        seen = np.tril(np.ones((o.n_slots, o.n_slots)))
        seen[:g, :g] = 1
        pairs += int(seen.sum())
    assert flops.slots_and_pairs([flops.outline(batch)]) == (n, pairs)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Some GPU", None),
    ],
)
def test_stated_peaks(name: str, tflops: float | None) -> None:
    assert flops.stated_peak(name) == (tflops and tflops * 1e12)


def test_a_measured_peak_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "SECONDS", 0.0)
    peak = flops.peak_flops(torch.device("cpu"), torch.float32)
    assert 1e8 < peak < 1e15
    assert flops.peak_flops(torch.device("cpu"), torch.float32) == peak


def test_a_model_that_is_gone_leaves_nothing_behind(registry: ModalityRegistry) -> None:
    gc.collect()
    before = len(flops._COSTS)
    model = Lom(registry, ModelConfig(n_layer=1, n_head=2, n_embd=32))
    flops.flops_of(model, [flops.outline(batch_of(registry, [[{"wave": 3}]], 8))])
    assert len(flops._COSTS) == before + 1
    del model
    gc.collect()
    assert len(flops._COSTS) == before
