"""A model small enough that a check can train it in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Tokens


def build(
    modalities: Sequence[ModalityConfig],
    samples: Sequence[Mapping[str, Tokens]],
    n_fit: int | None = None,
) -> tuple[Any, Any]:
    """A small model whose scales are fitted on the first ``n_fit`` samples, and a row for each."""
    import torch

    from lom_core.batch import Observation, pack_row
    from lom_core.config import ModelConfig
    from lom_core.model import Lom

    torch.manual_seed(0)
    model = Lom(ModalityRegistry(modalities), ModelConfig(n_layer=1, n_head=2, n_embd=32))
    names = [modality.name for modality in modalities]
    model.fit_scales({name: [sample[name] for sample in samples[:n_fit]] for name in names})
    observations = [Observation(str(i), sample, seed=i) for i, sample in enumerate(samples)]
    return model, [pack_row([o], o.n_slots, names) for o in observations]


def prepare(model: Any, rows: Any, objective: Any = "next_token") -> Any:
    from lom_core.roles import Objective

    return Objective.model_validate(objective).prepare(rows, model.layouts)


def fit(model: Any, rows: Any, name: str, objective: Any, steps: int, lr: float) -> None:
    """Train on one modality's mean loss, 32 rows at a time in turn."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    batches = [prepare(model, rows[i : i + 32], objective) for i in range(0, len(rows), 32)]
    for step in range(steps):
        batch = batches[step % len(batches)]
        loss = model(batch)[name] / max(batch.counts[name], 1e-12)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
