"""The optimiser, its schedule, and the update at the end of a step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lom_core.config import OptimizerConfig
from lom_core.model import Lom


def learning_rate(step: int, config: OptimizerConfig, max_iters: int) -> float:
    """Linear warm-up to ``learning_rate``, then the schedule down to ``min_lr``."""
    peak, warm = config.learning_rate, config.warmup_iters
    if step < warm:
        return peak * (step + 1) / (warm + 1)
    floor = peak / 10 if config.min_lr is None else config.min_lr
    end = config.lr_decay_iters or max_iters
    done = min(1.0, (step - warm) / max(1, end - warm))
    match config.schedule if config.decay_lr else "constant":
        case "cosine":  # Loshchilov and Hutter 2017
            share = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            share = 1 - done
        case "wsd":  # warm-up, stable, decay (Hu et al. 2024)
            share = min(1.0, (1 - done) / config.decay_fraction)
        case "noam":  # the inverse square root of Vaswani et al. 2017
            return max(floor, peak * math.sqrt(max(warm, 1) / max(step + 1, 1)))
        case _:
            return peak
    return floor + (peak - floor) * share


def make_optimizer(model: Lom, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Fused AdamW; weight decay on matrices, none on biases, norms and single vectors."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True
    )


class Update:
    """Backward, clip, step. A step whose gradient is not finite changes nothing.

    In float16 the loss is scaled up, so that small gradients survive, by a factor that halves when
    gradients overflow (torch.amp.GradScaler); its state is part of a checkpoint.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, device: torch.device, dtype: str = "float32"
    ) -> None:
        self.optimizer = optimizer
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def apply(self, model: Lom, config: OptimizerConfig, rate: float) -> Tensor:
        """Update the weights and clear the gradients.

        Returns:
            The gradient's norm before clipping, on the device; the step was skipped if it is not
            finite.
        """
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.scaler.is_enabled():
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self.optimizer.defaults.get("fused"):
            # The fused kernel reads it on the device: nothing waits for it.
            self.optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        elif bool(norm.isfinite()):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm
