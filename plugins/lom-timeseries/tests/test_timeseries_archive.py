"""Sets of the UCR / UEA archive by name: the one beside this file, and those that aeon ships."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lom_timeseries import UCR, Series, UCRFiles
from lom_timeseries.ucr import archive, held_out, named_sets

from lom_core import BadRecord, ConfigError, DataError, ModalityRegistry
from lom_core.builtin import Category, Scalar

HERE = Path(__file__).parent / "ucr"
TWO = ModalityRegistry([Series(patch_size=4), Category(name="kind", labels=("1", "2"))])
AEON = pytest.mark.skipif(importlib.util.find_spec("aeon") is None, reason="needs aeon")


def opened(split: str, **fields: Any) -> Any:
    given = {"name": "UnitTest", "folder": str(HERE), "label_modality": "kind", **fields}
    return UCR(split=split, **given).build(TWO)


def classes(source: Any) -> Counter[str]:
    return Counter(source[i]["kind"] for i in range(len(source)))


def test_splits_of_a_real_set() -> None:
    train, val, test = (opened(split) for split in ("train", "val", "test"))
    assert classes(train) == {"1": 8, "2": 8} and classes(val) == {"1": 2, "2": 2}
    assert classes(test) == {"1": 12, "2": 10}
    np.testing.assert_array_equal(test[21]["series"][:3, 0], [193, 195, 90])
    ids = [{s[i]["id"] for i in range(len(s))} for s in (train, val)]
    assert not ids[0] & ids[1] and len(ids[0] | ids[1]) == 20
    again, other = opened("val"), opened("val", seed=1)
    assert ids[1] == {again[i]["id"] for i in range(4)} != {other[i]["id"] for i in range(4)}
    assert len(opened("train", val_fraction=0)) == 20
    with pytest.raises(DataError, match="val_fraction 0 leaves no series for val"):
        opened("val", val_fraction=0)
    for source in (train, test):
        for modality, value in source[0].items():
            if modality != "id":
                TWO.get_config(modality).tokeniser.build().encode(value)


def test_tsv_and_a_folder_without_folders(tmp_path: Path) -> None:
    (tmp_path / "ECG200_TRAIN.tsv").write_text("-1\t0.5\t0.6\n1\t0.7\t0.8\n-1\t1\t2\n")
    source = UCR(name="ECG200", folder=str(tmp_path), val_fraction=0, label_modality="kind").build(
        TWO
    )
    assert [source[i]["kind"] for i in range(3)] == ["-1", "1", "-1"]
    with pytest.raises(DataError, match=r"ECG200 has no file ECG200_TEST\.ts or \.tsv"):
        UCR(name="ECG200", folder=str(tmp_path), split="test").build(TWO)


def test_names_and_folders_that_are_wrong(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(ConfigError, match=r"no set 'UnitTst' .*did you mean 'UnitTest'"):
        opened("train", name="UnitTst")
    for name in ("../ucr/UnitTest/UnitTest", "UnitTest/UnitTest", ""):
        with pytest.raises(ConfigError, match="no set"):
            opened("train", name=name)
    with pytest.raises(ConfigError, match=r"it has no file \*_TRAIN"):
        opened("train", folder=str(tmp_path))
    with pytest.raises(ConfigError, match="no such folder"):
        opened("train", folder=str(tmp_path / "no"))
    with pytest.raises(ConfigError, match="other"):
        opened("train", label_modality="other")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'lom-timeseries\[aeon\]'"):
        opened("train", folder="")


@given(st.lists(st.sampled_from("abc"), max_size=60), st.floats(0, 0.99), st.integers(0, 2**32 - 1))
def test_held_out_is_a_share_of_each_class(names: list[str], share: float, seed: int) -> None:
    held = held_out(names, share, seed)
    assert np.array_equal(held, held_out(names, share, seed))
    for name in set(names):
        of = held[np.array(names) == name]
        assert not of.all() and abs(of.sum() - share * len(of)) <= 1
        assert share == 0 or len(of) == 1 or of.any()


@AEON
def test_every_series_that_aeon_ships() -> None:
    sets = named_sets(archive(""))
    read = 0
    for name, files in sets.items():
        for split in ("train", "test") if "TEST" in files else ("train",):
            if name == "UnitTestTimeStamps":
                with pytest.raises(DataError, match="timestamps"):
                    UCR(name=name).build(TWO)
                continue
            source = UCR(name=name, split=split, val_fraction=0).build(TWO)
            for i in range(len(source)):
                leads = source[i]["series"].shape[1]
                config = Series(patch_size=8, leads=[str(n) for n in range(leads)])
                assert len(config.tokeniser.build().encode(source[i]["series"]).content)
            read += len(source)
    assert len(sets) >= 10 and read > 2000


@AEON
def test_many_dimensions_lengths_and_numbers() -> None:
    motions = UCR(name="BasicMotions", label_modality="kind").build(TWO)
    assert motions[0]["series"].shape == (100, 6)
    assert classes(motions) == dict.fromkeys(("Standing", "Running", "Walking", "Badminton"), 8)
    vowels = UCR(name="JapaneseVowels").build(TWO)
    lengths = {vowels[i]["series"].shape for i in range(len(vowels))}
    assert {width for _, width in lengths} == {12} and len(lengths) > 5
    registry = ModalityRegistry([Series(), Scalar(name="share")])
    covid = UCR(name="Covid3Month", split="val", label_modality="share").build(registry)
    tokens = registry.get_config("share").tokeniser.build().encode(covid[0]["share"])
    assert len(covid) == 28 and 0 <= float(tokens.content[0, 0]) < 1
    encoder = TWO.get_config("series").tokeniser.build()
    with pytest.raises(BadRecord, match="lead"):
        encoder.encode(motions[0]["series"])


@AEON
def test_a_split_by_name_is_the_file_of_that_name() -> None:
    path = archive("") / "GunPoint" / "GunPoint_TEST.ts"
    named = UCR(name="GunPoint", split="test", label_modality="kind").build(TWO)
    plain = UCRFiles(paths=[str(path)], label_modality="kind").build(TWO)
    assert len(named) == len(plain) == 150
    assert all(np.array_equal(named[i]["series"], plain[i]["series"]) for i in range(150))
    assert classes(named) == classes(plain)
