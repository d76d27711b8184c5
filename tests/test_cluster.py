"""What many GPUs on many machines ask of the trainer, as far as a CPU can tell."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.testing._internal.distributed.fake_pg import FakeStore

from lom_core import device, tensors
from lom_core.config import SystemConfig


def test_every_process_has_a_gpu_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses "cuda" alone, and with it the first process of each machine."""
    monkeypatch.setattr(device.torch, "zeros", lambda *_, **__: None)
    for rank in (0, 3):
        found = device.pick_device(SystemConfig(device="cuda"), rank)
        assert found == torch.device("cuda", rank)


def test_moments_wait_where_their_weights_do(tmp_path: Path) -> None:
    """With cpu_offload these are on the CPU, though the mesh is one of GPUs; steps count on the
    device, where the fused kernel reads them."""
    path = tmp_path / "optimizer.safetensors"
    saved = {"w/exp_avg": torch.arange(640.0).reshape(128, 5), "w/step": torch.tensor(7.0)}
    tensors.write(path, saved, {})
    files = tensors.TensorFiles([path])
    assert files.like("w/step", torch.empty(2, device="meta")).device.type == "meta"
    dist.init_process_group("fake", rank=3, world_size=64, store=FakeStore())
    try:
        mesh = init_device_mesh("cuda", (64,))
        spec = DTensorSpec(mesh, (Shard(0),), TensorMeta(torch.Size((128, 5)), (5, 1), torch.float))
        weight = torch.nn.Parameter(DTensor(torch.zeros(2, 5), spec, requires_grad=False))
        moment = files.like("w/exp_avg", weight)
        assert isinstance(moment, DTensor) and moment.device.type == "cpu"
        assert not moment.requires_grad and moment.placements == weight.placements
        assert torch.equal(moment.to_local(), saved["w/exp_avg"][6:8])
        assert files.like("w/step", weight).device.type == "cpu"
    finally:
        dist.destroy_process_group()
