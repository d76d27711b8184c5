"""What of an observation goes into a row: which modalities, and which window of each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lom_core.roles import Tokens
from lom_core.seeds import mix


def leave_out(
    tokens: Mapping[str, Tokens], dropout: Mapping[str, float], seed: int
) -> dict[str, Tokens]:
    """The modalities that a draw by the sample's seed keeps, at least one."""
    rng = np.random.default_rng(mix(seed, 0xD09))
    draws = rng.random(len(tokens))
    spared = int(rng.integers(len(tokens)))
    kept = [draw >= dropout.get(n, 0) for n, draw in zip(tokens, draws, strict=True)]
    if not any(kept):
        kept[spared] = True
    return {n: t for (n, t), keep in zip(tokens.items(), kept, strict=True) if keep}


def crop(tokens: Mapping[str, Tokens], room: int, seed: int | None) -> dict[str, Tokens]:
    """A window of each modality, all in proportion, of at most ``room`` tokens together.

    Each keeps at least one token, such as a label, as long as there is room for all. The windows
    start at a seeded place, or at the beginning without a seed.
    """
    total = sum(len(t) for t in tokens.values())
    lengths = {name: max(1, len(t) * room // total) for name, t in tokens.items()}
    while sum(lengths.values()) > room:
        lengths[max(lengths, key=lambda name: lengths[name])] -= 1
    rng = np.random.default_rng(seed)
    kept = {}
    for name, t in tokens.items():
        n = lengths[name]
        start = 0 if seed is None else int(rng.integers(0, len(t) - n + 1))
        if n:
            kept[name] = t[start : start + n]
    return kept
