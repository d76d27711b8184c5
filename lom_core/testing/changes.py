"""Raw values with one array changed, and whether their tokens are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from lom_core.roles import Array, Tokens


def changed(value: Any, change: Callable[[Array], Array]) -> Iterator[Any]:
    """Copies of a raw value, each with another of its float arrays changed.

    Arrays are looked for in mappings, dataclasses, tuples and lists; a value without any has no
    copies.
    """
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "f" and value.size > 1:
            yield change(value.copy())
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from ({**value, key: other} for other in changed(part, change))
    elif is_dataclass(value) and not isinstance(value, type):
        for name in (field.name for field in fields(value) if field.init):
            for other in changed(getattr(value, name), change):
                yield replace(value, **{name: other})
    elif isinstance(value, (tuple, list)):
        make = getattr(value, "_make", type(value))  # of a named tuple
        for i, part in enumerate(value):
            for other in changed(part, change):
                yield make([*value[:i], other, *value[i + 1 :]])


def one_nan(array: Array) -> Array:
    array.flat[array.size // 2] = np.nan
    return array


def all_nan(array: Array) -> Array:
    return np.full_like(array, np.nan)


def n_observed(tokens: Tokens) -> int:
    return int(np.broadcast_to(tokens.observed, table(tokens).shape).sum())


def table(tokens: Tokens) -> Array:
    """Content (n, w) of discrete and of continuous tokens."""
    return tokens.content.reshape(len(tokens), -1)


def same(one: Tokens, two: Tokens) -> bool:
    """The same positions, and the same content, but for rounding, where both were observed."""
    if len(one) != len(two) or not np.array_equal(one.positions, two.positions):
        return False
    both = one.observed & two.observed
    first, second = (np.where(both, table(t), 0).astype(np.float64) for t in (one, two))
    return bool(np.abs(first - second).max() <= 1e-5 * np.abs(first).max())
