"""Probes: small models on frozen embeddings, to see what the embeddings know.

The rows are split once into a part to learn from and a test part that have no group in common.
Hyper-parameters are chosen by cross-validation over groups within the first; the test part is
predicted once, by the chosen model fitted on all of the first. Learning curves are scored on
validation folds and never see the test part.

Needs scikit-learn, imported late.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lom_core.embeddings import Embeddings, open_embeddings
from lom_core.errors import ConfigError, DataError, nearest
from lom_core.measures import MAIN, Task, interval, measure
from lom_core.roles import Array
from lom_core.splits import Grouping, Labels, Part, folds_of, hold_out, refuse_shared, same_classes

METHODS = ("ridge", "logistic", "knn", "mlp", "forest")
WIDE = 256  # wider ones are reduced to so many principal components, but not for forests
PER_CLASS = (10, 20, 100, 500)
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
FEW = 20  # whole numbers with at most so many values are classes
NEEDS = "probes need scikit-learn: `pip install 'lom-core[probe]'`"


@dataclass(frozen=True)
class Scores:
    """What one method reached on one feature.

    Args:
        metrics: on the test part, which was predicted once. ``main`` is balanced accuracy of
            classes, R² of numbers.
        low, high: of ``main``: 95% of bootstrap draws of the test part's groups.
        folds: ``main`` on each validation fold, with the hyper-parameters chosen.
    """

    feature: str
    method: str
    metrics: dict[str, float]
    low: float
    high: float
    folds: list[float] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A place on a learning curve: ``main`` on validation folds after ``n`` labelled records."""

    feature: str
    method: str
    n: int
    name: str
    scores: list[float]


@dataclass(frozen=True)
class Result:
    label: str
    task: Task
    main: str
    splits: list[str]
    classes: dict[str, int]
    scores: list[Scores]
    curve: list[Point]
    seed: int

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def probe(
    path: str | Path,
    label: str,
    *,
    grouping: Grouping = Grouping(),  # noqa: B008  frozen
    methods: Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    test: str | Path | None = None,
    catalogue: str | Path | None = None,
    folds: int = 5,
    curve: bool = True,
    draws: int = 1000,
    seed: int = 0,
) -> Result:
    """Probe every feature of a file of embeddings for a label.

    Args:
        methods: of ``METHODS``; None takes all that suit the label.
        features: columns of vectors; None takes all. They are compared on the rows that have all.
        test: a file whose rows are the test part; else a share 1 / (folds + 1) of the groups is.
        catalogue: a CSV file with more labels.
        draws: of the bootstrap.

    Errors:
        ConfigError: scikit-learn is missing, an unknown label, feature or method, or a label that
            the embeddings were made from.
        DataError: too few rows or groups, or groups that are in both files.
    """
    _require_sklearn()
    found = _open(path, label, features)
    names = list(features or found.features)
    labels = Labels(found, catalogue)
    learn, told = _part(found, labels, label, grouping, names)
    task = _task(learn.y)
    methods = _methods(methods, task)
    if test is None:
        learn, tested, how = hold_out(learn, task, grouping, folds, seed)
    else:
        other = _open(test, label, names)
        tested, more = _part(other, Labels(other, catalogue), label, grouping, names)
        refuse_shared(learn.groups, tested.groups, grouping.told)
        told += more
        how = f"test part: the {len(tested)} records of {test}"
        learn, tested = same_classes(learn, tested, task)
    splits = folds_of(learn, task, folds, seed)
    told += [
        how,
        f"{len(learn)} records in {len(set(learn.groups))} groups to learn from, {len(tested)} in "
        f"{len(set(tested.groups))} groups to test on; grouped by {grouping.told}; no group is on "
        "both sides",
        f"hyper-parameters by {len(splits)}-fold cross-validation over groups of the first part; "
        "the test part is predicted once by each probe",
    ]
    scores = [_nothing(learn, tested, task, draws, seed)]
    points: list[Point] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what did not converge shows in its validation score
        for name in names:
            for method in methods:
                scores.append(_fit(name, method, task, learn, tested, splits, draws, seed))
            if curve:
                points += _curve(name, methods[0], task, learn, splits, seed)
    if curve and (short := [n for n, _ in _sizes(task) if n not in {p.name for p in points}]):
        told.append(f"no learning curve at {', '.join(short)}: folds have too few labels for that")
    counts = dict(zip(*np.unique(learn.y, return_counts=True), strict=True))
    classes = {str(k): int(v) for k, v in counts.items()} if task == "classify" else {}
    return Result(label, task, MAIN[task], told, classes, scores, points, seed)


