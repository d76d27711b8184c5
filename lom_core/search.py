"""Neighbours among embeddings, exact, in blocks: what is like this one, and what is like nothing.

With scikit-learn's or a data base's index one gets the same neighbours of a few million rows no
sooner than a matrix product does; for more there is ``faiss`` (approximate), imported late.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lom_core.embeddings import Embeddings
from lom_core.errors import ConfigError, DataError, nearest
from lom_core.roles import Array

Metric = Literal["cosine", "euclidean"]
METRICS: tuple[Metric, ...] = ("cosine", "euclidean")
QUERIES = 512  # rows compared with a block at once
TRAIN = 100_000  # rows that faiss learns its cells from


@dataclass(frozen=True)
class Neighbours:
    """Of q rows, the k nearest others, nearest first; k is less where there are fewer rows.

    Args:
        rows: (q, k) numbers of rows.
        distances: (q, k) float32: 1 - cosine, or Euclidean.
    """

    rows: Array
    distances: Array


def similar(
    embeddings: Embeddings,
    identity: str,
    k: int = 10,
    feature: str | None = None,
    metric: Metric = "cosine",
    approximate: bool = False,
) -> list[tuple[str, float]]:
    """Ids and distances of the k records that are most like one.

    Errors:
        ConfigError: no such id; the nearest spelling is named.
    """
    feature = embeddings.only_feature(feature)
    ids = embeddings.column("id").astype(str)
    at = np.flatnonzero(ids == identity)
    if not len(at):
        raise ConfigError(
            f"no record '{identity}' in {embeddings.path}{nearest(identity, ids.tolist())}; "
            f"ids look like '{ids[0]}'"
        )
    query = _rows(embeddings, feature, at[:1])
    if not np.isfinite(query).all():
        raise DataError(f"record '{identity}' has no '{feature}'")
    find = _faiss if approximate else _exact
    found = find(embeddings, feature, query, at[:1], k, metric)
    pairs = zip(found.rows[0], found.distances[0], strict=True)
    return [(str(ids[row]), float(distance)) for row, distance in pairs]


def anomalies(
    embeddings: Embeddings,
    k: int = 10,
    feature: str | None = None,
    metric: Metric = "cosine",
    approximate: bool = False,
) -> tuple[Array, Array]:
    """How unlike all others each record is: the mean distance to its k nearest neighbours
    (after Ramaswamy, Rastogi and Shim 2000, who take the k-th).

    Returns:
        (n,) ids and (n,) scores, the strangest first. Records without the feature are left out.
    """
    feature = embeddings.only_feature(feature)
    ids = embeddings.column("id").astype(str)
    scores = np.full(len(ids), np.nan)
    find = _faiss if approximate else _exact
    start = 0
    for block in embeddings.blocks(feature):
        for part in range(0, len(block), QUERIES):
            query = block[part : part + QUERIES]
            number = start + part + np.arange(len(query))
            known = np.isfinite(query).all(axis=1)
            if known.any():
                found = find(embeddings, feature, query[known], number[known], k, metric)
                scores[number[known]] = found.distances.mean(axis=1)
        start += len(block)
    order = np.argsort(-scores, kind="stable")
    order = order[np.isfinite(scores[order])]
    if not len(order):
        raise DataError(f"{embeddings.path}: fewer than two records have '{feature}'")
    return ids[order], scores[order]


def _exact(
    embeddings: Embeddings, feature: str, query: Array, own: Array, k: int, metric: Metric
) -> Neighbours:
    """One pass over the file; memory for a block, whatever its size.

    Args:
        query: (q, d). own: (q,) their own rows, which are no neighbours of theirs.
    """
    rows = np.zeros((len(query), 0), np.int64)
    distances = np.zeros((len(query), 0), np.float32)
    prepared = _prepared(query, metric)
    for start, block in _numbered(embeddings, feature):
        far = _distances(prepared, _prepared(block, metric), metric)
        far[:, ~np.isfinite(block).all(axis=1)] = np.inf
        numbers = start + np.arange(len(block))
        far[own[:, None] == numbers] = np.inf
        rows = np.concatenate([rows, np.broadcast_to(numbers, far.shape)], axis=1)
        distances = np.concatenate([distances, far], axis=1)
        if distances.shape[1] > k:
            best = np.argpartition(distances, k - 1, axis=1)[:, :k]
            rows = np.take_along_axis(rows, best, axis=1)
            distances = np.take_along_axis(distances, best, axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    distances = np.take_along_axis(distances, order, axis=1)
    there = int(np.isfinite(distances).sum(axis=1).min())
    if there == 0:
        raise DataError(f"{embeddings.path}: fewer than two records have '{feature}'")
    return Neighbours(rows[:, :there], distances[:, :there])


def _distances(a: Array, b: Array, metric: Metric) -> Array:
    """(q, b) float32."""
    if metric == "cosine":
        return np.asarray(np.clip(1 - a @ b.T, 0, 2), dtype=np.float32)
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(squared, 0)), dtype=np.float32)


def _prepared(x: Array, metric: Metric) -> Array:
    """float64, of length 1 for the cosine; what is not observed counts as 0."""
    x = np.where(np.isfinite(x), x, 0).astype(np.float64)
    if metric == "cosine":
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    return x


def _numbered(embeddings: Embeddings, feature: str) -> Iterator[tuple[int, Array]]:
    """Blocks of at most 8192 rows, and the number of their first."""
    start = 0
    for block in embeddings.blocks(feature):
        for part in range(0, len(block), 8192):
            yield start + part, block[part : part + 8192]
        start += len(block)


def _rows(embeddings: Embeddings, feature: str, wanted: Array) -> Array:
    found = [
        block[wanted[(wanted >= start) & (wanted < start + len(block))] - start]
        for start, block in _numbered(embeddings, feature)
    ]
    return np.concatenate(found)


# ------------------------------------------------------------------------------------- approximate

_INDICES: dict[tuple[str, str, str], tuple[Any, Array]] = {}


def _faiss(
    embeddings: Embeddings, feature: str, query: Array, own: Array, k: int, metric: Metric
) -> Neighbours:
    """Neighbours by an inverted file index, which is built once a feature."""
    key = (str(embeddings.path), feature, metric)
    if key not in _INDICES:
        _INDICES[key] = _build(embeddings, feature, metric)
    index, numbers = _INDICES[key]
    k = min(k, len(numbers) - 1)
    found, at = index.search(_prepared(query, metric).astype(np.float32), k + 1)
    rows = np.where(at >= 0, numbers[at], -1)
    distances = 1 - found if metric == "cosine" else np.sqrt(np.maximum(found, 0))
    distances = np.where((at < 0) | (rows == own[:, None]), np.inf, distances)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return Neighbours(
        np.take_along_axis(rows, order, axis=1),
        np.take_along_axis(distances, order, axis=1).astype(np.float32),
    )


def _build(embeddings: Embeddings, feature: str, metric: Metric) -> tuple[Any, Array]:
    """The index, and the row behind each of its entries."""
    try:
        import faiss
    except ImportError:
        raise ConfigError(
            "approximate search needs faiss: `pip install 'lom-core[faiss]'`; without "
            "--approximate the search is exact"
        ) from None
    kind = faiss.METRIC_INNER_PRODUCT if metric == "cosine" else faiss.METRIC_L2
    cells = max(1, min(4096, int(len(embeddings) ** 0.5)))
    index = faiss.index_factory(embeddings.features[feature], f"IVF{cells},Flat", kind)
    numbers, sample, n_sampled = [], [], 0
    for _, block in _numbered(embeddings, feature):
        if n_sampled >= TRAIN:
            break
        sample.append(block[np.isfinite(block).all(axis=1)])
        n_sampled += len(sample[-1])
    if n_sampled < 2:
        raise DataError(f"{embeddings.path}: fewer than two records have '{feature}'")
    index.train(_prepared(np.concatenate(sample), metric).astype(np.float32))
    for start, block in _numbered(embeddings, feature):
        known = np.isfinite(block).all(axis=1)
        index.add(_prepared(block[known], metric).astype(np.float32))
        numbers.append(start + np.flatnonzero(known))
    index.nprobe = max(1, cells // 8)
    return index, np.concatenate(numbers)
