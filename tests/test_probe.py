"""Probes leak nothing: groups stay whole, the test part is predicted once, chance stays chance."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lom_core import ModalityConfig, ModalityRegistry
from lom_core.data import Reader
from lom_core.embed import columns, labels_of
from lom_core.embeddings import open_embeddings, write_embeddings
from lom_core.errors import ConfigError, DataError
from lom_core.measures import interval, main_score, measure
from lom_core.roles import Array
from lom_core.sources import ListSource
from lom_core.splits import Grouping, Labels, Part, folds_of, hold_out

sklearn = pytest.importorskip("sklearn")
from lom_core import probe as module  # noqa: E402
from lom_core.probe import _draw, probe  # noqa: E402


def write(path: Path, **columns: Any) -> Path:
    n = len(next(iter(columns.values())))
    table = {"id": np.array([f"r{i}" for i in range(n)]), **columns}
    table = {k: v.astype(np.float32) if np.ndim(v) == 2 else v for k, v in table.items()}
    write_embeddings(path, [table], {"given": ["spectra"]})
    return path


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """60 objects of four records each. ``embedding`` holds the class, ``identity`` only tells
    objects apart: who splits by record reads the class from it, who splits by object cannot."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(60), 4)
    kind = rng.integers(0, 2, 60)[owner]
    held = rng.normal(size=(240, 6))
    held[:, 0] += 3 * kind
    identity = rng.normal(size=(60, 16))[owner] * 5 + rng.normal(size=(240, 16)) * 0.01
    names = np.array(["galaxy", "supernova"])[kind]
    number = kind * 2.0 + rng.normal(size=240) * 0.1
    return write(
        tmp_path / "e.npz",
        embedding=held,
        identity=identity,
        **{"class": names, "object_id": owner, "z": number},
    )


def by(result: Any, feature: str, method: str) -> Any:
    return next(s for s in result.scores if (s.feature, s.method) == (feature, method))


def test_what_is_held_is_found_and_what_is_not_stays_chance(objects: Path) -> None:
    how: Any = {"curve": False, "draws": 200, "seed": 1, "folds": 2}
    by_object = Grouping("object_id")
    grouped = probe(objects, "class", grouping=by_object, features=["embedding"], **how)
    assert grouped.task == "classify"
    assert by(grouped, "nothing", "majority").metrics["balanced_accuracy"] == 0.5
    for method in ("logistic", "knn", "mlp", "forest"):
        held = by(grouped, "embedding", method)
        assert held.metrics["balanced_accuracy"] > 0.8
        assert held.low <= held.metrics["balanced_accuracy"] <= held.high
    how |= {"methods": ["knn"], "features": ["identity"]}
    apart = probe(objects, "class", grouping=by_object, **how)
    assert by(apart, "identity", "knn").metrics["balanced_accuracy"] < 0.75
    leaking = probe(objects, "class", **how)
    assert by(leaking, "identity", "knn").metrics["balanced_accuracy"] > 0.95
    assert any("may stand on both sides" in line for line in leaking.splits)
    assert any("no group is on both sides" in line for line in grouped.splits)


def test_numbers(objects: Path) -> None:
    how: Any = {"features": ["embedding"], "methods": ["ridge"], "draws": 100, "folds": 3}
    result = probe(objects, "z", grouping=Grouping("object_id"), **how)
    assert (result.task, result.main) == ("regress", "r2")
    assert by(result, "nothing", "mean").metrics["r2"] < 0.05
    assert by(result, "embedding", "ridge").metrics["r2"] > 0.5
    assert {p.name for p in result.curve} >= {"10 records", "100 records", "100%"}
    assert any("no learning curve at 500 records" in line for line in result.splits)


