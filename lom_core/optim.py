"""The optimiser, its schedule, and the update at the end of a step."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from lom_core.config import OptimizerConfig
from lom_core.errors import ConfigError, nearest
from lom_core.model import Lom
from lom_core.tensors import is_sharded
from lom_core.transformer import is_adapter


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


def freeze(model: Lom, config: OptimizerConfig) -> None:
    """What ``freeze`` names does not learn.

    Errors:
        ConfigError: a pattern that no parameter has, or nothing is left to learn.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in (*config.freeze, *config.rates):
        if not any(matches(name, pattern) for name in names):
            raise ConfigError(
                f"no parameter is named '{pattern}'{nearest(pattern, _prefixes(names))}; possible "
                f"are whole parts such as {', '.join(_tops(names))}, or patterns with *"
            )
    adapted = model.config.lora_rank > 0  # then the adapters learn, and the body does not
    for name, parameter in model.named_parameters():
        still = adapted and name.startswith("body.") and not is_adapter(name)
        if still or any(matches(name, pattern) for pattern in config.freeze):
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise ConfigError(f"freeze={list(config.freeze)} leaves nothing to learn")


def matches(name: str, pattern: str) -> bool:
    """``body.blocks.0`` names all that is below it; ``parts.*.head`` all the heads."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _prefixes(names: Iterable[str]) -> set[str]:
    parts = [name.split(".") for name in names]
    return {".".join(part[:n]) for part in parts for n in range(1, len(part) + 1)}


def _tops(names: Iterable[str]) -> list[str]:
    return sorted({".".join(name.split(".")[:2]) for name in names})


def make_optimizers(model: Lom, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """AdamW, and with ``muon`` a Muon for the body's matrices beside it.

    Weight decay is on matrices, none on biases, norms and single vectors. Each group has a
    ``factor`` of the learning rate: that of its depth (``layer_decay``) and part (``rates``).

    Errors:
        ConfigError: Muon's matrices have fewer rows than there are processes to share them.
    """
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            matrix = parameter.ndim >= 2
            muon = config.algorithm == "muon" and parameter.ndim == 2 and name.startswith("body.")
            if muon and is_sharded(parameter) and len(parameter) < parameter.device_mesh.size():
                raise ConfigError(
                    f"muon cannot share the {len(parameter)} rows of {name} between "
                    f"{parameter.device_mesh.size()} processes; try strategy=ddp, algorithm=adamw "
                    "or fewer processes"
                )
            key = (muon, matrix, _factor(name, model.config.n_layer, config))
            groups.setdefault(key, []).append(parameter)

    def chosen(muon: bool) -> list[dict[str, Any]]:
        decay = config.weight_decay
        return [
            {"params": found, "weight_decay": decay if matrix else 0.0, "factor": factor}
            for (is_muon, matrix, factor), found in groups.items()
            if is_muon == muon
        ]

    made: list[torch.optim.Optimizer] = []
    if chosen(muon=False):
        betas = (config.beta1, config.beta2)
        made.append(
            torch.optim.AdamW(chosen(False), lr=config.learning_rate, betas=betas, fused=True)
        )
    if chosen(muon=True):  # updates as large as AdamW's, so that one learning rate suits both
        made.append(
            torch.optim.Muon(chosen(True), lr=config.learning_rate, adjust_lr_fn="match_rms_adamw")
        )
    return made


def _factor(name: str, n_layer: int, config: OptimizerConfig) -> float:
    """Of the learning rate: less towards the input (Clark et al. 2020), and by part."""
    block = re.match(r"body\.blocks\.(\d+)\.", name)
    top = name.startswith("body.norm") or ".head." in name
    depth = int(block[1]) + 1 if block else n_layer + 1 if top else 0
    factor = config.layer_decay ** (n_layer + 1 - depth)
    for pattern, value in config.rates.items():
        factor *= value if matches(name, pattern) else 1.0
    return factor


class Update:
    """Backward, clip, step. A step whose gradient is not finite changes nothing.

    In float16 the loss is scaled up, so that small gradients survive, by a factor that halves when
    gradients overflow (torch.amp.GradScaler); its state is part of a checkpoint.
    """

    def __init__(
        self,
        optimizers: Sequence[torch.optim.Optimizer],
        device: torch.device,
        dtype: str = "float32",
    ) -> None:
        self.optimizers = list(optimizers)
        self.learning = [p for o in optimizers for group in o.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    @property
    def rescales(self) -> bool:
        """In float16: may the scale still fall? It grows until gradients overflow, again and again
        in a long run; once it is below 1, overflows are not its fault."""
        return self.scaler.is_enabled() and self.scaler.get_scale() >= 1.0

    def apply(self, config: OptimizerConfig, rate: float) -> Tensor:
        """Clip by the norm of the whole gradient, update the weights, clear the gradients.

        Returns:
            The gradient's norm before clipping, on the device; the step was skipped if it is not
            finite.
        """
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.get_total_norm(_gradients(self.learning))
        if is_sharded(norm):
            norm = norm.full_tensor()
        excess = (norm.float() / (config.grad_clip or math.inf)).clamp(min=1.0)
        for optimizer in self.optimizers:
            fused = optimizer.defaults.get("fused")
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("factor", 1.0)
                if not fused:
                    torch._foreach_div_(_gradients(group["params"]), excess)
            if fused:  # the kernel divides as it reads: clipping takes no pass of its own
                optimizer.grad_scale = excess  # type: ignore[attr-defined]
            if fused and norm.device.type == "cuda":  # read on the device: nothing waits for it
                optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
                optimizer.step()
            elif math.isfinite(norm):
                optimizer.step()
        for parameter in self.learning:
            parameter.grad = None
        if self.scaler.is_enabled():
            self.scaler.update()
        return norm


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]
