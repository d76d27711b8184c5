"""``lom doctor``: what a run will find on this machine, and what to do about what is amiss."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lom_core.cli.common import OVERRIDABLE, AsJson, Overrides, print_json, print_table, size
from lom_core.cli.meet import meeting
from lom_core.config import RunConfig
from lom_core.plugins import installed_plugins
from lom_core.runfile import load_run

GIB = 1024**3
FILES, SHARED, DISK = 1024, 1 * GIB, 10 * GIB  # less than these deserves a warning
FILES_OF_WORKER = 64  # pipes, and files of the data set

MaybeRun = Annotated[
    Path | None,
    typer.Argument(metavar="[RUN]", help="Run file to look at what it needs.", show_default=False),
]


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, what was found, and what to do when that is not ``ok``."""

    name: str
    found: str
    status: Literal["ok", "warning", "broken"] = "ok"
    advice: str = ""


def add(app: typer.Typer) -> None:
    app.command("doctor", context_settings=OVERRIDABLE)(doctor)


def doctor(run: MaybeRun = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check versions, devices, compiler, plugins, limits, and whether processes reach each other.

    With a run file also the room that it needs. Exit code 1 if something is broken.
    """
    config = load_run(run, overrides or ()) if run else None
    with meeting("cpu") as on_cpu:  # they start while the rest is looked at
        checks = [*versions(), *torch_checks(), *cpu(), *compiler(), *plugins(), *limits(config)]
        checks += backends(on_cpu())
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        told = [check.found + (f"\n-> {check.advice}" if check.advice else "") for check in checks]
        rows = [[check.status, check.name, text] for check, text in zip(checks, told, strict=True)]
        print_table(["", "what", "found"], rows)
    if any(check.status == "broken" for check in checks):
        raise typer.Exit(1)


def versions() -> Iterator[Check]:
    yield Check("python", f"{platform.python_version()} on {platform.platform(terse=True)}")
    for name in ("lom-core", "numpy", "pydantic"):
        try:
            yield Check(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            advice = f"`pip install {name}`"
            yield Check(name, "not installed as a distribution", "warning", advice)


def torch_checks() -> Iterator[Check]:
    """Version and build of torch, and the devices that it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        advice = "`pip install torch`, for CUDA with the index URL of your CUDA version"
        yield Check("torch", f"cannot be imported: {error}", "broken", advice)
        return
    cuda, hip = torch.version.cuda, getattr(torch.version, "hip", None)
    build = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPU"
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if driver and not cuda:
        advice = "this machine has an NVIDIA driver: install a CUDA build of torch"
        yield Check("torch", f"{torch.__version__}, {build} build", "warning", advice)
    else:
        yield Check("torch", f"{torch.__version__}, {build} build")
    yield from _devices(torch, build)


def _devices(torch: Any, build: str) -> Iterator[Check]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(count):
        found = torch.cuda.get_device_properties(i)
        major, minor = found.major, found.minor
        told = f"{found.name}, {size(found.total_memory)}, compute capability {major}.{minor}"
        yield Check(f"device cuda:{i}", told)
    if torch.backends.mps.is_available():
        yield Check("device mps", "Apple GPU, memory shared with the CPU")
    if not count and build != "CPU":
        advice = "check the driver (`nvidia-smi` or `rocm-smi`) and CUDA_VISIBLE_DEVICES"
        yield Check("device", f"no GPU although torch is a {build} build", "warning", advice)
    elif not count:
        yield Check("device", "cpu")


def cpu() -> Iterator[Check]:
    """Cores, memory and instructions for bfloat16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = _memory()
    yield Check("cpu", f"{cores} cores" + (f", {memory}" if memory else ""))
    flags = _cpu_flags()
    if flags is None:
        yield Check("bfloat16 on CPU", "unknown: no /proc/cpuinfo here")
        return
    found = sorted(flags & {"amx_bf16", "avx512_bf16", "avx_ne_convert", "bf16", "svebf16"})
    if found:
        yield Check("bfloat16 on CPU", f"in hardware: {', '.join(found)}")
    else:
        advice = "on the CPU, train with dtype=float32: bfloat16 is emulated here and slower"
        yield Check("bfloat16 on CPU", "no AMX and no AVX512-BF16", "warning", advice)


def _cpu_flags() -> set[str] | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):  # x86 and ARM
            return set(value.split())
    return set()


def _memory() -> str:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return ""
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    if "MemTotal" not in kib or "MemAvailable" not in kib:
        return ""
    total, free = kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    return f"{size(total)} memory, {size(free)} available"


def compiler() -> Iterator[Check]:
    """What torch.compile needs: a C++ compiler on CPU, Triton on a GPU."""
    asked = os.environ.get("CXX")
    names = [asked] if asked else ["g++", "clang++", "c++", "cl"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found:
        yield Check("C++ compiler", found)
    else:
        told = f"none ({', '.join(names)})"
        advice = "compile=true needs one on the CPU: install g++ or set CXX; compile=false does not"
        yield Check("C++ compiler", told, "warning", advice)
    if util.find_spec("triton"):
        yield Check("triton", metadata.version("triton"))


def plugins() -> Iterator[Check]:
    """Each plugin: what it provides, or why it does not load."""
    for plugin in installed_plugins():
        name = f"plugin {plugin.distribution}"
        if plugin.error:
            advice = (
                f"`pip install -U {plugin.distribution}`, uninstall it, or name the plugins to "
                "load in LOM_PLUGINS"
            )
            yield Check(name, f"{plugin.version} does not load: {plugin.error}", "broken", advice)
        else:
            yield Check(name, f"{plugin.version}, {len(plugin.kinds)} kinds")


def limits(config: RunConfig | None = None) -> Iterator[Check]:
    """Open files, shared memory and disk, for a run or for any."""
    workers = config.data.num_workers if config else 0
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = FILES + FILES_OF_WORKER * workers
        low = 0 <= soft < needed  # RLIM_INFINITY is negative on some systems
        advice = f"`ulimit -n {hard if hard > 0 else 65536}` before training" if low else ""
        told = f"at most {soft}" + (f", for num_workers={workers}" if config else "")
        yield Check("open files", told, "warning" if low else "ok", advice)
    shared = Path("/dev/shm")
    if shared.is_dir():
        advice = "loader workers and NCCL need it: start the container with --shm-size=8g"
        yield _space("shared memory", shared, SHARED, advice)
    advice = "checkpoints need room: set out_dir to another disk"
    if config is None:
        yield _space("disk here", Path.cwd(), DISK, advice)
        return
    out_dir = Path(config.system.out_dir)
    folder = next(p for p in (out_dir, *out_dir.absolute().parents) if p.is_dir())
    from lom_core.memory import fake_model, sizes_of

    sizes = sizes_of(fake_model(config), config)
    one, plan = sizes.weights + sizes.moments, config.train
    saved = [] if plan.epochs else [n for n in range(1, plan.max_iters + 1) if plan.saves(n)]
    kept = len(plan.staying(saved)) + 3  # the latest and the best; one that is being written
    told = f"up to {kept} checkpoints of {size(one)}"
    yield _space(f"disk at {out_dir}", folder, one * kept, advice, told)


def _space(name: str, folder: Path, least: int, advice: str, told: str = "") -> Check:
    usage = shutil.disk_usage(folder)
    found = f"{size(usage.free)} free of {size(usage.total)}" + (f"; {told}" if told else "")
    return Check(name, found, "warning", advice) if usage.free < least else Check(name, found)


def backends(on_cpu: str) -> Iterator[Check]:
    """Two processes add up and broadcast: by gloo on the CPU, by NCCL where two GPUs are.

    Args:
        on_cpu: what went wrong on the CPU, if anything.
    """
    yield _met("2 processes, gloo", on_cpu, "GLOO_SOCKET_IFNAME=lo, or your network interface")
    try:
        import torch
    except (ImportError, OSError):  # told above
        return
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        advice = "NCCL_DEBUG=INFO to see why, NCCL_P2P_DISABLE=1 where GPUs cannot share memory"
        with meeting("cuda") as on_cuda:
            yield _met("2 processes, nccl", on_cuda(), advice)


def _met(name: str, problem: str, settings: str) -> Check:
    if not problem:
        return Check(name, "all_reduce and broadcast work")
    advice = f"training on one device works; for more, try the environment with {settings}"
    return Check(name, problem, "warning", advice)
