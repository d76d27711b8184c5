"""What many GPUs on many machines ask of the trainer, as far as a CPU can tell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.testing._internal.distributed.fake_pg import FakeStore

from lom_core import attention, device, distributed, tensors
from lom_core.config import OptimizerConfig, RunConfig, SystemConfig
from lom_core.distributed import World
from lom_core.errors import ConfigError, TrainingError
from lom_core.model import Lom
from lom_core.monitor import Monitor
from lom_core.optim import Update, make_optimizers
from lom_core.progress import Progress


def test_every_process_has_a_gpu_with_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.cuda.set_device refuses "cuda" alone, and with it the first process of each machine."""
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: None)
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
        local: Any = DTensor
        weight: Any = torch.nn.Parameter(local(torch.zeros(2, 5), spec, requires_grad=False))
        moment = files.like("w/exp_avg", weight)
        assert isinstance(moment, DTensor) and moment.device.type == "cpu"
        assert not moment.requires_grad and moment.placements == weight.placements
        assert torch.equal(moment.to_local(), saved["w/exp_avg"][6:8])
        assert files.like("w/step", weight).device.type == "cpu"
    finally:
        dist.destroy_process_group()


def _threads() -> list[str]:
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads have names on Linux")
def test_no_thread_of_the_process_group_outlives_it() -> None:
    """At the interpreter's end one of gloo's aborts the process, now and then."""
    dist.init_process_group(
        "gloo", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1
    )
    mesh = init_device_mesh("cpu", (1,))
    sharded = DTensor.from_local(torch.ones(4, 2), mesh, [Shard(0)])
    torch.nn.utils.get_total_norm([sharded, sharded])
    assert any("gloo" in name for name in _threads())
    del mesh, sharded
    distributed.leave()
    assert not [name for name in _threads() if "gloo" in name]


def test_who_fails_on_a_gpu_leaves_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Destroying NCCL's group waits for processes that wait for this one."""
    destroyed: list[bool] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: destroyed.append(True))
    for kind, n in (("cuda", 0), ("cpu", 1)):
        monkeypatch.setattr(distributed, "pick_device", lambda *_, k=kind: torch.device(k, 0))
        with pytest.raises(ValueError), distributed.joined(SystemConfig()):
            raise ValueError
        assert len(destroyed) == n


def test_processes_that_see_other_data_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = [{"step": 5, "records": 40}, {"step": 5, "records": 40}, {"step": 5, "records": 39}]
    monkeypatch.setattr(World, "gather", lambda *_: seen)
    with pytest.raises(TrainingError, match="records = 40, process 2 with 39"):
        World(0, 3).agree(seen[0])
    seen.pop()
    World(0, 2).agree(seen[0])


def test_the_flash_kernel_gets_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads of 12, and a T4, go to the public SDPA."""

    def takes(width: int, dtype: torch.dtype, capability: tuple[int, int]) -> bool:
        monkeypatch.setattr(attention, "_capability", lambda _: capability)
        return attention._flash_takes(torch.empty(4, 2, width, dtype=dtype, device="meta"))

    assert takes(64, torch.bfloat16, (9, 0)) and takes(8, torch.float16, (8, 0))
    assert not takes(12, torch.bfloat16, (9, 0)) and not takes(264, torch.bfloat16, (9, 0))
    assert not takes(64, torch.float32, (9, 0)) and not takes(64, torch.float16, (7, 5))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk, as Linux has one")
def test_a_log_on_a_full_disk_is_told_in_a_line(
    make_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with (
        pytest.raises(TrainingError, match=r"cannot write /dev/full: No space.*init_from=resume"),
        Monitor(make_run(), tmp_path / "run", Progress()) as monitor,
    ):
        monitor.files["metrics"] = Path("/dev/full").open("w")  # noqa: SIM115
        monitor.log("val", 0, {"loss/wave": 1.0})


def test_muon_says_which_matrix_is_too_small_to_share(make_run: Callable[..., RunConfig]) -> None:
    """torch's Muon fails at the first step where some processes hold no row."""
    config = make_run(
        model={"n_embd": 32, "n_head": 2},
        optimizer={"algorithm": "muon"},
        system={"strategy": "zero1", "device": "cpu"},
    )
    dist.init_process_group("fake", rank=40, world_size=64, store=FakeStore())
    try:
        model = Lom(config.registry, config.model)
        distributed.place(model, config.system, World(40, 64), torch.device("cpu"))
        with pytest.raises(ConfigError, match=r"the 32 rows of body.* 64 processes; try"):
            make_optimizers(model, config.optimizer)
        assert make_optimizers(model, OptimizerConfig())
    finally:
        dist.destroy_process_group()


def test_overflows_of_float16_are_bad_steps_once_the_scale_can_fall_no_further() -> None:
    """In three weeks it grows, overflows and halves more often than ``max_bad_steps``."""
    weight = torch.nn.Parameter(torch.ones(2))
    update = Update([torch.optim.AdamW([weight], fused=True)], torch.device("cpu"), "float16")
    n = 0
    while n == 0 or update.rescales:
        update.backward((weight * float("inf")).sum())
        update.apply(OptimizerConfig(), 0.1)
        n += 1
    assert n == 17 and torch.equal(weight.detach(), torch.ones(2))  # 2^16 ... 1
    assert not Update([], torch.device("cpu"), "bfloat16").rescales
