"""Folds: no object in two splits, nothing lost, read back as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lom_timeseries import LightCurve, LightCurveFiles
from lom_timeseries.prepare import SPLITS, prepare_folds, split_of, usable

from lom_core import BadRecord, ConfigError, DataError, ModalityRegistry
from lom_core.builtin import Category

pytest.importorskip("pyarrow")
REGISTRY = ModalityRegistry(
    [LightCurve(bands=("g", "r")), Category(name="kind", labels=("a", "b"))]
)
SHARES = (0.6, 0.2, 0.2)


def record(i: int, **more: Any) -> dict[str, Any]:
    n = 3 + i % 5
    curve = {
        "time": 59000.123456789 + np.arange(n),
        "value": 20 + 0.1 * i + np.arange(n) / 7,
        "error": np.full(n, 0.1),
        "band": np.array(["g", "r"])[np.arange(n) % 2],
    }
    return {"light_curves": curve, "kind": "ab"[i % 2], "id": f"star-{i}", **more}


def read(folder: Path) -> dict[str, Any]:
    files = LightCurveFiles(paths=str(folder), object_column="id", targets={"kind": "label"})
    source = files.build(REGISTRY)
    found = [source[i] for i in range(len(source))]
    assert len({r["id"] for r in found}) == len(found)
    return {r["id"].split("#")[1]: r for r in found}


def test_folds_hold_every_object_once_and_test_sets_are_disjoint(tmp_path: Path) -> None:
    out = tmp_path / "folds"
    made = [record(i) for i in range(200)]
    n_of = prepare_folds(iter(made), out, 3, SHARES, seed=4, shard_size=30, label="kind")
    assert json.loads((out / "folds.json").read_text())["splits"] == n_of
    assert not (tmp_path / "folds.partial").exists()
    tests: list[set[str]] = []
    for k in range(3):
        parts = {split: read(out / f"fold_{k}" / split) for split in SPLITS}
        assert sum(map(len, parts.values())) == 200
        assert len(set().union(*parts.values())) == 200, "no object in two splits, none lost"
        for split, share in zip(SPLITS, SHARES, strict=True):
            n = len(parts[split])
            assert n == n_of[f"fold_{k}/{split}"]["objects"]
            assert abs(n / 200 - share) < 0.12  # 3.5 sigma at most
        tests.append(set(parts["test"]))
        back = {**parts["train"], **parts["val"], **parts["test"]}
        for original in made:
            again = back[original["id"]]
            assert again["kind"] == original["kind"]
            for key, column in original["light_curves"].items():
                np.testing.assert_array_equal(again["light_curves"][key], column)
    assert not (tests[0] & tests[1] or tests[0] & tests[2] or tests[1] & tests[2])
    shards = sorted((out / "fold_0" / "train").iterdir())
    assert [p.name for p in shards[:2]] == ["part-00000.parquet", "part-00001.parquet"]


def test_an_object_stays_where_it_is_when_others_come(tmp_path: Path) -> None:
    for n in (60, 120):
        prepare_folds((record(i) for i in range(n)), tmp_path / str(n), 1, SHARES, label="kind")
    for split in SPLITS:
        few, many = (set(read(tmp_path / n / "fold_0" / split)) for n in ("60", "120"))
        assert few <= many
    first = [split_of(f"s{i}", 0, 1, SHARES, seed=0) for i in range(99)]
    assert first != [split_of(f"s{i}", 0, 1, SHARES, seed=1) for i in range(99)]


def test_several_curves_of_an_object_stay_together(tmp_path: Path) -> None:
    made = [record(i, id=f"star-{i % 40}.{i // 40}") for i in range(120)]
    out = tmp_path / "folds"
    n_of = prepare_folds(
        made, out, 1, SHARES, label="kind", object_of=lambda r: r["id"].split(".")[0]
    )
    objects = [{name.split(".")[0] for name in read(out / "fold_0" / split)} for split in SPLITS]
    assert sum(map(len, objects)) == 40 and len(set().union(*objects)) == 40
    assert n_of["fold_0/train"]["curves"] == 3 * n_of["fold_0/train"]["objects"]


def test_a_share_of_0_has_no_folder(tmp_path: Path) -> None:
    prepare_folds((record(i) for i in range(50)), tmp_path / "f", shares=(0.8, 0.2, 0))
    assert sorted(p.name for p in (tmp_path / "f" / "fold_0").iterdir()) == ["train", "val"]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"shares": (0.8, 0.1, 0.2)}, "sum 1"),
        ({"shares": (1.2, -0.1, -0.1)}, "sum 1"),
        ({"n_folds": 0}, "at least 1"),
        ({"shard_size": 0}, "at least 1"),
    ],
)
def test_settings_that_are_refused(tmp_path: Path, fields: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        prepare_folds([record(0)], tmp_path / "f", **fields)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ([{"light_curves": {}}], "without an id"),
        ([{"id": "x"}], "has no 'light_curves'"),
        ([{k: v for k, v in record(0).items() if k != "kind"}], "has no 'kind'"),
        ([record(0), record(1, light_curves={"time": [1], "value": [2]})], "the same parts"),
        ([record(0, light_curves={"time": [1], "value": [2], "weight": [1]})], "has weights"),
        ([record(0, light_curves={"time": [1]})], "no light curve"),
        ([record(0)], "no object fell into"),
    ],
)
def test_records_that_are_refused_leave_no_folds(tmp_path: Path, made: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        prepare_folds(made, tmp_path / "f", label="kind")
    assert not (tmp_path / "f").exists()


def test_existing_folds_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(ConfigError, match="exists"):
        prepare_folds([record(0)], tmp_path / "f")


class Source:
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> Any:
        if index in (3, 7):
            raise BadRecord("cannot be read")
        return record(index)


def test_bad_records_are_counted_up_to_a_share() -> None:
    bad: Counter[str] = Counter()
    assert len(list(usable(Source(), bad, 0.02))) == 98
    assert bad == {"cannot be read": 2}
    with pytest.raises(DataError, match="2 of 100 records are bad: 2 x cannot be read"):
        list(usable(Source(), Counter(), 0.01))


def test_the_command(tmp_path: Path) -> None:
    run = tmp_path / "run.yaml"
    run.write_text(
        "modalities:\n  light_curves: {kind: light_curve, bands: [g, r, i, z, cyan, orange]}\n"
        "data: {dataset: {kind: light_curve_samples}}\n"
    )
    command = [sys.executable, "-m", "lom_core", "data", "prepare", str(run)]
    done = subprocess.run(
        [
            *command,
            "--out",
            str(tmp_path / "folds"),
            "--folds",
            "2",
            "--val",
            "0.2",
            "--test",
            "0.2",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "fold_1/test" in done.stdout
    n = [len(list((tmp_path / "folds" / f"fold_{k}").rglob("*.parquet"))) for k in range(2)]
    assert n == [3, 3]
