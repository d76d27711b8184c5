"""How fast notes become tokens: this plugin's exponential tokeniser against MidiTok's REMI.

    python plugins/lom-midi/benchmarks/encode.py

Both get what they take as parsed music, of the same files, in turn within one run: notes here, a
symusic score there. Above 1 ours is faster.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import miditok
from lom_midi import ExponentialTime
from lom_midi.datasets import sample_paths
from lom_midi.notes import on_the_piano
from lom_midi.reading import read_midi
from lom_midi.wrapped import as_score

ROUNDS = 7


def timed(encode: Callable[[Any], Any], music: list[Any]) -> float:
    begin = time.perf_counter()
    for piece in music:
        encode(piece)
    return time.perf_counter() - begin


if __name__ == "__main__":
    paths = [*sample_paths("train"), *sample_paths("val")]
    notes = [on_the_piano(read_midi(Path(path).read_bytes()))[0] for path in paths]
    scores = [as_score(piece) for piece in notes]
    ours, theirs = ExponentialTime().build().encode, miditok.REMI().encode
    pairs = [(timed(ours, notes), timed(theirs, scores)) for _ in range(ROUNDS + 1)][1:]
    mine, other = (statistics.median(times) for times in zip(*pairs, strict=True))
    n_notes = sum(len(piece["pitch"]) for piece in notes)
    versions = ", ".join(f"{name} {version(name)}" for name in ("symusic", "miditok"))
    print(f"{len(paths)} files, {n_notes} notes, median of {ROUNDS} rounds")
    print("tokeniser            notes/s")
    print(f"exponential     {n_notes / mine:12,.0f}")
    print(f"MidiTok REMI    {n_notes / other:12,.0f}")
    print(f"ratio           {other / mine:12.1f}")
