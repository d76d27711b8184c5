"""What share of held-out values lies inside 90% intervals, over many draws of two halves?

    python examples/redshift/coverage.py logs/coverage --data held --draws 32

Corrections are fitted on one half of the records and tested on the other: as ``lom calibrate``
does, each record counting as one, and beside it with each value counting as one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lom_core
from lom_core.calibrate import Scores, score
from lom_core.conformal import Correction
from lom_core.named import open_named
from lom_core.runfile import make_importable
from lom_core.tally import Tally

Array = NDArray[Any]


def halves(scores: Scores, level: float, draws: int) -> list[dict[str, float]]:
    """Shares inside on the tested half: by record, and of all values together."""
    row = scores.outside[scores.levels.index(level)][None]
    names, which, sizes = np.unique(scores.record, return_inverse=True, return_counts=True)
    found = []
    for seed in range(draws):
        order = np.random.default_rng(seed).permutation(len(names))
        half = np.zeros(len(names), bool)
        half[order[: len(names) // 2]] = True
        fit = half[which]
        plain = Correction.fit(row[:, fit], (level,)).factors[0]
        whole = Correction.fit(row[:, fit], (level,), which[fit]).factors[0]
        told: dict[str, float] = {"factor": whole}
        limits = {"by record": whole, "by value": plain}
        if not scores.point:
            limits["raw"] = 1.0
        for name, limit in limits.items():
            inside = row[0] <= limit
            told[f"{name}: records"] = float((np.bincount(which, inside) / sizes)[~half].mean())
            told[f"{name}: values"] = float(inside[~fit].mean())
        found.append(told)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="held")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--draws", type=int, default=32)
    told = parser.parse_args()
    make_importable(told.run)
    model = lom_core.load(told.run, calibrated=False)
    found, _ = score(model, open_named(model.config, told.data), Tally())
    results = {}
    for name, scores in found.items():
        draws = halves(scores, told.level, told.draws)
        n = len(np.unique(scores.record))
        results[name] = {"records": n, "values": len(scores.crps), "draws": draws}
        print(f"{name}: {n} records, {len(scores.crps)} values")
        for key in draws[0]:
            shares = np.array([draw[key] for draw in draws])
            within = np.mean((shares >= 0.85) & (shares <= 0.95))
            print(
                f"  {key:20s} mean {shares.mean():.3f}, least {shares.min():.3f}, "
                f"most {shares.max():.3f}; within 85 to 95% in {within:.0%} of the draws"
            )
    (told.run / "coverage.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