# ------------------------------------------------------------------------------------- the rows


def _open(path: str | Path, label: str, features: Sequence[str] | None) -> Embeddings:
    found = open_embeddings(path)
    for name in features or ():
        found.blocks(name)
    if label in found.metadata.get("given", ()):
        raise ConfigError(
            f"the embeddings in {path} were made from records that show '{label}': nothing can be "
            "learned from probing for it; embed again with --given and the other modalities"
        )
    return found


def _part(
    found: Embeddings, labels: Labels, label: str, grouping: Grouping, names: Sequence[str]
) -> tuple[Part, list[str]]:
    """The rows that have the label and all features, and what became of the others."""
    y = labels.column(label)
    has = y != "" if y.dtype.kind == "U" else np.isfinite(y.astype(float))
    x = {name: found.matrix(name) for name in names}
    seen = np.logical_and.reduce([np.isfinite(v).all(axis=1) for v in x.values()])
    told = []
    if not has.all():
        told.append(f"{int((~has).sum())} of {len(y)} records of {found.path} have no '{label}'")
    if not seen[has].all():
        told.append(f"{int((has & ~seen).sum())} records lack one of {', '.join(names)}")
    keep = has & seen
    if not keep.any():
        raise DataError(f"no record of {found.path} has '{label}' and {', '.join(names)}")
    y = y.astype(str) if y.dtype.kind in "Ub" or _whole(y) else y
    return Part(x, y, grouping.of(labels))[keep], told


def _whole(y: Array) -> bool:
    return y.dtype.kind in "iu" and len(np.unique(y)) <= FEW


def _task(y: Array) -> Task:
    if y.dtype.kind != "U":
        return "regress"
    if len(np.unique(y)) < 2:
        raise DataError(f"all records have the label '{y[0]}': there is nothing to tell apart")
    return "classify"


def _methods(methods: Sequence[str] | None, task: Task) -> list[str]:
    suited = [m for m in METHODS if m != ("ridge" if task == "classify" else "logistic")]
    for name in methods or ():
        if name not in METHODS:
            raise ConfigError(
                f"unknown method '{name}'{nearest(name, METHODS)}; possible: {', '.join(suited)}"
            )
        if name not in suited:
            kind = "classes" if task == "classify" else "numbers"
            raise ConfigError(f"method '{name}' is not for {kind}; possible: {', '.join(suited)}")
    return [m for m in suited if m in (methods or suited)]


# ----------------------------------------------------------------------------------- the probes


