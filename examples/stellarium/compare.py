"""Classes of the test pictures of all folds by each method: a table, stellarium.json and .png.

    python compare.py data/stellarium logs/stellarium

LOGS holds K.npz for each fold K: `lom embed --baselines` of all copies by the model that never
saw fold K. Every method learns from the pictures of the other folds and answers for those of fold
K; what it may choose it chooses by cross-validation there, over groups. All see the eight turns and
reflections of each picture: probes their mean embedding, forests each as a row (and the mean of
what they answer for the eight).
"""

from __future__ import annotations

import csv
import json
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lom_core.measures import interval, main_score

Array = np.ndarray
NAMES = {
    "majority": "commonest class",
    "raw_tokens": "linear, pixels",
    "random_init": "linear probe, untrained model",
    "forest": "random forest, pixels",
    "forest_turned": "random forest, pixels, turned",
    "embedding": "linear probe, pre-trained",
}
SIDES = (16, 32)  # pixels of the forest's pictures, chosen by its out-of-bag score


def linear(x: Array, y: Array, groups: Array, tested: Array) -> Array:
    steps = [StandardScaler(), *([PCA(256, random_state=0)] if x.shape[1] > 1000 else [])]
    model = LogisticRegression(max_iter=1000, class_weight="balanced")
    grid = {"logisticregression__C": [1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]}
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(y, y, groups))
    search = GridSearchCV(make_pipeline(*steps, model), grid, scoring="balanced_accuracy", cv=folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search.fit(x, y).predict(tested)


def forest(x: dict[int, Array], y: Array, rows: Array, test: Array, copies: int) -> Array:
    """x[side] (n, 8, pixels). The side is that of the best out-of-bag score, unturned."""

    def fit(side: int, copies: int) -> RandomForestClassifier:
        learn = x[side][rows][:, :copies]
        model = RandomForestClassifier(
            300, class_weight="balanced", oob_score=copies == 1, random_state=0
        )
        return model.fit(learn.reshape(-1, learn.shape[-1]), np.repeat(y[rows], copies))

    def own(model: RandomForestClassifier) -> float:
        answer = model.classes_[model.oob_decision_function_.argmax(1)]
        return main_score(y[rows], answer, "classify")

    plain = {side: fit(side, 1) for side in x}
    side = max(plain, key=lambda s: own(plain[s]))
    model = plain[side] if copies == 1 else fit(side, copies)
    tested = x[side][test][:, :copies]
    chances = model.predict_proba(tested.reshape(-1, tested.shape[-1]))
    return np.asarray(model.classes_[chances.reshape(len(test), copies, -1).mean(1).argmax(1)])


def features(path: Path, ids: list[str]) -> dict[str, Array]:
    """Column -> (n, d), the mean over each picture's eight copies."""
    table = np.load(path, allow_pickle=False)
    place = {Path(i).stem: k for k, i in enumerate(table["id"])}
    rows = np.array([[place[f"{i}_{c}"] for c in range(8)] for i in ids])
    # Pixels of turned pictures would average to rings: they stay as they are.
    return {
        name: table[name][rows[:, 0]] if name == "raw_tokens" else table[name][rows].mean(1)
        for name in ("embedding", "random_init", "raw_tokens")
    }


def pixels(data: Path, ids: list[str], side: int) -> Array:
    def read(name: str) -> Array:
        image = Image.open(data / f"copies/{name}.png").resize((side, side), Image.Resampling.BOX)
        return np.asarray(image).ravel()

    return np.stack([np.stack([read(f"{i}_{c}") for c in range(8)]) for i in ids])


def answers(data: Path, logs: Path) -> tuple[Array, Array, dict[str, Array]]:
    """(n,) classes, (n,) groups, and what each method says of each picture."""
    with (data / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    ids = [row["id"] for row in rows]
    y, groups, fold = (np.array([row[k] for row in rows]) for k in ("class", "group", "fold"))
    images = {side: pixels(data, ids, side) for side in SIDES}
    found = {name: np.empty_like(y) for name in NAMES}
    for k in np.unique(fold):
        test, learn = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        values, counts = np.unique(y[learn], return_counts=True)
        found["majority"][test] = values[counts.argmax()]
        for name, x in features(logs / f"{k}.npz", ids).items():
            found[name][test] = linear(x[learn], y[learn], groups[learn], x[test])
        for name, copies in (("forest", 1), ("forest_turned", 8)):
            found[name][test] = forest(images, y, learn, test, copies)
    return y, groups, found


def draw(y: Array, found: dict[str, Array], scores: dict[str, dict], path: Path) -> None:
    classes = sorted(set(y))
    figure = plt.figure(figsize=(10, 3.8))
    grid = figure.add_gridspec(1, 2, width_ratios=[1, 1.05])
    axis = figure.add_subplot(grid[0])
    for at, (name, score) in enumerate(scores.items()):
        colour = "#0b6e99" if name == "embedding" else "#9a9a9a"
        axis.plot(score["interval"], [at, at], color=colour, lw=5, alpha=0.35)
        axis.plot(score["value"], at, "o", color=colour, ms=7)
        axis.annotate(f"{score['value']:.3f}", (score["value"], at), (0, 7), ha="center",
                      textcoords="offset points", color=colour, fontsize=9)  # fmt: skip
    axis.set_yticks(range(len(scores)), [NAMES[name] for name in scores])
    axis.set_ylim(-0.6, len(scores) - 0.3)
    axis.set_xlabel("balanced accuracy, 95% bootstrap interval")
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis = figure.add_subplot(grid[1])
    table = np.array(
        [[((y == a) & (found["embedding"] == b)).sum() for b in classes] for a in classes]
    )
    share = table / table.sum(1, keepdims=True)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (a, b), n in np.ndenumerate(table):
        axis.text(b, a, n, ha="center", va="center", fontsize=9,
                  color="white" if share[a, b] > 0.5 else "#404040")  # fmt: skip
    axis.set_xticks(range(len(classes)), [c.replace(" ", "\n") for c in classes], fontsize=8)
    axis.set_yticks(range(len(classes)), classes, fontsize=8)
    axis.set_xlabel("answer of the probe on the pre-trained model", fontsize=9)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main(data: Path, logs: Path) -> None:
    y, groups, found = answers(data, logs)
    scores = {}
    for name, answer in found.items():
        low, high = interval(y, answer, groups, "classify", 2000, 0)
        scores[name] = {
            "value": main_score(y, answer, "classify"),
            "interval": [low, high],
            "accuracy": float((y == answer).mean()),
        }
        print(f"| {NAMES[name]} | {scores[name]['value']:.3f} [{low:.3f}, {high:.3f}] | "
              f"{scores[name]['accuracy']:.3f} |", flush=True)  # fmt: skip
    rng, names = np.random.default_rng(0), np.unique(groups)
    members = [np.flatnonzero(groups == g) for g in names]
    gains = []
    for _ in range(2000):
        r = np.concatenate([members[i] for i in rng.integers(0, len(names), len(names))])
        best = max(("forest", "forest_turned"), key=lambda f: scores[f]["value"])
        gains.append(main_score(y[r], found["embedding"][r], "classify")
                     - main_score(y[r], found[best][r], "classify"))  # fmt: skip
    low, high = np.quantile(gains, [0.025, 0.975])
    print(f"probe - better forest, same draws: [{low:+.3f}, {high:+.3f}]")
    scores_and_gain = {"scores": scores, "gain": [low, high]}
    (logs / "stellarium.json").write_text(json.dumps(scores_and_gain, indent=1))
    draw(y, found, scores, logs / "stellarium.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
