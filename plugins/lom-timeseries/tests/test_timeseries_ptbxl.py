"""PTB-XL in the layout in which it is published: its folds, statements and records."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lom_timeseries import ECG, LEADS, PTBXL

from lom_core import BadRecord, ConfigError, DataError, ModalityRegistry
from lom_core.builtin import Category, Scalar
from lom_core.config import RunConfig

REGISTRY = ModalityRegistry(
    [
        ECG(),
        Category(name="normal", labels=("no", "yes")),
        Category(name="infarct", labels=("no", "yes")),
        Scalar(name="age"),
    ]
)


def write_record(path: Path, rate: int, digital: Any) -> None:
    """A 12-lead record as PTB-XL's are: format 16, 1000 units a mV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"{path.name} 12 {rate} {len(digital)}\n"
    head += "".join(
        f"{path.name}.dat 16 1000.0(0)/mV 16 0 {digital[0, i]} 0 0 {lead}\n"
        for i, lead in enumerate(LEADS)
    )
    path.with_name(f"{path.name}.hea").write_text(head)
    path.with_name(f"{path.name}.dat").write_bytes(digital.astype("<i2").tobytes())


SCP = [
    ("NORM", "normal ECG", "1.0", "", "", "NORM"),
    ("IMI", "inferior MI", "1.0", "", "", "MI"),
    ("SR", "sinus rhythm", "", "", "1.0", ""),
]
HEAD = [
    "ecg_id",
    "patient_id",
    "age",
    "sex",
    "scp_codes",
    "strat_fold",
    "filename_lr",
    "filename_hr",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """PTB-XL's files and folders, ten records of 20 samples in folds 1 to 10."""
    rows = []
    for i in range(1, 11):
        codes = {"NORM": 100.0, "SR": 0.0} if i % 2 else {"IMI": 35.0, "SR": 0.0}
        names = [f"records{hz}/00000/{i:05}_{tag}" for hz, tag in ((100, "lr"), (500, "hr"))]
        for name, rate, n in zip(names, (100, 500), (20, 100), strict=True):
            digital = np.full((n, 12), i, np.int16) + np.arange(12, dtype=np.int16)
            write_record(tmp_path / name, rate, digital)
        age = "" if i == 3 else str(50.0 + i)
        rows.append([i, 15000.0 + i, age, i % 2, str(codes), i, *names])
    for name, head, body in (
        ("ptbxl_database.csv", HEAD, rows),
        (
            "scp_statements.csv",
            ["", "description", "diagnostic", "form", "rhythm", "diagnostic_class"],
            SCP,
        ),
    ):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([head, *body])
    return tmp_path


TARGETS = {"normal": "scp:NORM", "infarct": "superclass:MI", "age": "age"}


def test_ptbxl(root: Path) -> None:
    sources = {s: PTBXL(root=str(root), split=s).build(REGISTRY) for s in ("train", "val", "test")}
    ids = {s: [source[i]["id"] for i in range(len(source))] for s, source in sources.items()}
    assert ids["train"] == [f"ptbxl-{i}" for i in range(1, 9)]
    assert (ids["val"], ids["test"]) == (["ptbxl-9"], ["ptbxl-10"])
    low = sources["train"][2]["ecg"]
    assert low["rate"] == 100 and low["values"].shape == (20, 12) and low["leads"] == list(LEADS)
    np.testing.assert_allclose(low["values"][0], (3 + np.arange(12)) / 1000, rtol=1e-6)
    tokens = REGISTRY.get_config("ecg").tokeniser.build().encode(low)
    assert len(tokens) == 12
    high = PTBXL(root=str(root), folds=(3, 10), high_resolution=True).build(REGISTRY)
    assert len(high) == 2 and high[0]["ecg"]["rate"] == 500
    assert high[0]["ecg"]["values"].shape == (100, 12)


def test_ptbxl_targets(root: Path) -> None:
    source = PTBXL(root=str(root), targets=TARGETS).build(REGISTRY)
    one, two, three = (source[i] for i in range(3))
    assert (one["normal"], one["infarct"], one["age"]) == (1, 0, "51.0")
    assert (two["normal"], two["infarct"]) == (0, 1)
    assert "age" not in three, "an empty cell was not observed"
    for name in TARGETS:
        REGISTRY.get_config(name).tokeniser.build().encode(one[name])
    sure = PTBXL(root=str(root), targets=TARGETS, min_likelihood=50).build(REGISTRY)
    assert (sure[0]["normal"], sure[1]["infarct"]) == (1, 0)


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        (
            {"targets": {"normal": "superclass:XY"}},
            ConfigError,
            "no superclass 'XY'; there are: MI, NORM",
        ),
        ({"targets": {"normal": "weight"}}, ConfigError, "'weight' is no scp:CODE"),
        ({"targets": {"normal": "class:NORM"}}, ConfigError, "is no scp:CODE"),
        ({"targets": {"other": "age"}}, ConfigError, "unknown modality 'other'"),
        ({"folds": (11,)}, DataError, "no record of folds"),
    ],
)
def test_ptbxl_settings_that_are_refused(root: Path, fields: Any, error: Any, told: str) -> None:
    with pytest.raises(error, match=told):
        PTBXL(root=str(root), **fields).build(REGISTRY)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("strat_fold", "fold", "lacks"),
        (",1,records100/00000/00001_lr", ",one,records100/00000/00001_lr", "not a number"),
        (",1,records100/00000/00001_lr", "", "another number of cells"),
    ],
)
def test_ptbxl_tables_that_are_refused(root: Path, old: str, new: str, told: str) -> None:
    table = root / "ptbxl_database.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(DataError, match=told):
        PTBXL(root=str(root)).build(REGISTRY)


