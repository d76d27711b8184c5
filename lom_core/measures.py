"""How well labels were predicted, and how sure that is."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lom_core.roles import Array

Task = Literal["classify", "regress"]
MAIN: dict[Task, str] = {"classify": "balanced_accuracy", "regress": "r2"}


def measure(
    y: Array,
    predicted: Array,
    task: Task,
    chances: Array | None = None,
    classes: Array | None = None,
) -> dict[str, float]:
    """Metrics of predictions (n,); with ``chances`` (n, classes) also the area under the ROC."""
    from sklearn import metrics

    if task == "regress":
        error = predicted - y
        found = {"r2": main_score(y, predicted, task), "rmse": float(np.sqrt((error**2).mean()))}
        return found | {"mae": float(np.abs(error).mean())}
    found = {
        "balanced_accuracy": main_score(y, predicted, task),
        "accuracy": float((y == predicted).mean()),
        "macro_f1": float(metrics.f1_score(y, predicted, average="macro", zero_division=0)),
    }
    if chances is not None and classes is not None and len(set(y)) == len(classes):
        two = len(classes) == 2
        scored = chances[:, 1] if two else chances
        found["roc_auc"] = float(
            metrics.roc_auc_score(y, scored, **({} if two else {"multi_class": "ovr"}))
        )
    return found


def main_score(y: Array, predicted: Array, task: Task) -> float:
    """Mean recall of the classes that there are, or R²."""
    if task == "regress":
        spread = ((y - y.mean()) ** 2).sum()
        return float(1 - ((y - predicted) ** 2).sum() / spread) if spread > 0 else 0.0
    return float(np.mean([(predicted[y == c] == c).mean() for c in np.unique(y)]))


def interval(
    y: Array, predicted: Array, groups: Array, task: Task, draws: int, seed: int
) -> tuple[float, float]:
    """The middle 95% of the main score over bootstrap draws of whole groups."""
    _, which = np.unique(groups, return_inverse=True)
    members = np.split(np.argsort(which, kind="stable"), np.cumsum(np.bincount(which))[:-1])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        found.append(main_score(y[rows], predicted[rows], task))
    low, high = np.quantile(found, [0.025, 0.975]) if found else (np.nan, np.nan)
    return float(low), float(high)
