"""The UCR and UEA archives' text formats."""

from __future__ import annotations

import pickle
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_timeseries import Series, UCRFiles

from lom_core import BadRecord, ConfigError, DataError, LomError, ModalityRegistry
from lom_core.builtin import Category

REGISTRY = ModalityRegistry([Series(patch_size=2), Category(name="kind", labels=("1", "2", "dog"))])
HEADER = """# made by hand, in the form of the archive's files
@problemName Two
@timeStamps false
@missing true
@univariate true
@equalLength false
@classLabel true 1 dog
@data
"""


def opened(path: Path, text: str | bytes, **fields: Any) -> Any:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return UCRFiles(paths=[str(path)], **fields).build(REGISTRY)


def test_ts(tmp_path: Path) -> None:
    text = HEADER + "1.5,2,?,4:1\n# between\n\n5,6,7: dog \n"
    source = opened(tmp_path / "a.ts", text, label_modality="kind")
    assert len(source) == 2
    np.testing.assert_array_equal(source[0]["series"], [[1.5], [2], [np.nan], [4]])
    assert (source[0]["kind"], source[1]["kind"]) == ("1", "dog")
    assert source[1]["id"] == "a.ts#12" and source[1]["series"].dtype == np.float32
    tokens = REGISTRY.get_config("series").tokeniser.build().encode(source[0]["series"])
    assert tokens.weights is not None and tokens.weights.tolist() == [[1, 1], [0, 1]]
    assert set(opened(tmp_path / "a.ts", text)[0]) == {"series", "id"}
    again = pickle.loads(pickle.dumps(source))
    assert again[1]["kind"] == "dog"


def test_ts_with_dimensions_and_without_classes(tmp_path: Path) -> None:
    head = "@univariate false\n@classLabel false\n@data\n"
    values = opened(tmp_path / "a.ts", head + "1,2,3:4,5\n")[0]["series"]
    np.testing.assert_array_equal(values, [[1, 4], [2, 5], [3, np.nan]])
    regression = "@targetLabel true\n@data\n1,2:0.75\n"
    assert len(opened(tmp_path / "b.ts", regression)[0]["series"]) == 2
    with pytest.raises(BadRecord, match="without a class"):
        opened(tmp_path / "a.ts", head + "1,2\n", label_modality="kind")[0]


def test_tsv(tmp_path: Path) -> None:
    source = opened(tmp_path / "a.tsv", "1\t0.5\t1\tNaN\n2\t3\tNaN\t4\n", label_modality="kind")
    np.testing.assert_array_equal(source[0]["series"], [[0.5], [1]])  # NaN fills up the end
    np.testing.assert_array_equal(source[1]["series"], [[3], [np.nan], [4]])
    assert [source[i]["kind"] for i in range(2)] == ["1", "2"]


def test_a_folder_of_files(tmp_path: Path) -> None:
    (tmp_path / "b.tsv").write_text("1\t2\n")
    (tmp_path / "a.ts").write_text(HEADER + "1,2:1\n3:1\n")
    source = UCRFiles(paths=str(tmp_path)).build(REGISTRY)
    assert [source[i]["id"] for i in range(3)] == ["a.ts#9", "a.ts#10", "b.tsv#1"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.ts", "", "no line @data"),
        ("b.ts", HEADER, "holds no series"),
        ("c.ts", "1,2:1\n", "stands before @data"),
        ("d.ts", "@univariate true\n", "no line @data"),
        ("e.ts", "@timestamps true\n@data\n(0,1):1\n", "not supported"),
        ("f.tsv", b"\xff\xfe", "is no text"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, name: str, text: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        opened(tmp_path / name, text)


def test_missing_files_and_modalities(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        UCRFiles(paths=[str(tmp_path / "no.ts")]).build(REGISTRY)
    with pytest.raises(ConfigError, match="other"):
        UCRFiles(paths=[], label_modality="other").build(REGISTRY)


@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("a.ts", HEADER + "1,x:1\n", "text where numbers belong"),
        ("b.ts", HEADER + "?,?:1\n", "no observed value"),
        ("c.ts", HEADER + "1\n", "a line without a series"),
        ("d.tsv", "1\n", "no observed value"),
        ("e.tsv", "1\tlow\n", "text where numbers belong"),
    ],
)
def test_lines_that_are_refused(tmp_path: Path, name: str, line: str, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason) as caught:
        opened(tmp_path / name, line)[0]
    assert caught.value.file == tmp_path / name and "line" in str(caught.value)


NUMBER = count()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.text(max_size=30) | st.text(alphabet="0123456789.,:?\t\n-einfa@# ", max_size=60),
    ending=st.sampled_from(["ts", "tsv"]),
    head=st.sampled_from(["", HEADER, "@classlabel true\n@data\n"]),
)
def test_any_text_is_series_or_an_error_of_ours(
    tmp_path: Path, text: str, ending: str, head: str
) -> None:
    content = (head + text).encode("utf8", "surrogatepass")
    with suppress(LomError):
        source = opened(tmp_path / f"{next(NUMBER)}.{ending}", content)
        for i in range(len(source)):
            with suppress(LomError):
                Series(patch_size=2).tokeniser.build().encode(source[i]["series"])
