"""Files of embeddings give back what they got, or say that they are damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lom_core.embeddings import open_embeddings, write_embeddings
from lom_core.errors import ConfigError, DataError
from lom_core.pieces import ROWS, join
from lom_core.roles import Array


def read_all(path: Path) -> dict[str, Array]:
    found = open_embeddings(path)
    columns = {name: found.column(name) for name in ("id", *found.labels)}
    return columns | {name: found.matrix(name) for name in found.features}


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_files_give_back_what_they_got(
    ending: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    tables, start = [], 0
    for n in sizes:
        table = {
            "id": np.array([f"é{i}" for i in range(start, start + n)]),
            "embedding": rng.normal(size=(n, 3)).astype(np.float32),
        }
        if data.draw(st.booleans()):
            table["count"] = rng.integers(0, 9, n)
        if data.draw(st.booleans()):
            table["word"] = np.array(["spiral" * int(k) for k in rng.integers(1, 3, n)])
        tables.append(table)
        start += n
    stem = data.draw(st.sampled_from(["e", "0"]))  # pieces on the way have numbers for names
    path = tmp_path_factory.mktemp("e") / f"{stem}{ending}"
    assert write_embeddings(path, tables, {"layer": 2}) == start
    got = read_all(path)
    assert open_embeddings(path).metadata == {"layer": 2}
    for name in ("count", "word"):
        if not any(name in t for t in tables):
            assert name not in got
            continue
        blank: Any = np.nan if name == "count" else ""
        expected = np.concatenate([t.get(name, np.full(len(t["id"]), blank)) for t in tables])
        np.testing.assert_array_equal(got[name], expected)
    for name in ("id", "embedding"):
        np.testing.assert_array_equal(got[name], np.concatenate([t[name] for t in tables]))
    if ending == ".npz":
        with np.load(path) as file:  # anybody can read it
            np.testing.assert_array_equal(file["embedding"], got["embedding"])


@pytest.mark.parametrize("ending", [".npz", ".parquet"])
def test_labels_may_come_late_and_turn_into_text(ending: str, tmp_path: Path) -> None:
    """Each table is a piece of its own here: more rows than a piece holds."""
    if ending == ".parquet":
        pytest.importorskip("pyarrow")
    n = ROWS
    ids = np.array([f"r{i}" for i in range(3 * n)])
    vector = np.arange(3 * n, dtype=np.float32)[:, None] * [1, 2]
    tables = [
        {"id": ids[:n], "embedding": vector[:n].astype(np.float32), "grade": np.arange(n)},
        {"id": ids[n : 2 * n], "embedding": np.full((n, 2), np.nan, np.float32)},
        {
            "id": ids[2 * n :],
            "embedding": vector[2 * n :].astype(np.float32),
            "grade": np.full(n, "A"),
            "late": np.ones(n, bool),
        },
    ]
    path = tmp_path / f"e{ending}"
    write_embeddings(path, tables, {})
    got = read_all(path)
    assert got["grade"][[0, 41, n, 2 * n]].tolist() == ["0", "41", "", "A"]
    assert np.isnan(got["late"][:n]).all() and (got["late"][2 * n :] == 1).all()
    assert np.isnan(got["embedding"][n : 2 * n]).all()
    np.testing.assert_array_equal(got["embedding"][2 * n :], vector[2 * n :])
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing is left behind"


def test_numbers_that_turn_into_text_keep_their_digits() -> None:
    parts = [np.array([12345678.0, np.nan, 0.1]), np.array(["NGC 1"]), np.array([3], np.int64)]
    found = join(list(parts), [3, 1, 1])
    assert found.tolist() == ["12345678", "", "0.1", "NGC 1", "3"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    table = {"id": np.array(["a"]), "embedding": np.zeros((1, 2), np.float32)}
    write_embeddings(path, [table], {})
    before = path.read_bytes()

    def broken() -> Any:
        yield table
        raise DataError("the disk of records broke")

    with pytest.raises(DataError, match="broke"):
        write_embeddings(path, broken(), {})
    with pytest.raises(DataError, match="no record gave"):
        write_embeddings(path, [], {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["e.npz"]
    with pytest.raises(ConfigError, match=r"\.parquet or \.npz"):
        write_embeddings(tmp_path / "e.csv", [table], {})


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 700), flip=st.integers(0, 700))
def test_damaged_files_are_told_of(
    cut: int, flip: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    table = {"id": np.array(["a", "b"]), "embedding": np.ones((2, 3), np.float32)}
    for ending in (".npz", ".parquet"):
        path = folder / f"e{ending}"
        write_embeddings(path, [table], {})
        data = bytearray(path.read_bytes())
        data[flip % len(data)] ^= 0xFF
        for damaged in (bytes(data), path.read_bytes()[: cut % len(data)]):
            path.write_bytes(damaged)
            try:
                read_all(path)
            except (DataError, ConfigError):
                continue


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    np.savez(path, id=np.array(["a"], dtype=object), embedding=np.zeros((1, 2), np.float32))
    with pytest.raises(DataError, match="damaged or no file of embeddings"):
        open_embeddings(path)


def test_lookups_name_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    vectors = np.zeros((1, 2), np.float32)
    table = {"id": np.array(["a"]), "class": np.array(["x"]), "v": vectors, "w": vectors}
    write_embeddings(path, [table], {})
    found = open_embeddings(path)
    with pytest.raises(ConfigError, match="did you mean 'class'"):
        found.column("clas")
    with pytest.raises(ConfigError, match="--feature: v, w"):
        found.only_feature(None)
    with pytest.raises(DataError, match="lom embed"):
        open_embeddings(tmp_path / "none.npz")
    assert json.dumps(found.metadata) == "{}"