def test_the_test_part_never_reaches_a_choice(
    objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Change every test label after the split: folds, choices and curves stay what they were."""
    how: Any = {"features": ["embedding"], "folds": 3, "draws": 50}
    before = probe(objects, "class", grouping=Grouping("object_id"), methods=["logistic"], **how)

    def lying(*args: Any) -> tuple[Part, Part, str]:
        learn, test, told = hold_out(*args)
        return learn, Part(test.x, test.y[::-1].copy(), test.groups), told

    monkeypatch.setattr(module, "hold_out", lying)
    after = probe(objects, "class", grouping=Grouping("object_id"), methods=["logistic"], **how)
    assert after.curve == before.curve
    for a, b in zip(after.scores[1:], before.scores[1:], strict=True):
        assert (a.folds, a.chosen) == (b.folds, b.chosen)
        assert a.metrics != b.metrics


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    n_groups=st.integers(12, 40),
    n=st.integers(60, 200),
    k=st.integers(2, 5),
)
def test_no_group_is_ever_on_both_sides(seed: int, n_groups: int, n: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n_groups, n).astype(str)
    y = rng.integers(0, 2, n).astype(str)
    rows = Part({"x": np.arange(n)[:, None].astype(float)}, y, groups)
    try:
        learn, test, _ = hold_out(rows, "classify", Grouping("g"), k, seed)
    except DataError as error:
        assert "groups" in str(error)
        return
    assert not set(learn.groups) & set(test.groups)
    assert len(learn) + len(test) == n
    seen = []
    for a, b in folds_of(learn, "classify", k, seed):
        assert not set(learn.groups[a]) & set(learn.groups[b])
        seen += b.tolist()
    assert sorted(seen) == list(range(len(learn)))


def test_cells_of_the_sky_are_groups(tmp_path: Path) -> None:
    ra = np.array([0.1, 0.9, 1.1, 0.5, -0.1])
    dec = np.array([0.0, 0.5, 0.5, 1.5, 0.5])
    path = write(tmp_path / "e.npz", embedding=np.zeros((5, 2)), ra=ra, dec=dec)
    from lom_core.embeddings import open_embeddings

    labels = Labels(open_embeddings(path))
    groups = Grouping(spatial=("ra", "dec"), cell=1.0).of(labels)
    assert groups.tolist() == ["0,0", "0,0", "1,0", "0,1", "-1,0"]
    with pytest.raises(ConfigError, match="not both"):
        Grouping("object", ("ra", "dec"))
    with pytest.raises(ConfigError, match="no label 'deg'"):
        Grouping(spatial=("ra", "deg")).of(labels)


def test_a_test_file_that_shares_an_object_is_refused(objects: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    columns: Any = {
        "embedding": rng.normal(size=(8, 6)),
        "identity": rng.normal(size=(8, 16)),
        "class": np.array(["galaxy", "supernova"] * 4),
        "object_id": np.arange(59, 67),
    }
    other = write(tmp_path / "t.npz", **columns)
    with pytest.raises(DataError, match=r"1 groups .* are in both files, such as '59'"):
        probe(objects, "class", grouping=Grouping("object_id"), test=other)
    columns["object_id"] = np.arange(60, 68)
    other = write(tmp_path / "t.npz", **columns)
    result = probe(
        objects, "class", grouping=Grouping("object_id"), test=other, methods=["knn"], curve=False
    )
    assert any("the 8 records of" in line for line in result.splits)
    columns["class"] = np.array(["galaxy", "quasar"] * 4)
    with pytest.raises(DataError, match="cannot be learned: quasar"):
        probe(
            objects,
            "class",
            grouping=Grouping("object_id"),
            test=write(tmp_path / "t.npz", **columns),
        )


def test_labels_from_a_catalogue(objects: Path, tmp_path: Path) -> None:
    rows = [f"r{i},{i % 2}.5,{'ab'[i % 2]}" for i in range(0, 240, 2)]
    (tmp_path / "more.csv").write_text("id,mass,shape\n" + "\n".join(rows))
    with pytest.raises(DataError, match="all records have the label 'a'"):
        probe(objects, "shape", catalogue=tmp_path / "more.csv")
    rows = [f"r{i},{i}.5,{'ab'[i % 3 > 0]}" for i in range(0, 240, 2)]
    (tmp_path / "more.csv").write_text("id,mass,shape\n" + "\n".join(rows))
    how: Any = {"methods": ["knn"], "curve": False, "features": ["embedding"]}
    result = probe(objects, "shape", catalogue=tmp_path / "more.csv", **how)
    assert any("120 of 240 records" in line and "no 'shape'" in line for line in result.splits)
    for text, message in (
        ("name\nx", "needs a column 'id'"),
        ("id,z\nr1,1\nr1,2", "repeat an id"),
        ("id,z\nq,1", "none of its ids"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            probe(objects, "z", catalogue=tmp_path / "bad.csv")


def test_numbers_that_are_names_keep_their_digits(objects: Path, tmp_path: Path) -> None:
    """Gaia's source ids differ beyond what a float tells apart."""
    gaia = 5853498713190525696
    rows = [f"r{i},{gaia + i},{i},{i}.5," for i in range(240)]
    (tmp_path / "gaia.csv").write_text("id,source_id,n,mass,none\n" + "\n".join(rows))
    labels = Labels(open_embeddings(objects), tmp_path / "gaia.csv")
    assert len(set(labels.column("source_id").tolist())) == 240
    assert labels.column("source_id")[1] == str(gaia + 1)
    kinds = {name: labels.column(name).dtype.kind for name in ("n", "mass", "none")}
    assert kinds == {"n": "i", "mass": "f", "none": "f"}
    records = [{"x": np.ones((1, 1), np.float32), "source_id": gaia}, {"source_id": None}]
    reader = Reader(ListSource([]), ModalityRegistry([ModalityConfig(name="x", input_size=1)]), 8)
    assert columns([labels_of(r, reader) for r in records])["source_id"].tolist() == [str(gaia), ""]


def test_a_label_that_was_shown_is_refused(objects: Path) -> None:
    with pytest.raises(ConfigError, match="made from records that show 'spectra'"):
        probe(objects, "spectra")


def test_rare_classes_are_left_out_and_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kind = np.array(["a"] * 40 + ["b"] * 40 + ["rare"] * 3)
    path = write(tmp_path / "e.npz", embedding=rng.normal(size=(83, 3)), kind=kind)
    result = probe(path, "kind", methods=["knn"], curve=False, draws=10)
    assert any("left out, in fewer than 6 groups: rare" in line for line in result.splits)
    assert "rare" not in result.classes


def test_mistakes_are_told(objects: Path) -> None:
    with pytest.raises(ConfigError, match=r"no label 'clas'.*did you mean 'class'"):
        probe(objects, "clas")
    with pytest.raises(ConfigError, match=r"method 'ridge' is not for classes; possible: logistic"):
        probe(objects, "class", methods=["ridge"])
    with pytest.raises(ConfigError, match=r"unknown method 'svm'"):
        probe(objects, "class", methods=["svm"])
    with pytest.raises(ConfigError, match=r"no feature 'embeding'"):
        probe(objects, "class", features=["embeding"])


def test_without_scikit_learn_it_says_how_to_get_it(
    objects: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ConfigError, match=r"pip install 'lom-core\[probe\]'"):
        probe(objects, "class")


# --------------------------------------------------------------------------------------- measures


def test_measures_agree_with_scikit_learn() -> None:
    from sklearn import metrics

    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200).astype(str)
    guess = np.where(rng.random(200) < 0.6, y, "1")
    assert main_score(y, guess, "classify") == pytest.approx(
        metrics.balanced_accuracy_score(y, guess)
    )
    x = rng.normal(size=200)
    near = x + rng.normal(size=200)
    found = measure(x, near, "regress")
    assert found["r2"] == pytest.approx(metrics.r2_score(x, near))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(x, near))


