"""The encoder by itself computes what `lom embed` does, in torch.export's format and in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lom_core
from lom_core.cli import build
from lom_core.config import RunConfig
from lom_core.encoder import Encoder, export_encoder
from lom_core.errors import ConfigError
from lom_core.train import train

MakeRun = Callable[..., RunConfig]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"objective": {"kind": "masked"}, "model": {"rotary": True, "qk_norm": True}},
]


def records(n: int, lengths: int) -> list[dict[str, Any]]:
    t = np.linspace(0, 6, lengths)
    return [{"wave": np.sin(t + i)[:, None], "wave_positions": t[:, None]} for i in range(n)]


def arrays(n: int, lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    found = records(n, lengths)
    return tuple(  # type: ignore[return-value]
        torch.tensor(np.stack([r[k] for r in found]), dtype=torch.float32)
        for k in ("wave", "wave_positions")
    )


@pytest.mark.parametrize("options", OPTIONS, ids=["next_token", "masked rotary"])
def test_it_is_what_embed_computes(make_run: MakeRun, options: dict[str, Any]) -> None:
    model = lom_core.load(train(make_run(train={"max_iters": 3}, **options)).out_dir)
    encoder = Encoder(model, "wave").eval()
    tokens, pooled = encoder(*arrays(3, 7))
    given = [
        {"wave": {"content": r["wave"].astype(np.float32), "positions": r["wave_positions"]}}
        for r in records(3, 7)
    ]
    embedded = model.embed(given)["embedding"]
    assert np.allclose(pooled.detach().numpy(), embedded, atol=1e-5)
    assert tokens.shape == (3, 7, 32) and encoder.causal == (not options)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["wave", "word"])
def test_the_files_compute_the_same_for_any_sizes(
    make_run: MakeRun, tmp_path: Path, modality: str
) -> None:
    out_dir = train(make_run(train={"max_iters": 3})).out_dir
    encoder = Encoder(lom_core.load(out_dir), modality).eval()
    for name in ("e.pt2", "e.onnx"):
        if name == "e.onnx":
            pytest.importorskip("onnxscript")
        arguments = ["checkpoint", "encoder", str(out_dir), modality, str(tmp_path / name)]
        done = CliRunner().invoke(build(), arguments)
        assert done.exit_code == 0, done.output
    program = torch.export.load(tmp_path / "e.pt2").module()
    for n, length in ((1, 2), (4, 9)):
        content, positions = arrays(n, length)
        if modality == "word":
            content = torch.arange(n * length).reshape(n, length) % 5
        expected = encoder(content, positions)
        for ours, theirs in zip(expected, program(content, positions), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(tmp_path / "e.onnx")
        given = {"content": content.numpy(), "positions": positions.numpy()}
        for ours, array in zip(expected, session.run(None, given), strict=True):
            assert np.allclose(ours.detach().numpy(), array, atol=1e-5)


def test_wrong_requests(make_run: MakeRun, tmp_path: Path) -> None:
    model = lom_core.load(train(make_run(train={"max_iters": 1})).out_dir)
    with pytest.raises(ConfigError, match=r"written as \.onnx or \.pt2"):
        export_encoder(model, "wave", tmp_path / "e.h5")
    with pytest.raises(ConfigError, match="wave"):
        export_encoder(model, "waves", tmp_path / "e.pt2")
