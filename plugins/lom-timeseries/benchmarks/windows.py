"""Light-curve windows a second, from memory, beside copying them; and records of parquet shards.

    python plugins/lom-timeseries/benchmarks/windows.py

`encode` turns windows of 200 epochs (time, value, error, band in float64) into tokens; its limit is
copying those columns. Medians of interleaved rounds, so that ratios hold on a busy machine too.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lom_timeseries import LightCurve, LightCurveFiles
from lom_timeseries.prepare import prepare_folds

from lom_core import ModalityRegistry

EPOCHS, WINDOWS, ROUNDS, CURVES = 200, 500, 9, 4000
BANDS = ("g", "r")


def curves(n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "time": 59000 + np.sort(rng.uniform(0, 1000, EPOCHS)),
            "value": 20 + rng.normal(size=EPOCHS),
            "error": rng.uniform(0.01, 0.1, EPOCHS),
            "band": rng.choice(np.array(BANDS), EPOCHS),
        }
        for _ in range(n)
    ]


def seconds(step: Callable[[], object]) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def medians(steps: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each, run in turn; the first round only warms up."""
    rounds = [{name: seconds(step) for name, step in steps.items()} for _ in range(ROUNDS + 1)]
    return {name: statistics.median(r[name] for r in rounds[1:]) for name in steps}


def encoding() -> None:
    made = curves(WINDOWS)
    one_band = [{k: v for k, v in c.items() if k != "band"} for c in made]
    steps: dict[str, Callable[[], object]] = {
        "copy": lambda: [{k: v.copy() for k, v in c.items()} for c in made]
    }
    for name, config, values in (
        ("one band", LightCurve(), one_band),
        ("two bands", LightCurve(bands=BANDS), made),
        ("two bands, robust", LightCurve(bands=BANDS, normalise="robust"), made),
    ):
        encoder = config.tokeniser.build()
        steps[name] = lambda e=encoder, v=values: [e.encode(c) for c in v]  # type: ignore[misc]
    for name, took in (found := medians(steps)).items():
        times = took / found["copy"]
        print(f"{name:18} {WINDOWS / took:10,.0f} windows/s  {times:6.1f} x the time of copying")


def shards() -> None:
    registry = ModalityRegistry([LightCurve(bands=BANDS)])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "folds"
        records = ({"light_curves": c, "id": f"o{i}"} for i, c in enumerate(curves(CURVES)))
        took = seconds(lambda: prepare_folds(records, out, 1, (0.8, 0.1, 0.1)))
        print(f"prepare            {CURVES / took:10,.0f} curves/s")
        config = LightCurveFiles(paths=str(out / "fold_0" / "train"), object_column="id")
        source = config.build(registry)
        at = np.random.default_rng(0).permutation(len(source))[:400].tolist()
        steps: dict[str, Callable[[], object]] = {
            "in order": lambda: [source[i] for i in range(400)],
            "in random order": lambda: [source[i] for i in at],
        }
        for name, took in medians(steps).items():
            print(f"{name:18} {400 / took:10,.0f} records/s from {len(source)} in parquet shards")


if __name__ == "__main__":
    encoding()
    shards()
