"""Where records come from: files, user code, crossmatched and concatenated sets."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core.errors import BadRecord, ConfigError, DataError
from lom_core.files import FileDataset, list_paths
from lom_core.loader import open_sources
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Dataset, Tokens
from lom_core.sources import (
    ConcatSource,
    CrossmatchSource,
    ListSource,
    UserSource,
    open_table,
)

REGISTRY = ModalityRegistry([ModalityConfig(name=n, input_size=1) for n in ("x", "y")])


class Numbers(FileDataset):
    """A number a line; the tests' own format."""

    suffixes = (".num",)
    modality: str = "x"

    def read(self, path: Path, row: int) -> Any:
        return np.array([float(line) for line in path.read_text().splitlines()])[:, None]


class Rows(Numbers):
    """A record a line."""

    def count(self, path: Path) -> int:
        return len(path.read_text().splitlines()) if path.is_file() else 1

    def read(self, path: Path, row: int) -> Any:
        return super().read(path, row)[row]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {
        "b.num": "1\n2\n",
        "a.num": "3\n",
        "empty.num": "",
        "bad.num": "one\n",
    }.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "list.txt").write_text(f"{tmp_path}/b.num\n-\n\nmissing.num\na.num\n")
    return tmp_path


def test_suffixes_in_capitals_or_without_a_comma_find_files(folder: Path) -> None:
    class Loud(Numbers):
        suffixes = (".NUM",)

    class Bare(Numbers):
        suffixes = ".num"  # type: ignore[assignment]

    for kind in (Loud, Bare):
        assert len(kind(paths=str(folder)).build(REGISTRY)) == 4


def test_a_reader_that_fails_names_the_file(folder: Path) -> None:
    class Fails(Numbers):
        def read(self, path: Path, row: int) -> Any:
            raise TypeError("Unknown format")

    with pytest.raises(TypeError) as caught:
        Fails(paths=str(folder / "a.num")).build(REGISTRY)[0]
    assert "a.num; raise BadRecord" in caught.value.__notes__[0]


def test_files_of_one_name_have_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for event, station in (("1960", "ANMO"), ("2011", "ANMO"), ("2011", "KONO")):
        (tmp_path / event).mkdir(exist_ok=True)
        (tmp_path / event / f"{station}.num").write_text("1\n2\n")
    whole = Numbers(paths=str(tmp_path)).build(REGISTRY)
    assert [whole[i]["id"] for i in range(3)] == ["1960/ANMO.num", "2011/ANMO.num", "2011/KONO.num"]
    monkeypatch.chdir(tmp_path)
    mixed = [str(tmp_path / "1960/ANMO.num"), "-", "2011/ANMO.num"]
    source = Rows(paths=mixed).build(REGISTRY)
    assert [source[i].get("id") for i in (1, 2, 4)] == ["1960/ANMO.num#1", None, "2011/ANMO.num#1"]
    alone = Numbers(paths=str(tmp_path / "2011")).build(REGISTRY)
    assert [alone[i]["id"] for i in range(2)] == ["ANMO.num", "KONO.num"]


def test_a_path_list_keeps_its_lines_and_their_gaps(folder: Path) -> None:
    source = Numbers(paths=str(folder / "list.txt")).build(REGISTRY)
    assert len(source) == 5
    assert source[0]["x"].tolist() == [[1], [2]] and source[0]["id"] == "b.num"
    assert source[1] == {} == source[2]
    with pytest.raises(BadRecord, match=r"missing.num: no such file"):
        source[3]
    assert source[4]["x"].tolist() == [[3]]  # relative to the list
    assert len(pickle.loads(pickle.dumps(source))) == 5


def test_folders_and_globs_are_sorted(folder: Path) -> None:
    names = ["a.num", "b.num", "bad.num", "empty.num"]
    assert [p.name for p in list_paths(str(folder), (".num",)) if p] == names
    assert [p.name for p in list_paths(str(folder / "[ab].num")) if p] == names[:2]
    assert list_paths([str(folder / "a.num"), "-"]) == [folder / "a.num", None]
    (folder / "a[1].num").write_text("1")
    assert list_paths(str(folder / "a[1].num"), (".num",)) == [folder / "a[1].num"]


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("nowhere.txt", "no such path list, folder or glob: nowhere.txt"),
        ("*.none", "no file matches"),
    ],
)
def test_no_files_is_told_at_once(paths: str, message: str, folder: Path) -> None:
    with pytest.raises(DataError, match=message):
        Numbers(paths=paths).build(REGISTRY)
    (folder / "void").mkdir()
    with pytest.raises(DataError, match=r"no \.num file below"):
        Numbers(paths=str(folder / "void")).build(REGISTRY)
    (folder / "a.bin").write_bytes(b"SIMPLE\x9c")
    with pytest.raises(DataError, match=r"a\.bin is no path list .*none ends so: \.num"):
        Numbers(paths=str(folder / "a.bin")).build(REGISTRY)


