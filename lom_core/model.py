"""Lom: the model. Content, position and question of each token in, an answer to each out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from lom_core.batch import Batch, Layout, Span
from lom_core.config import ModelConfig
from lom_core.heads import CategoricalHead, HeadModule
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Array, Tokens
from lom_core.scaling import ScaleModule
from lom_core.transformer import Transformer


class Parts(nn.Module):
    """All that the model learns about one modality.

    scale(content) -> model units; embed (what was measured), place (where), ask (the question:
    what is at this position?) -> d; head(h) -> the answer.
    """

    def __init__(self, config: ModalityConfig, n_embd: int) -> None:
        super().__init__()
        tokeniser = config.tokeniser
        width, vocab = tokeniser.width, tokeniser.vocab_size
        self.discrete = vocab > 0
        self.scale = cast(ScaleModule, config.scale.build(width, tokeniser.n_channels))
        self.embed = nn.Embedding(vocab, n_embd) if vocab else nn.Linear(width, n_embd)
        self.place = config.position.build(n_embd, tokeniser.pos_width)
        # A projection of its own: with place's, current and asked position would be one sum.
        self.ask = (
            config.position.build(n_embd, tokeniser.pos_width) if config.reveal_position else None
        )
        self.ask_vector = nn.Parameter(torch.randn(n_embd) * 0.02)
        self.head = cast(HeadModule, config.head.build(n_embd, width, vocab))

    def known(self, span: Span) -> Tensor:
        """(k, d): embed + place of the shown tokens. Values of weight 0 are neutral."""
        content, positions, weights = _of(span, span.shown)
        if self.discrete:
            observed = (weights[:, :1] > 0).float()
            embedded = self.embed(content) * observed
        else:
            embedded = self.embed(self._scaled(content, positions, weights))
        out: Tensor = embedded + self._at(self.place, positions)
        return out

    def question(self, span: Span) -> Tensor:
        """(a, d): this modality's vector + the asked positions."""
        questions = self.ask_vector.expand(len(span.asked), -1)
        if self.ask is None:
            return questions
        return questions + self._at(self.ask, span.positions[span.asked])

    def target(self, span: Span) -> tuple[Tensor, Tensor]:
        """The asked content in model units, (a, w) (or (a,) int64), and its weights."""
        content, positions, weights = _of(span, span.asked)
        return (content if self.discrete else self._scaled(content, positions, weights)), weights

    def losses(self, h: Tensor, span: Span) -> Tensor:
        """(a, w) the weighed losses of the answers in h (a, d); Batch.counts has what to divide
        their sum by."""
        target, weights = self.target(span)
        losses = self.head.loss(h, target)
        return losses * weights.expand_as(losses)

    def answer(self, h: Tensor, span: Span) -> Tensor:
        """The single best answers in h (a, d) in physical units: (a, w), or (a,) int64."""
        point = self.head.point(h)
        return point if self.discrete else self.scale.inverse(point, span.positions[span.asked])

    def fit(self, samples: list[Tokens]) -> None:
        """Fit what does not learn by gradients: the scale, or how often each token occurs."""
        content, positions, weights = stack(samples)
        if self.discrete:
            cast(CategoricalHead, self.head).fit(content[weights[:, 0] > 0])
            self.scale.fitted.fill_(True)
        else:
            self.scale.fit(content, weights, positions)

    @property
    def seen(self) -> bool:
        """Was there anything of this modality in the training data?"""
        frequency = getattr(self.head, "log_frequency", None)
        counted = frequency is not None and bool((frequency != frequency[0]).any())
        return counted or bool(self.scale.fitted)

    def _scaled(self, content: Tensor, positions: Tensor, weights: Tensor) -> Tensor:
        # `where`, not a product: what is not observed may be anything, inf included.
        scaled = self.scale(content, positions)
        return torch.where(weights > 0, scaled, torch.zeros_like(scaled))

    @staticmethod
    def _at(place: nn.Module, positions: Tensor) -> Tensor:
        with torch.autocast(positions.device.type, enabled=False):
            out: Tensor = place(positions)
        return out


