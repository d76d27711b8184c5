"""The core's own tokenisers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lom_core.errors import BadRecord
from lom_core.modality import ModalityConfig
from lom_core.roles import Array, Tokeniser, Tokens


class Ready(Tokeniser, kind="ready"):
    """Values that are tokens already: an array, or a mapping content / positions / weights.

    Args:
        values: values in a token. Ignored when ``vocab`` is set.
        coordinates: coordinates in a position. Positions left out are 0, 1, 2 ...
        vocab: number of different tokens when discrete, else 0.
    """

    values: int = Field(default=1, ge=0)
    coordinates: int = Field(default=1, ge=1)
    vocab: int = Field(default=0, ge=0)

    @property
    def vocab_size(self) -> int:
        return self.vocab

    @property
    def width(self) -> int:
        return 1 if self.vocab else self.values

    @property
    def pos_width(self) -> int:
        return self.coordinates

    def encode(self, value: Any) -> Tokens:
        """Tokens from Tokens, an array (n, w) or (n,), or a mapping of arrays.

        Without weights, what is NaN or masked was not observed.

        Errors:
            BadRecord: no content, no numbers, or other numbers of rows.
        """
        if isinstance(value, Tokens):
            return value
        parts = value if isinstance(value, Mapping) else {"content": value}
        if parts.get("content") is None:
            raise BadRecord("no content", detail=f"it has {', '.join(map(str, parts))[:100]}")
        content = numbers(parts["content"], "content")
        n = len(content)
        positions, weights = (
            None if parts.get(what) is None else per_token(parts[what], what, n)
            for what in ("positions", "weights")
        )
        if positions is None:
            positions = np.arange(n, dtype=np.float32)[:, None]
        observed = ~np.ma.getmaskarray(content)
        content = np.ma.getdata(content)
        if content.dtype.kind == "f":
            observed &= np.isfinite(content)
        if weights is None and not observed.all():
            weights = per_token(observed, "weights", n)
        if not self.vocab and content.ndim == 1 and self.values == 1:
            content = content[:, None]
        return Tokens(content, positions, weights)

    def decode(self, tokens: Tokens) -> dict[str, Array]:
        """The arrays back: exact."""
        parts = {"content": tokens.content, "positions": tokens.positions}
        return parts if tokens.weights is None else {**parts, "weights": tokens.weights}


def numbers(values: Any, what: str) -> Array:
    """(n, ...) as stored, its mask kept; BadRecord for anything else."""
    try:
        found: Array = np.ma.asanyarray(values)
    except (TypeError, ValueError) as error:
        raise BadRecord(f"{what}: no array of numbers", detail=str(error)[:100]) from None
    if found.ndim == 0 or found.dtype.kind not in "biuf":
        told = f"{found.dtype} of shape {found.shape}"
        raise BadRecord(f"{what}: no array of numbers", detail=told)
    return found


def per_token(values: Any, what: str, n: int) -> Array:
    """(n, k) float32 of (n,) or (n, ...), NaN where masked; BadRecord for another length."""
    found = numbers(values, what)
    if len(found) != n:
        raise BadRecord(f"{what} of another length", detail=f"{len(found)} for {n} tokens")
    with np.errstate(over="ignore"):
        flat = np.ma.filled(found.astype(np.float32), np.nan)
    return np.asarray(flat.reshape(n, int(np.prod(found.shape[1:]))))


class OneNumber(Tokeniser, kind="one_number"):
    """A number as one token: a redshift, a mass, a station's altitude.

    The value is a number, or ``{"value": ..., "error": ...}``. A single error cannot be a weight
    relative to others: it is not used. Decoding is exact in float32.
    """

    @property
    def fixed_positions(self) -> Array:
        return np.zeros((1, 1), np.float32)

    def encode(self, value: Any) -> Tokens:
        parts = value if isinstance(value, Mapping) else {"value": value}
        try:
            number = float(np.asarray(parts["value"]).item())
        except (KeyError, TypeError, ValueError):
            raise BadRecord("no number", detail=str(value)[:60]) from None
        if not np.isfinite(number):
            raise BadRecord("a number that is not finite (leave out what was not measured)")
        return Tokens(np.array([[number]], np.float32), np.zeros((1, 1), np.float32))

    def decode(self, tokens: Tokens) -> float:
        return float(tokens.content[0, 0])


class OneLabel(Tokeniser, kind="one_label"):
    """One of a fixed list of labels, as one token.

    Args:
        labels: in the order of their numbers. Those are taken too, unless a label is a whole
            number itself: among labels 1, 2, 3 the number 2 is the second, not the third.
    """

    labels: tuple[str, ...] = Field(min_length=2)

    @property
    def vocab_size(self) -> int:
        return len(self.labels)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.labels

    @property
    def fixed_positions(self) -> Array:
        return np.zeros((1, 1), np.float32)

    @property
    def _are_numbers(self) -> bool:
        return any(label.strip().lstrip("+-").isdecimal() for label in self.labels)

    def encode(self, value: Any) -> Tokens:
        value = value.item() if isinstance(value, np.generic) else value
        if str(value) in self.labels:
            number = self.labels.index(str(value))
        elif isinstance(value, int) and 0 <= value < len(self.labels) and not self._are_numbers:
            number = value
        else:
            told = f"{value!r}; possible: {', '.join(self.labels)}"
            raise BadRecord("an unknown label", detail=told[:200])
        return Tokens(np.array([number], np.int64), np.zeros((1, 1), np.float32))

    def decode(self, tokens: Tokens) -> str:
        return self.labels[int(tokens.content[0])]


class Scalar(ModalityConfig, kind="scalar"):
    """A number an object, answered as a Gaussian: labels are modalities of one token."""

    def defaults(self) -> dict[str, Any]:
        position = {"kind": "index", "max_positions": 1}
        return {"tokeniser": "one_number", "position": position, "head": "gaussian"}

    def synth(self, rng: np.random.Generator) -> tuple[float, float]:
        number = float(np.float32(rng.normal()))
        return number, number


class Category(ModalityConfig, kind="category"):
    """A class an object: ``{kind: category, labels: [spiral, elliptical]}``."""

    example: ClassVar[dict[str, Any]] = {"labels": ("spiral", "elliptical", "irregular")}

    labels: tuple[str, ...] = Field(min_length=2)

    def defaults(self) -> dict[str, Any]:
        return {
            "tokeniser": {"kind": "one_label", "labels": self.labels},
            "scale": "identity",
            "position": {"kind": "index", "max_positions": 1},
            "head": "categorical",
        }

    def synth(self, rng: np.random.Generator) -> tuple[str, float]:
        number = int(rng.integers(len(self.labels)))
        return self.labels[number], number
