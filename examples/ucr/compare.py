"""Test scores of all that run.sh trained, beside 1-NN; a table, ucr.json and ucr.png.

python compare.py logs/ucr ECG5000 ECG200 --out logs/ucr
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import lom_core
from lom_core.measures import main_score
from lom_core.named import open_named

Score = Callable[[np.ndarray, np.ndarray], float]
METRICS: dict[str, Score] = {
    "accuracy": lambda y, found: float((y == found).mean()),
    "balanced_accuracy": lambda y, found: main_score(y, found, "classify"),
}
NAMES = {
    "embedding": "linear probe, pre-trained",
    "random_init": "linear probe, untrained model",
    "series": "linear probe, the series itself",
    "nn": "1-NN, Euclidean",
    "finetuned": "fine-tuned, pre-trained",
    "scratch": "the same, from scratch",
}


def read(run: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[dict]]:
    """(n, T) values, (n,) classes, and the records of a split."""
    source = open_named(lom_core.load(run, device="cpu").config, str(run / f"{split}.yaml"))
    records = [source[i] for i in range(len(source))]
    x = np.stack([np.asarray(r["series"]).ravel() for r in records])
    return x, np.array([str(r["class"]) for r in records]), records


def linear(x: np.ndarray, y: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """Classes by a logistic regression; C is chosen on folds of the training series."""
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    grid = {"logisticregression__C": [1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]}
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a class of two series is not in every fold
        return GridSearchCV(pipeline, grid, cv=folds).fit(x, y).predict(tested)


def asked(run: Path, records: list[dict]) -> np.ndarray:
    """What a fine-tuned model answers when it is asked for the class."""
    model = lom_core.load(run, device="cpu")
    encoder = model.encoders["class"]
    shown = [{"series": r["series"], "id": r["id"]} for r in records]  # without the class
    found = model.predictions(shown, target="class", given=["series"], at=[[0]])
    return np.array([str(encoder.decode(answer.tokens)) for answer in found])


def predictions(logs: Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(n,) true classes of the test series, and what each method says."""
    run = logs / name
    x, y, _ = read(run, "train")
    tested, truth, records = read(run, "test")
    train, test = (np.load(run / f"{s}.npz", allow_pickle=False) for s in ("train", "test"))
    assert (train["class"].astype(str) == y).all() and (test["class"].astype(str) == truth).all()
    found = {"nn": KNeighborsClassifier(1).fit(x, y).predict(tested)}
    found["series"] = linear(x, y, tested)
    for feature in ("random_init", "embedding"):
        found[feature] = linear(train[feature], y, test[feature])
    for kind in ("scratch", "finetuned"):
        found[kind] = asked(logs / f"{name}-{kind}", records)
    return truth, found


def interval(y: np.ndarray, found: np.ndarray, score: Score, draws: int = 2000) -> list[float]:
    """The middle 95% over bootstrap draws of the test series."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(y), (draws, len(y)))
    return np.quantile([score(y[r], found[r]) for r in rows], [0.025, 0.975]).tolist()


def draw(results: dict[str, dict], path: Path) -> None:
    figure, axes = plt.subplots(1, len(results), figsize=(9.5, 3.3), sharey=True)
    for axis, (name, result) in zip(np.atleast_1d(axes), results.items(), strict=True):
        for at, (method, scores) in enumerate(result["scores"].items()):
            value, (low, high) = scores["accuracy"]["value"], scores["accuracy"]["interval"]
            colour = "#0b6e99" if method in ("embedding", "finetuned") else "#9a9a9a"
            axis.plot([low, high], [at, at], color=colour, lw=4, alpha=0.35, solid_capstyle="round")
            axis.plot(value, at, "o", color=colour, ms=7)
            axis.annotate(f"{value:.3f}", (value, at), (0, 7), textcoords="offset points",
                          ha="center", color=colour, fontsize=9)  # fmt: skip
        axis.axvline(result["scores"]["nn"]["accuracy"]["value"], color="#c0c0c0", lw=1, zorder=0)
        axis.set_yticks(range(len(result["scores"])), [NAMES[m] for m in result["scores"]])
        axis.set_ylim(-0.6, len(result["scores"]) - 0.3)
        axis.set_title(f"{name}: {result['test']:,} test beats", fontsize=10, loc="left")
        axis.set_xlabel("accuracy, 95% bootstrap interval")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    figure.tight_layout(w_pad=2)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("logs", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    told = parser.parse_args()
    results = {}
    for name in told.names:
        y, found = predictions(told.logs, name)
        scores = {
            method: {
                m: {"value": score(y, p), "interval": interval(y, p, score)}
                for m, score in METRICS.items()
            }
            for method, p in found.items()
        }
        results[name] = {"test": len(y), "scores": scores}
        for method, row in scores.items():
            cells = (f"{row[m]['value']:.3f} [{row[m]['interval'][0]:.3f}, "
                     f"{row[m]['interval'][1]:.3f}]" for m in METRICS)  # fmt: skip
            print(f"| {name} | {NAMES[method]} | {' | '.join(cells)} |", flush=True)
    (told.out / "ucr.json").write_text(json.dumps(results, indent=1))
    draw(results, told.out / "ucr.png")


if __name__ == "__main__":
    main()