def _of(span: Span, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return span.content[tokens], span.positions[tokens], span.weights[tokens]


class Lom(nn.Module):
    """A large observation model over the modalities of a registry.

    The walk of one batch, which docs/walk.md tells from the start::

        4 batch  = objective.prepare(rows, layouts)
        5 x      = model.embed(batch)                       (n d)
        6 h      = model.body(x, batch.starts, ...)         (n d)
        7 losses = {m: parts[m].losses(h[ask_slots], span).sum()}
        8 loss   = sum(loss_weight * losses[m] / count[m])  train.py
    """

    def __init__(self, registry: ModalityRegistry, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.registry = registry
        self.parts = nn.ModuleDict({c.name: Parts(c, config.n_embd) for c in registry})
        self.bos = nn.Parameter(torch.randn(config.n_embd) * 0.02)
        self.dropout = nn.Dropout(config.dropout)
        self.body = Transformer(config)
        self._initialise()

    def _initialise(self) -> None:
        """Normal(0, 0.02) in the body, smaller where blocks add to x (Radford et al. 2019)."""
        for name, parameter in self.body.named_parameters():
            if parameter.ndim == 2:
                adds = name.endswith(("out.weight", "down.weight"))
                std = 0.02 / (2 * self.config.n_layer) ** 0.5 if adds else 0.02
                nn.init.normal_(parameter, std=0.0 if "lora_b" in name else std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    @property
    def device(self) -> torch.device:
        """Where it computes; weights may wait elsewhere."""
        first = self.part(next(iter(self.parts)))
        return first.scale.fitted.device

    def part(self, name: str) -> Parts:
        return cast(Parts, self.parts[name])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Each modality's summed loss; divide by ``batch.counts`` (over all batches and ranks)."""
        h = self.hidden(batch)
        return {
            name: self.part(name).losses(h[span.ask_slots], span).sum()
            for name, span in batch.spans.items()
        }

    def embed(self, batch: Batch) -> Tensor:
        """(n, d) float32: what each slot knows and what it is asked.

        Every modality's modules run, with no token too: then a gradient is zero, never None.
        """
        x = torch.zeros(batch.n_slots, self.config.n_embd, device=self.device)
        x = x.index_add(0, batch.bos, self.bos.expand(len(batch.bos), -1))
        for name, span in batch.spans.items():
            part = self.part(name)
            x = x.index_add(0, span.slots[span.shown], part.known(span).float())
            x = x.index_add(0, span.ask_slots, part.question(span).float())
        out: Tensor = self.dropout(x)
        return out

    def hidden(self, batch: Batch) -> Tensor:
        """(n, d): the body's output at every slot."""
        places = torch.arange(batch.n_slots) - batch.starts[:-1].long().repeat_interleave(
            batch.starts.diff().long()
        )
        x = self.embed(batch)
        x = x.to(self.body.dtype)
        h: Tensor = self.body(x, batch.starts, batch.given, places.to(x.device))
        return h

    @torch.no_grad()
    def assess(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Each modality's weighed losses (a, w), and its answers in physical units, out of one
        pass."""
        h = self.hidden(batch)
        return {
            name: (self.part(name).losses(at, span), self.part(name).answer(at, span))
            for name, span in batch.spans.items()
            for at in [h[span.ask_slots]]
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The answer to every question in physical units: (a, w) a modality, or (a,) int64."""
        h = self.hidden(batch)
        return {
            name: self.part(name).answer(h[span.ask_slots], span)
            for name, span in batch.spans.items()
        }

    def fit_scales(self, samples: Mapping[str, list[Tokens]]) -> None:
        """Fit each modality's statistics on sample tokens (in numpy, on the CPU)."""
        for name in self.registry.names():
            if samples.get(name):
                self.part(name).fit(samples[name])

    @property
    def layouts(self) -> dict[str, Layout]:
        return layouts(self.registry)

    def n_parameters(self) -> dict[str, int]:
        """Parameters of the body and of each modality's parts."""
        sizes = {f"{name} parts": self.part(name) for name in self.registry.names()}
        modules: dict[str, nn.Module] = {"body": self.body, **sizes}
        return {k: sum(p.numel() for p in m.parameters()) for k, m in modules.items()}


def layouts(registry: ModalityRegistry) -> dict[str, Layout]:
    """What ``pack`` needs to know of each modality."""
    return {
        c.name: Layout(c.tokeniser.width, c.tokeniser.pos_width, c.tokeniser.vocab_size > 0)
        for c in registry
    }


def stack(samples: list[Tokens]) -> tuple[Array, Array, Array]:
    """Content (n, w) or (n,), positions (n, p) and weights (n, w) of several samples."""
    content = np.concatenate([t.content for t in samples])
    positions = np.concatenate([t.positions for t in samples])
    ones = [np.ones((len(t), 1), np.float32) if t.weights is None else t.weights for t in samples]
    weights = np.concatenate(
        [
            np.broadcast_to(w, t.content.reshape(len(t), -1).shape)
            for w, t in zip(ones, samples, strict=True)
        ]
    )
    return content, positions, weights
