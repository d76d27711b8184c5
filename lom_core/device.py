"""Where a run computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from lom_core.config import SystemConfig
from lom_core.errors import ConfigError


def pick_device(system: SystemConfig, local_rank: int = 0) -> torch.device:
    """The run's device, the ``local_rank``-th of this machine; ConfigError if there is none."""
    name = system.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # with its number: torch.cuda.set_device takes no other
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name} cannot be used here: {str(error).splitlines()[0]}; try device=cpu"
        ) from None
    return device


def autocast(system: SystemConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The run's precision of matrix products."""
    if system.dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=products_dtype(system))


def products_dtype(system: SystemConfig) -> torch.dtype:
    """What matrix products are computed in."""
    dtype: torch.dtype = getattr(torch, system.dtype.removeprefix("pure_"))
    return dtype
