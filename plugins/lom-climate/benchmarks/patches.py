"""How fast a global field becomes patches, beside copying the same bytes.

    python plugins/lom-climate/benchmarks/patches.py

Both in turn within one run: encoding (float32 fields of 4 channels, 5 % missing), and numpy's copy
of as many bytes as the tokens hold in content and weights.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from lom_climate import GridPatches

ROUNDS, CHANNELS = 9, ("t", "u", "v", "q")


def timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (2, len(CHANNELS), 180, 360)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    value = {
        "values": values,
        "lat": 89.5 - np.arange(180),
        "lon": 0.5 + np.arange(360),
        "time": np.array([0.0, 6.0]),
    }
    encoder: Any = GridPatches(patch_size=4, channels=CHANNELS).build()
    tokens = encoder.encode(value)
    memory = np.concatenate([tokens.content, tokens.weights])
    pairs = [(timed(lambda: encoder.encode(value)), timed(memory.copy)) for _ in range(ROUNDS + 1)][
        1:
    ]
    encode, copy = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(one / two for one, two in pairs)
    n, w = tokens.content.shape
    print(f"{n} patches of {w} values: {n / encode:,.0f}/s")
    print(f"copying their content and weights: {n / copy:,.0f}/s; encode takes {ratio:.1f} x")
