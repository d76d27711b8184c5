"""Prediction: what a model answers about one record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lom_core.answers import joined
from lom_core.roles import Array, Encoder, Tokens


@dataclass(frozen=True)
class Prediction:
    """What a model answers about one record, in physical units.

    Args:
        id, modality: of what.
        tokens: the point answer, with its positions.
        sampled: answers drawn from what it holds possible.
        bounds: level -> the quantile there.
        probabilities: (n, vocab) of each token when discrete.
        before: tokens of the same modality that were continued; decoded with what follows.
    """

    id: str
    modality: str
    encoder: Encoder = field(repr=False)
    tokens: Tokens | None = None
    sampled: list[Tokens] = field(default_factory=list)
    bounds: dict[float, Tokens] = field(default_factory=dict)
    probabilities: Array | None = None
    before: Tokens | None = None

    @property
    def point(self) -> Any:
        """The decoded point answer: an image, a spectrum ... as its data sets yield it."""
        return None if self.tokens is None else self._decoded(self.tokens)

    @property
    def samples(self) -> list[Any]:
        return [self._decoded(tokens) for tokens in self.sampled]

    @property
    def quantiles(self) -> dict[float, Any]:
        return {level: self._decoded(tokens) for level, tokens in self.bounds.items()}

    @property
    def chances(self) -> dict[Any, float]:
        """Label -> probability, of an answer that is one token; else nothing."""
        if self.probabilities is None or self.tokens is None or len(self.tokens) != 1:
            return {}
        at = self.tokens.positions
        labels = [
            self.encoder.decode(Tokens(np.array([k]), at))
            for k in range(self.probabilities.shape[1])
        ]
        hashable = [label if isinstance(label, str) else k for k, label in enumerate(labels)]
        return dict(zip(hashable, self.probabilities[0].tolist(), strict=True))

    def values(self) -> dict[str, Any]:
        """All of these by a name for files: ``point``, ``q0.05``, ``sample-0`` ..."""
        named = {} if self.tokens is None else {"point": self.point}
        named |= {f"q{level:g}": value for level, value in self.quantiles.items()}
        return named | {f"sample-{i}": value for i, value in enumerate(self.samples)}

    def _decoded(self, tokens: Tokens) -> Any:
        return self.encoder.decode(joined(self.before, tokens))
