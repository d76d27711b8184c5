"""Which parameters learn, by which algorithm and at what rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lom_core import checkpoint
from lom_core.config import RunConfig
from lom_core.errors import ConfigError
from lom_core.model import Lom
from lom_core.optim import Update, freeze, make_optimizers
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
CPU = torch.device("cpu")


def rates(config: RunConfig) -> dict[str, float]:
    """The factor of the learning rate of each parameter that learns."""
    model = Lom(config.registry, config.model)
    freeze(model, config.optimizer)
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: group["factor"]
        for optimizer in make_optimizers(model, config.optimizer)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_each_layer_learns_slower_than_the_one_above(make_run: MakeRun) -> None:
    found = rates(make_run(optimizer={"layer_decay": 0.5}))  # two blocks
    assert found["parts.wave.head.project.weight"] == found["body.norm.weight"] == 1
    assert found["body.blocks.1.mlp.up.weight"] == 0.5
    assert found["body.blocks.0.attention.qkv.weight"] == 0.25
    assert found["parts.wave.embed.weight"] == found["bos"] == 0.125


def test_parts_have_rates_of_their_own(make_run: MakeRun) -> None:
    found = rates(make_run(optimizer={"rates": {"parts.wave": 0.1, "parts.*.head": 3}}))
    assert found["parts.wave.embed.weight"] == 0.1
    assert found["parts.wave.head.project.weight"] == pytest.approx(0.3)
    assert found["parts.word.head.project.weight"] == 3
    assert found["body.blocks.0.mlp.up.weight"] == 1


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
def test_what_is_frozen_stays_and_the_rest_learns(make_run: MakeRun, algorithm: str) -> None:
    options = {"freeze": ["body.blocks.0", "parts.word"], "algorithm": algorithm}
    config = make_run(optimizer=options, train={"max_iters": 3})
    train(config)
    torch.manual_seed(config.train.seed)
    before = Lom(config.registry, config.model).state_dict()
    after, _, _ = checkpoint.load_model(config.system.out_dir)
    for name, parameter in after.named_parameters():
        frozen = name.startswith(("body.blocks.0", "parts.word"))
        fitted = name == "parts.word.head.project.bias"  # begins at the log-frequencies
        assert torch.equal(parameter, before[name]) == (frozen and not fitted), name


def test_muon_takes_the_matrices_of_the_body_and_resumes(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"algorithm": "muon", "lr_decay_iters": 6}
    config = make_run(optimizer=options)
    model = Lom(config.registry, config.model)
    adamw, muon = make_optimizers(model, config.optimizer)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    assert taken == {id(p) for p in model.body.parameters() if p.ndim == 2}
    rest = sum(len(group["params"]) for group in adamw.param_groups)
    assert rest + len(taken) == len(list(model.parameters()))

    whole = make_run(optimizer=options, train={"max_iters": 6}, system={"out_dir": "whole"})
    train(whole)
    train(make_run(optimizer=options, train={"max_iters": 3}, system={"out_dir": "parts"}))
    resumed = {"max_iters": 6, "init_from": "resume"}
    train(make_run(optimizer=options, train=resumed, system={"out_dir": "parts"}))
    one, two = (
        checkpoint.stored(checkpoint.find(d, "latest"), checkpoint.MODEL)
        for d in ("whole", "parts")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("algorithm", ["adamw", "muon"])
@pytest.mark.parametrize("grad_clip", [0.0, 1.0, 1e9])
def test_the_update_clips_as_a_pass_over_the_gradients_would(
    make_run: MakeRun, algorithm: str, grad_clip: float
) -> None:
    config = make_run(optimizer={"algorithm": algorithm, "grad_clip": grad_clip}).optimizer
    random = torch.Generator().manual_seed(0)
    ours, plain = (Lom(c.registry, c.model) for c in [make_run()] * 2)
    plain.load_state_dict(ours.state_dict())
    update, optimizers = Update(make_optimizers(ours, config), CPU), make_optimizers(plain, config)
    for size in (0.01, 1.0, 0.001, 100.0):  # moments remember how much each gradient was clipped
        for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
            gradient = size * torch.randn(mine.shape, generator=random)
            mine.grad, other.grad = gradient.clone(), gradient.clone()
        norm = update.apply(config, 1e-2)
        expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), grad_clip or math.inf)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = 1e-2
            optimizer.step()
        torch.testing.assert_close(norm, expected)
        assert all(parameter.grad is None for parameter in ours.parameters())
    near = 1e-3 if algorithm == "muon" else 1e-6  # whose products are in bfloat16
    for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=near, rtol=near)


def test_a_name_that_nothing_has_is_told(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match=r"'part.wave'; did you mean 'parts.wave'\?; possible"):
        rates(make_run(optimizer={"freeze": ["part.wave"]}))
    with pytest.raises(ConfigError, match="leaves nothing to learn"):
        rates(make_run(optimizer={"freeze": ["*"]}))
    with pytest.raises(ValueError, match=r"rates\.body=0\.0 must be above 0"):
        make_run(optimizer={"rates": {"body": 0.0}})


def test_pure_bfloat16_keeps_the_body_and_its_moments_in_it(make_run: MakeRun) -> None:
    config = make_run(system={"dtype": "pure_bfloat16"}, train={"max_iters": 4, "log_interval": 1})
    train(config)
    found = checkpoint.find(config.system.out_dir, "latest")
    weights = checkpoint.stored(found, checkpoint.MODEL)
    moments = checkpoint.stored(found, checkpoint.OPTIMIZER)
    for name in weights:
        in_body = name.startswith("body.")
        if weights[name].dtype != torch.bool:
            assert (weights[name].dtype == torch.bfloat16) == in_body, name
    assert moments["body.blocks.0.mlp.up.weight/exp_avg"].dtype == torch.bfloat16
    longer = {"max_iters": 5, "init_from": "resume"}
    assert train(make_run(system={"dtype": "pure_bfloat16"}, train=longer)).step == 5