def _search(method: str, task: Task, width: int, n: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """A pipeline, and the hyper-parameters to choose from, for n rows of ``width`` values."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    grid: dict[str, Any]
    if method == "ridge":
        model, grid = Ridge(), {"alpha": [0.1, 1.0, 10.0, 100.0, 1000.0]}
    elif method == "logistic":
        model = LogisticRegression(max_iter=500, class_weight="balanced")
        grid = {"C": [1e-3, 0.01, 0.1, 1.0, 10.0, 100.0]}
    elif method == "knn":
        kinds = {"classify": KNeighborsClassifier, "regress": KNeighborsRegressor}
        model = kinds[task](weights="distance")
        grid = {"n_neighbors": [k for k in (1, 3, 5, 10, 20, 50) if k <= n] or [1]}
    elif method == "forest":
        kinds = {"classify": RandomForestClassifier, "regress": RandomForestRegressor}
        balanced = {"class_weight": "balanced_subsample"} if task == "classify" else {}
        model = kinds[task](200, max_features="sqrt", random_state=seed, **balanced)
        grid = {"min_samples_leaf": [1, 5, 20]}
    else:
        kinds = {"classify": MLPClassifier, "regress": MLPRegressor}
        model = kinds[task](hidden_layer_sizes=(64,), max_iter=150, random_state=seed)
        grid = {"alpha": [0.01, 1.0, 10.0]}
    steps: list[Any] = [StandardScaler()]
    if width > WIDE and method != "forest":
        steps.append(PCA(min(WIDE, n), random_state=seed, svd_solver="randomized"))
    pipeline = make_pipeline(*steps, model)
    return pipeline, {f"{pipeline.steps[-1][0]}__{k}": v for k, v in grid.items()}


def _chosen(
    name: str, method: str, task: Task, rows: Part, splits: list[tuple[Array, Array]], seed: int
) -> Any:
    """The probe with the best hyper-parameters on the folds, fitted on all rows."""
    from sklearn.model_selection import GridSearchCV

    x, smallest = rows.x[name], min(len(a) for a, _ in splits)
    pipeline, grid = _search(method, task, x.shape[1], smallest, seed)
    search = GridSearchCV(pipeline, grid, scoring=MAIN[task], cv=splits)
    weights = {"mlpclassifier__sample_weight": _balanced(rows.y)}
    return search.fit(x, rows.y, **(weights if method == "mlp" and task == "classify" else {}))


def _balanced(y: Array) -> Array:
    """(n,) weights under which every class counts the same."""
    classes, which, counts = np.unique(y, return_inverse=True, return_counts=True)
    return np.asarray(len(y) / len(classes) / counts[which])


def _fit(
    name: str,
    method: str,
    task: Task,
    learn: Part,
    tested: Part,
    splits: list[tuple[Array, Array]],
    draws: int,
    seed: int,
) -> Scores:
    search = _chosen(name, method, task, learn, splits, seed)
    predicted = search.predict(tested.x[name])
    chances = search.predict_proba(tested.x[name]) if task == "classify" else None
    low, high = interval(tested.y, predicted, tested.groups, task, draws, seed)
    per_fold = [
        float(search.cv_results_[f"split{i}_test_score"][search.best_index_])
        for i in range(len(splits))
    ]
    chosen = {k.rpartition("__")[2]: v for k, v in search.best_params_.items()}
    classes = search.classes_ if task == "classify" else None
    metrics = measure(tested.y, predicted, task, chances, classes)
    return Scores(name, method, metrics, low, high, per_fold, chosen)


def _nothing(learn: Part, tested: Part, task: Task, draws: int, seed: int) -> Scores:
    """What the commonest class, or the mean, reaches."""
    if task == "classify":
        values, counts = np.unique(learn.y, return_counts=True)
        guess, name = values[counts.argmax()], "majority"
    else:
        guess, name = learn.y.mean(), "mean"
    predicted = np.full(len(tested), guess)
    low, high = interval(tested.y, predicted, tested.groups, task, draws, seed)
    return Scores("nothing", name, measure(tested.y, predicted, task), low, high)


def _curve(
    name: str,
    method: str,
    task: Task,
    rows: Part,
    splits: list[tuple[Array, Array]],
    seed: int,
) -> Iterator[Point]:
    """Scores after few labels: drawn from a fold's rows to learn from, hyper-parameters chosen on
    these few alone, measured on the fold's other rows."""
    for label, size in _sizes(task):
        found, used = [], []
        for i, (learn, validate) in enumerate(splits):
            drawn = _draw(rows.y[learn], size, task, np.random.default_rng((seed, i)))
            few = rows[learn[drawn]]
            if not len(few) or (inner := _inner(few, task, seed)) is None:
                break
            search = _chosen(name, method, task, few, inner, seed)
            predicted = search.predict(rows.x[name][validate])
            found.append(measure(rows.y[validate], predicted, task)[MAIN[task]])
            used.append(len(few))
        else:
            yield Point(name, method, round(float(np.mean(used))), label, found)


def _sizes(task: Task) -> list[tuple[str, float]]:
    """Numbers of labels by name: so many (a class), or a share of those that there are."""
    unit = "a class" if task == "classify" else "records"
    return [
        *((f"{n} {unit}", float(n)) for n in PER_CLASS),
        *((f"{share:.0%}", share) for share in SHARES),
    ]


def _draw(y: Array, size: float, task: Task, rng: np.random.Generator) -> Array:
    """Indices: so many of each class (all rows if they are numbers), or a share of each."""
    kinds = (
        [np.flatnonzero(y == c) for c in np.unique(y)]
        if task == "classify"
        else [np.arange(len(y))]
    )
    found = []
    for rows in kinds:
        n = round(size * len(rows)) if size <= 1 else int(size)
        if not 2 <= n <= len(rows):
            return np.zeros(0, np.int64)
        found.append(rng.permutation(rows)[:n])
    return np.concatenate(found)


def _inner(rows: Part, task: Task, seed: int) -> list[tuple[Array, Array]] | None:
    """Three folds (two if there are few) in which each class is learned; None if there is none."""
    for n in (3, 2):
        smallest = np.unique(rows.y, return_counts=True)[1].min() if task == "classify" else n
        if min(smallest, len(set(rows.groups))) < n:
            continue
        splits = folds_of(rows, task, n, seed)
        enough = all(len(a) > 1 and len(b) > 1 for a, b in splits)
        if enough and (
            task == "regress" or all(len(set(rows.y[a])) == len(set(rows.y)) for a, _ in splits)
        ):
            return splits
    return None


def _require_sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ConfigError(NEEDS) from None