def test_damaged_files_name_file_and_reason(folder: Path) -> None:
    source = Numbers(paths=[str(folder / n) for n in ("empty.num", "bad.num")]).build(REGISTRY)
    with pytest.raises(BadRecord, match=r"empty.num: empty file"):
        source[0]
    with pytest.raises(
        BadRecord, match=r"bad.num: cannot be read \(ValueError: could not convert"
    ) as caught:
        source[1]
    assert caught.value.reason == "cannot be read"
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.reason == caught.value.reason


def test_files_with_many_records_name_the_row(folder: Path) -> None:
    (folder / "c.num").write_text("7\n8\n")
    source = Rows(paths=[str(folder / "c.num"), str(folder / "gone.num")]).build(REGISTRY)
    assert [source[i]["id"] for i in range(2)] == ["c.num#0", "c.num#1"] and source[1]["x"] == [8]
    with pytest.raises(BadRecord, match=r"gone.num row 0: no such file"):
        source[2]


def test_ids_differ_beside_a_file_without_records(folder: Path) -> None:
    (folder / "c.num").write_text("7\n8\n")
    (folder / "none.num").write_text("")
    paths = [str(folder / name) for name in ("none.num", "c.num")]
    source = Rows(paths=paths).build(REGISTRY)
    assert [source[i]["id"] for i in range(len(source))] == ["c.num#0", "c.num#1"]


def test_the_files_modality_must_be_one_of_the_run(folder: Path) -> None:
    with pytest.raises(ConfigError, match="unknown modality 'z'"):
        Numbers(paths=str(folder), modality="z").build(REGISTRY)


# ------------------------------------------------------------------------------- combinations


def test_crossmatched_sets_are_read_side_by_side(folder: Path) -> None:
    a, b, gap = str(folder / "a.num"), str(folder / "b.num"), "-"
    both = CrossmatchSource(
        {
            "x": Numbers(paths=[a, b, gap]).build(REGISTRY),
            "y": Numbers(paths=[b, gap, gap], modality="y").build(REGISTRY),
        }
    )
    assert set(both[0]) == {"x", "y", "id"} and both[0]["id"] == "a.num"
    assert set(both[1]) == {"x", "id"} and both[2] == {}


def test_path_lists_of_different_length_are_refused_before_training(folder: Path) -> None:
    sets = {
        "images": Numbers(paths=[str(folder / "a.num")] * 3),
        "spectra": Numbers(paths=[str(folder / "b.num")] * 2, modality="y"),
    }
    from lom_core.config import DataConfig

    crossmatch = Dataset.model_validate({"kind": "crossmatch", "of": sets})
    with pytest.raises(DataError, match=r"same length: images has 3, spectra has 2"):
        open_sources(DataConfig(dataset=crossmatch), REGISTRY, 0)


