"""Repeatable randomness that is computed per index: no list is ever shuffled or stored."""

from __future__ import annotations

import numpy as np

from lom_core.roles import Array

_MASK = (1 << 64) - 1


def splitmix(x: Array) -> Array:
    """uint64 -> uint64, a bijection that scatters well (SplitMix64; Steele, Lea, Flood 2014)."""
    x = np.asarray(x, dtype=np.uint64)
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def mix(*numbers: int) -> int:
    """One 64-bit seed from several numbers; the same as SplitMix64 applied in turn."""
    state = 0
    for number in numbers:
        state = _scatter(state ^ (number & _MASK))
    return state


def _scatter(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Permutation:
    """A seeded pseudo-random order of 0 .. n-1, one index at a time, in O(1) memory.

    A four-round Feistel network permutes the next even power of two; an index that lands outside
    n walks on until it lands inside (cycle walking; Black and Rogaway 2002), at most a few steps.
    """

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.half = max(1, (max(n - 1, 1).bit_length() + 1) // 2)
        self.keys = [mix(seed, round_) for round_ in range(4)]

    def __len__(self) -> int:
        return self.n

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.n:
            raise IndexError(f"{index} is outside a permutation of {self.n}")
        while True:
            index = self._rounds(index)
            if index < self.n:
                return index

    def _rounds(self, x: int) -> int:
        low = (1 << self.half) - 1
        left, right = x >> self.half, x & low
        for key in self.keys:
            left, right = right, left ^ (_scatter(right ^ key) & low)
        return (left << self.half) | right