def test_ptbxl_without_its_files(root: Path) -> None:
    with pytest.raises(DataError, match="root must be the unpacked PTB-XL folder"):
        PTBXL(root=str(root / "records100")).build(REGISTRY)
    table = root / "ptbxl_database.csv"
    text = table.read_text()
    table.write_text(text.replace("records100/00000/00001_lr", "../../00001_lr"))
    source = PTBXL(root=str(root), targets=TARGETS).build(REGISTRY)
    with pytest.raises(BadRecord, match="outside the data set's folder"):
        source[0]
    (root / "records100/00000/00002_lr.dat").unlink()
    with pytest.raises(BadRecord, match="no such file") as caught:
        source[1]
    assert str(caught.value.file).endswith("00002_lr.dat")
    table.write_text(text.replace("{'NORM': 100.0, 'SR': 0.0}", "__import__('os')"))
    with pytest.raises(BadRecord, match="scp_codes that cannot be read"):
        PTBXL(root=str(root), targets=TARGETS).build(REGISTRY)[0]


def test_an_ecg_and_its_label_train_and_report(root: Path) -> None:
    """Two modalities: the ECG is given, its label is asked for."""
    from lom_core.report import write_report
    from lom_core.train import train

    data = {"kind": "ptbxl", "root": str(root), "targets": {"normal": "scp:NORM"}}
    config = RunConfig.model_validate(
        {
            "modalities": {
                "ecg": {"kind": "ecg", "patch_size": 10},
                "normal": {"kind": "category", "labels": ["no", "yes"]},
            },
            "data": {
                "dataset": data,
                "eval": {"val": {**data, "split": "val"}},
                "block_size": 64,
                "batch_size": 2,
            },
            "objective": {"kind": "prefix", "given": ["ecg"]},
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "train": {"max_iters": 2, "eval_iters": 2},
            "system": {
                "out_dir": str(root / "run"),
                "dtype": "float32",
                "device": "cpu",
                "num_threads": 1,
            },
        }
    )
    result = train(config)
    assert 0 < result.metrics["val"]["loss/normal"] < 3
    assert "normal" in write_report(root / "run", None, 1).read_text(encoding="utf8")
