"""Do two processes of this machine reach each other, as those of a training run must?

``meeting`` starts two as ``torchrun`` would; each is this module run as a program: it joins the
world as training does and sends tensors around.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

SIZE = 2
SECONDS = 60.0  # after which they are ended
SILENCE = f"no answer within {SECONDS:g} s"


@contextmanager
def meeting(device: str) -> Iterator[Callable[[], str]]:
    """Two processes on a device, which run until the context ends.

    Args:
        device: ``cpu`` (gloo) or ``cuda`` (NCCL; needs two devices).

    Yields:
        Waits for them; what went wrong, in a line, or nothing if they met.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(SIZE)}
    until = time.monotonic() + SECONDS
    with ExitStack() as stack:
        running = []
        for rank in range(SIZE):
            said = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [sys.executable, "-m", "lom_core.cli.meet", device],
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)  # first
            running.append((process, said))
        yield lambda: _problem([_ended(process, said, until) for process, said in running])


def _problem(told: Sequence[str]) -> str:
    """The most telling one: one that fails makes the other wait in silence."""
    return min((problem for problem in told if problem), key=lambda p: p == SILENCE, default="")


def _ended(process: subprocess.Popen[bytes], said: IO[bytes], until: float) -> str:
    try:
        code = process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return SILENCE
    if code == 0:
        return ""
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines()]
    last = next((line for line in reversed(lines) if line), "without a word")
    return f"a process ended with {code}: {last[:300]}"


def meet(device: str) -> None:
    """Add up and broadcast a tensor with the other process.

    Errors:
        RuntimeError: the processes do not reach each other, or what arrives is wrong.
    """
    import torch
    import torch.distributed as dist

    from lom_core.config import SystemConfig
    from lom_core.distributed import joined

    with joined(SystemConfig(device=device)) as (world, place):
        total = torch.full((1000,), float(world.rank + 1), device=place)
        dist.all_reduce(total)
        sent = torch.full((1000,), float(world.rank), device=place)
        dist.broadcast(sent, src=SIZE - 1)
        expected = SIZE * (SIZE + 1) / 2
        if not (bool((total == expected).all()) and bool((sent == SIZE - 1).all())):
            raise RuntimeError(
                f"sum {float(total[0])} instead of {expected}, {float(sent[0])} "
                f"instead of {SIZE - 1}: the devices cannot read each other's memory"
            )
        world.gather(None)


if __name__ == "__main__":
    meet(sys.argv[1])