def test_intervals_widen_when_records_are_few_objects() -> None:
    """200 records of 200 objects, or of ten that are right or wrong as a whole."""
    rng = np.random.default_rng(0)
    y = np.array(["a", "b"] * 100)
    right = np.repeat(rng.random(10) < 0.7, 20)
    guess = np.where(right, y, "c")
    each = interval(y, guess, np.arange(200), "classify", 300, 0)
    whole = interval(y, guess, np.repeat(np.arange(10), 20), "classify", 300, 0)
    assert whole[1] - whole[0] > 2 * (each[1] - each[0])


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Correct with chance 0.8, 150 draws of a test set: about 95% of the intervals hold 0.8."""
    rng = np.random.default_rng(1)
    inside = 0
    for i in range(150):
        y = np.array(["a", "b"] * 50)
        guess = np.where(rng.random(100) < 0.8, y, "c")
        low, high = interval(y, guess, np.arange(100), "classify", 200, i)
        inside += low <= 0.8 <= high
    assert inside / 150 > 0.86


@given(n=st.integers(2, 60), seed=st.integers(0, 9))
def test_draws_take_the_same_of_each_class(n: int, seed: int) -> None:
    y: Array = np.array(["a"] * 30 + ["b"] * 50)
    drawn = _draw(y, n, "classify", np.random.default_rng(seed))
    if n > 30:
        assert not len(drawn)
    else:
        assert len(set(drawn.tolist())) == 2 * n and (y[drawn] == "a").sum() == n
    share = _draw(y, 0.1, "classify", np.random.default_rng(seed))
    assert [(y[share] == c).sum() for c in "ab"] == [3, 5]