def test_crossmatch_by_id_joins_files_and_tables_in_any_order(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("name,z\nb,2\nnone,9\na,1\n")
    z = open_table(str(table), {"z": "z"}, "name", {})
    x = Numbers(paths=[str(folder / "a.num"), "-", str(folder / "b.num")]).build(REGISTRY)
    both = CrossmatchSource({"x": x, "z": z}, "id")
    assert [(r["id"], r.get("z"), "x" in r) for r in (both[i] for i in range(len(both)))] == [
        ("a", 1, True),
        ("b", 2, True),
        ("none", 9, False),
    ]
    assert pickle.loads(pickle.dumps(both))[1]["x"].tolist() == [[1], [2]]


def test_a_table_of_excel_is_read_and_shifted_cells_are_refused(tmp_path: Path) -> None:
    def opened(text: bytes) -> Any:
        (tmp_path / "a.csv").write_bytes(text)
        return open_table(str(tmp_path / "a.csv"), {"z": "z"}, "id", {})

    marked = opened(b"\xef\xbb\xbfid,z\r\na,1\r\n\r\nb,--\r\n")
    assert marked[0] == {"id": "a", "z": 1} and marked[1] == {"id": "b"}
    with pytest.raises(DataError, match=r"a\.csv line 3 has 4 cells, its first line 3"):
        opened(b"id,name,z\na,M 31,1\nb,NGC 1, A,2\n")
    with pytest.raises(DataError, match="line 2 has 1 cells, its first line 2"):
        opened(b"id,z\na\n")
    with pytest.raises(DataError, match="has two columns 'z'"):
        opened(b"id,z,z\na,1,2\n")
    with pytest.raises(DataError, match=r"a\.csv: cannot be read as CSV in UTF-8"):
        opened(b"SIMPLE\xa1")


def test_crossmatch_by_row_refuses_the_same_ids_in_another_order(folder: Path) -> None:
    x = Numbers(paths=[str(folder / f"{n}.num") for n in "ab"]).build(REGISTRY)
    rows = [{"id": "b", "z": 2}, {"id": "a", "z": 1}]
    with pytest.raises(DataError, match=r"another order \(record 0 is 'a' and 'b'\): set by: id"):
        CrossmatchSource({"x": x, "z": ListSource(rows)})
    assert CrossmatchSource({"x": x, "z": ListSource(rows[::-1])})[1]["z"] == 2
    others = [{"id": "7", "z": 2}, {"id": "8", "z": 1}]  # names of its own: rows are what counts
    assert CrossmatchSource({"x": x, "z": ListSource(others)})[0]["z"] == 2


def test_crossmatch_by_id_refuses_what_it_cannot_match(folder: Path) -> None:
    x = Numbers(paths=[str(folder / "a.num")]).build(REGISTRY)
    twice = ListSource([{"id": "a"}, {"id": "b"}, {"id": "a"}])
    with pytest.raises(DataError, match="'z' has the id 'a' twice, in records 0 and 2"):
        CrossmatchSource({"x": x, "z": twice}, "id")
    with pytest.raises(DataError, match="share an id; they have: x such as 'a', z such as 'A'"):
        CrossmatchSource({"x": x, "z": ListSource([{"id": "A"}])}, "id")
    with pytest.raises(DataError, match=r"'z' \(UserSource\) does not tell its ids"):
        CrossmatchSource({"x": x, "z": user({"x": 1})}, "id")


def test_two_sets_of_one_modality_cannot_be_crossmatched(folder: Path) -> None:
    part = Numbers(paths=[str(folder / "a.num")]).build(REGISTRY)
    with pytest.raises(DataError, match="two crossmatched data sets hold x"):
        CrossmatchSource({"one": part, "two": part})[0]


def test_concat_reads_one_after_the_other_as_often_as_asked(folder: Path) -> None:
    a = Numbers(paths=[str(folder / "a.num")]).build(REGISTRY)
    b = Numbers(paths=[str(folder / "b.num")] * 2, modality="y").build(REGISTRY)
    both = ConcatSource({"first": a, "second": b}, {"first": 2, "second": 1})
    assert [both[i]["id"] for i in range(len(both))] == [
        "first/a.num",
        "first/a.num",
        "second/b.num",
        "second/b.num",
    ]
    assert "y" in both[3]
    with pytest.raises(ValueError, match=r"times names \['third'\]"):
        Dataset.model_validate(
            {"kind": "concat", "of": {"a": Numbers(paths="x")}, "times": {"third": 1}}
        )


# ---------------------------------------------------------------------------------- user code


class Items:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


def user(*items: Any) -> UserSource:
    return UserSource(Items(list(items)), "mine:Data", REGISTRY)


def test_the_flat_form_becomes_tokens() -> None:
    import torch

    source = user(
        {
            "x": torch.ones(3, 1, dtype=torch.bfloat16),
            "x_positions": torch.arange(3),
            "x_weights": torch.tensor([1.0, 0.0, 1.0]),
            "y": None,
            "idx": 42,
        }
    )
    record = source[0]
    assert record["id"] == "42" and "y" not in record
    tokens = record["x"]
    assert isinstance(tokens, Tokens) and tokens.content.dtype == np.float32
    assert tokens.positions.shape == (3, 1) and tokens.weights is not None
    assert tokens.weights[:, 0].tolist() == [1, 0, 1]


def test_the_flat_form_at_its_edges() -> None:
    import torch

    empty = {"x": np.zeros((0, 1)), "x_positions": np.zeros(0), "idx": torch.tensor(7)}
    masked = {"x": np.ma.masked_equal([[1.0], [9.0]], 9), "x_positions": [0, 1]}
    short = {"x": np.zeros((3, 1)), "x_positions": [0, 1]}
    words = {"x": "text", "x_positions": [0]}
    source = user(empty, masked, short, words)
    assert source[0]["id"] == "7" and len(source[0]["x"]) == 0
    assert source[1]["x"].weights.tolist() == [[1], [0]]
    with pytest.raises(BadRecord, match=r"row 2: x_positions of another length \(2 for 3 tokens"):
        source[2]
    with pytest.raises(BadRecord, match=r"mine:Data row 3: x: no array of numbers"):
        source[3]


def test_raw_values_are_left_to_the_tokeniser() -> None:
    assert user({"x": [1.0, 2.0]})[0]["x"] == [1.0, 2.0]


def test_data_errors_are_bad_records_and_mistakes_are_not() -> None:
    source = user(ValueError("no flux"), NameError("name 'flux' is not defined"), [1, 2])
    with pytest.raises(BadRecord, match=r"mine:Data row 0: cannot be read \(ValueError: no flux\)"):
        source[0]
    with pytest.raises(NameError):
        source[1]
    with pytest.raises(
        DataError, match=r"mine:Data\[2\] is a list, not a mapping of modalities: x, y"
    ):
        source[2]


def test_wrong_constructor_arguments_are_told(waves: str) -> None:
    dataset = Dataset.model_validate({"kind": waves, "number": 3})
    with pytest.raises(
        ConfigError, match=r"waves_data:Waves\(n=40.*unexpected keyword argument 'number'"
    ):
        dataset.build(REGISTRY)
