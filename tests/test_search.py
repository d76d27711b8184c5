"""Neighbours: the same as by brute force, whatever the blocks; nobody is its own neighbour."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lom_core import search
from lom_core.embeddings import Embeddings, open_embeddings, write_embeddings
from lom_core.errors import ConfigError, DataError
from lom_core.roles import Array
from lom_core.search import anomalies, similar


def made(folder: Path, vectors: Array) -> Embeddings:
    ids = np.array([f"r{i}" for i in range(len(vectors))])
    table = {"id": ids, "embedding": vectors.astype(np.float32)}
    write_embeddings(folder / "e.npz", [table], {})
    return open_embeddings(folder / "e.npz")


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(2, 60),
    d=st.integers(1, 5),
    k=st.integers(1, 12),
    seed=st.integers(0, 99),
    block=st.integers(1, 17),
    metric=st.sampled_from(search.METRICS),
)
def test_exact_whatever_the_blocks(
    n: int, d: int, k: int, seed: int, block: int, metric: Any, tmp_path_factory: Any
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)).astype(np.float32)
    found = made(tmp_path_factory.mktemp("s"), vectors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lom_core.embeddings.BLOCK", block * d * 4)
        patch.setattr(search, "QUERIES", 3)
        got = similar(found, "r1", k, metric=metric)
        ids, scores = anomalies(found, k, metric=metric)
    far = np.stack([by_hand(vectors[i], vectors, metric) for i in range(n)])
    np.fill_diagonal(far, np.inf)
    nearest = np.sort(far, axis=1)[:, : min(k, n - 1)]
    np.testing.assert_allclose([s for _, s in got], nearest[1], atol=1e-5)
    np.testing.assert_allclose([far[1, int(i[1:])] for i, _ in got], nearest[1], atol=1e-5)
    np.testing.assert_allclose(scores, np.sort(nearest.mean(axis=1))[::-1], atol=1e-5)
    assert sorted(ids.tolist()) == sorted(f"r{i}" for i in range(n))


def by_hand(x: Array, others: Array, metric: str) -> Array:
    if metric == "euclidean":
        return np.asarray(np.linalg.norm(others - x, axis=1), dtype=np.float64)
    cosine = others @ x / (np.linalg.norm(others, axis=1) * np.linalg.norm(x))
    return np.asarray(1 - cosine, dtype=np.float64)


def test_what_is_like_nothing_comes_first(tmp_path: Path, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(200, 8)) * 0.1 + 1
    vectors[17] = -1
    vectors[40] = np.nan  # not observed: no record's neighbour
    found = made(tmp_path, vectors)
    ids, scores = anomalies(found, 5)
    assert ids[0] == "r17" and scores[0] > 10 * scores[1]
    assert "r40" not in ids and len(ids) == 199
    with pytest.raises(DataError, match="record 'r40' has no 'embedding'"):
        similar(found, "r40")


def test_an_unknown_id_names_the_nearest(tmp_path: Path, rng: np.random.Generator) -> None:
    with pytest.raises(ConfigError, match=r"no record 'rr1'.*did you mean 'r1'"):
        similar(made(tmp_path, rng.normal(size=(3, 2))), "rr1")
    with pytest.raises(DataError, match="fewer than two records"):
        anomalies(made(tmp_path, rng.normal(size=(1, 2))))


def test_faiss_finds_what_exact_search_finds(tmp_path: Path, rng: np.random.Generator) -> None:
    pytest.importorskip("faiss")
    centres = rng.normal(size=(20, 16)) * 4
    vectors = centres[rng.integers(0, 20, 2000)] + rng.normal(size=(2000, 16))
    found = made(tmp_path, vectors)
    for metric in search.METRICS:
        exact = {i for i, _ in similar(found, "r5", 10, metric=metric)}
        fast = similar(found, "r5", 10, metric=metric, approximate=True)
        assert len(exact & {i for i, _ in fast}) >= 8
        distances = [s for _, s in fast]
        assert distances == sorted(distances) and "r5" not in dict(fast)
    top = set(anomalies(found, 5)[0][:20])
    assert len(top & set(anomalies(found, 5, approximate=True)[0][:20])) >= 12


def test_without_faiss_it_says_how_to_get_it(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'lom-core\[faiss\]'"):
        similar(made(tmp_path, rng.normal(size=(3, 2))), "r1", approximate=True)
