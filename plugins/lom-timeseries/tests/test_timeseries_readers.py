"""Light curves from files: what is read, how it is cut, what is refused."""

from __future__ import annotations

import pickle
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_timeseries import KeplerFiles, LightCurve, LightCurveFiles

from lom_core import BadRecord, ConfigError, DataError, LomError, ModalityRegistry
from lom_core.builtin import Category

REGISTRY = ModalityRegistry([LightCurve(), Category(name="kind", labels=("SN", "RR"))])
TIME, MAG, ERR = [3.0, 1.0, 2.0], [20.3, 20.1, 20.2], [0.3, 0.1, 0.2]
ROWS = list(zip(TIME, MAG, ERR, strict=True))


def source(path: Path, cls: type = LightCurveFiles, **fields: Any) -> Any:
    return cls(paths=[str(path)], **fields).build(REGISTRY)


def curve(path: Path, **fields: Any) -> dict[str, Any]:
    return dict(source(path, **fields)[0]["light_curves"])


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf8")
    return path


def lines(rows: Any, mark: str = ",") -> str:
    return "".join(mark.join(map(str, row)) + "\n" for row in rows)


def assert_is_the_curve(found: dict[str, Any]) -> None:
    assert found["time"].tolist() == [1, 2, 3], "sorted by time"
    np.testing.assert_allclose(found["value"], [20.1, 20.2, 20.3])
    np.testing.assert_allclose(found["error"], [0.1, 0.2, 0.3])


# ------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "mjd,mag,magerr\n" + lines(ROWS)),
        ("b.csv", "\ufeffMJD, Mag ,e_mag\n" + lines(ROWS)),
        ("c.csv", lines(ROWS)),
        ("d.dat", "# mjd mag magerr\n" + lines(ROWS, "  ")),
        ("e.dat", lines(ROWS, " ") + "\n# the end\n"),
        ("f.tsv", "hjd\tmag\tmag_error\n" + lines(ROWS, "\t")),
        ("g.csv", "jd;flux;flux_err\n" + lines(ROWS, ";")),
    ],
)
def test_text(tmp_path: Path, name: str, text: str) -> None:
    path = written(tmp_path / name, text)
    assert_is_the_curve(curve(path))
    assert source(path)[0]["id"] == name


def test_ecsv(tmp_path: Path) -> None:
    table = Table({"mjd": TIME, "mag": MaskedColumn(MAG, mask=[False, False, True]), "magerr": ERR})
    table.write(tmp_path / "a.ecsv")
    found = curve(tmp_path / "a.ecsv")
    assert found["time"].tolist() == [1, 2, 3] and np.isnan(found["value"][1])


def test_fits_table(tmp_path: Path) -> None:
    Table({"HJD": TIME, "MAG": MAG, "MAGERR": ERR}).write(tmp_path / "a.fits")
    assert_is_the_curve(curve(tmp_path / "a.fits"))


@pytest.mark.parametrize("name", ["a.fits", "a.ecsv"])
def test_times_in_a_stated_unit_become_days(tmp_path: Path, name: str) -> None:
    table = Table({"TIME": np.array(TIME) * 86400, "MAG": MAG, "MAGERR": ERR})
    table["TIME"].unit, table["MAGERR"].unit = "s", "mag"
    table.write(tmp_path / name)
    assert_is_the_curve(curve(tmp_path / name))
    table["TIME"] = np.array(TIME)
    table["TIME"].unit = "d"
    table.write(tmp_path / name, overwrite=True)
    assert_is_the_curve(curve(tmp_path / name))


def test_fits_with_a_curve_a_row(tmp_path: Path) -> None:
    short = np.array([5.0, 4.0, np.nan])  # two epochs, filled up
    columns = [
        fits.Column("OBJID", "2A", array=["s1", "s2"]),
        fits.Column("MJD", "3D", array=np.stack([TIME, short])),
        fits.Column("MAG", "3E", array=np.stack([MAG, short])),
        fits.Column("MAGERR", "3E", array=np.stack([ERR, short])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    found = source(tmp_path / "a.fits", object_column="OBJID")
    assert [found[i]["id"] for i in range(len(found))] == ["a.fits#s1", "a.fits#s2"]
    np.testing.assert_allclose(np.sort(found[0]["light_curves"]["value"]), np.sort(MAG))
    assert found[1]["light_curves"]["time"].tolist() == [4, 5]
    assert found.ids() == ["s1", "s2"], "to be crossmatched by"
    with pytest.raises(BadRecord, match=r"several curves in one file .*object_column"):
        source(tmp_path / "a.fits")[0]


def test_parquet(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame({"mjd": TIME, "mag": MAG, "magerr": ERR}).to_parquet(tmp_path / "a.parquet")
    assert_is_the_curve(curve(tmp_path / "a.parquet"))


def parquet_rows(path: Path, ids: Any = ("x", "y"), **more: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    n = len(ids)
    columns = {"id": list(ids), "time": [TIME] * n, "mag": [MAG] * n, "magerr": [ERR] * n, **more}
    parquet.write_table(pyarrow.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("how", ["by row group", "as a whole"])
def test_parquet_with_a_curve_a_row(tmp_path: Path, how: str) -> None:
    ids = ["x", "y", "x", "z", "w"]
    path = parquet_rows(tmp_path / "a.parquet", ids, kind=["SN", "RR", "SN", "SN", "RR"])
    where = {"where": {"kind": ["SN", "RR"]}} if how == "as a whole" else {}
    found = source(path, object_column="id", targets={"kind": "kind"}, **where)
    assert len(found) == 5, "two rows of one name are two records"
    records = [found[i] for i in (4, 0, 3, 2, 1)]
    assert [r["id"] for r in records] == [f"a.parquet#{i}" for i in "wxzxy"]
    assert [r["kind"] for r in records] == ["RR", "SN", "SN", "SN", "RR"]
    for record in records:
        assert_is_the_curve(record["light_curves"])


def test_reading_by_row_group_reads_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lom_timeseries import readers

    path = parquet_rows(tmp_path / "a.parquet", [str(i) for i in range(7)])
    monkeypatch.setattr(readers, "_parquet", lambda path: pytest.fail("read the whole file"))
    found = source(path, object_column="id")
    assert [found[i]["id"] for i in range(len(found))] == [f"a.parquet#{i}" for i in range(7)]


def test_one_bad_curve_in_a_file_costs_no_other(tmp_path: Path) -> None:
    times = [TIME, [], TIME]
    path = parquet_rows(tmp_path / "a.parquet", ["a", "b", "c"], time=times)
    for window in (0, 2):
        found = source(path, object_column="id", window=window)
        good, bad = [], []
        for i in range(len(found)):
            try:
                good.append(found[i]["id"])
            except BadRecord as error:
                bad.append(error)
        assert len(bad) == 1 and bad[0].reason == "columns of different lengths"
        assert {name.split("#")[1][0] for name in good} == {"a", "c"}


def kepler(path: Path, quality: str = "SAP_QUALITY", unit: str = "d", **more: Any) -> Path:
    n = 8
    columns = {
        "TIME": np.where(np.arange(n) == 2, np.nan, 131.5 + np.arange(n)),
        "SAP_FLUX": np.arange(n, dtype=np.float32),
        "SAP_FLUX_ERR": np.ones(n, np.float32),
        "PDCSAP_FLUX": np.where(np.arange(n) == 5, np.nan, 100 + np.arange(n)).astype(np.float32),
        "PDCSAP_FLUX_ERR": np.full(n, 2, np.float32),
        quality: np.array([0, 128, 0, 0, 0, 0, 0, 0], np.int32),
        **more,
    }
    table = fits.BinTableHDU(Table(columns), name="LIGHTCURVE")
    table.header["TIMEUNIT"] = unit
    image = fits.ImageHDU(np.zeros((2, 2)), name="APERTURE")
    fits.HDUList([fits.PrimaryHDU(), table, image]).writeto(path)
    return path


@pytest.mark.parametrize("quality", ["SAP_QUALITY", "QUALITY"])  # Kepler's, TESS's
def test_kepler_and_tess(tmp_path: Path, quality: str) -> None:
    path = kepler(tmp_path / "a.fits", quality)
    found = source(path, KeplerFiles)[0]["light_curves"]
    np.testing.assert_allclose(found["time"], 131.5 + np.array([0, 3, 4, 5, 6, 7]))
    np.testing.assert_array_equal(found["value"], [100, 103, 104, np.nan, 106, 107])
    assert set(found["error"]) == {2}
    sap = source(path, KeplerFiles, flux="sap", all_cadences=True)[0]["light_curves"]
    np.testing.assert_array_equal(sap["value"], [0, 1, 3, 4, 5, 6, 7])
    tokens = LightCurve().tokeniser.build().encode(found)
    assert tokens.weights is not None and tokens.weights[:, 0].tolist() == [1, 1, 1, 0, 1, 1]


def test_kepler_files_that_are_none(tmp_path: Path) -> None:
    for name, fields, reason in (
        ("hours.fits", {"unit": "h"}, "times are not in days"),
        ("flags.fits", {"SAP_QUALITY": np.ones(8, np.int32)}, "without a flag"),
    ):
        with pytest.raises(BadRecord, match=reason):
            source(kepler(tmp_path / name, **fields), KeplerFiles)[0]
    Table({"TIME": TIME, "RATE": MAG}).write(tmp_path / "rate.fits")
    with pytest.raises(BadRecord, match="no column PDCSAP_FLUX"):
        source(tmp_path / "rate.fits", KeplerFiles)[0]
    Table({"mag": MAG}).write(tmp_path / "mag.fits")
    with pytest.raises(BadRecord, match="no table of a light curve"):
        source(tmp_path / "mag.fits", KeplerFiles)[0]


# ------------------------------------------------------------------------- objects and windows


def test_bands_objects_where_and_targets(tmp_path: Path) -> None:
    rows = [("b", 2, 20, "g", "RR"), ("a", 1, 21, "r", "SN"), ("b", 1, 22, "r", "RR")]
    rows += [("a", 3, 23, "g", "SN"), ("a", 2, 99, "x", "SN")]
    path = written(tmp_path / "a.csv", "object,mjd,mag,filter,class\n" + lines(rows))
    found = source(
        path, object_column="object", where={"filter": ["g", "r"]}, targets={"kind": "class"}
    )
    assert [found[i]["id"] for i in range(2)] == ["a.csv#b", "a.csv#a"], "in the file's order"
    assert found[0]["light_curves"]["band"].tolist() == ["r", "g"]
    assert found[1]["light_curves"]["value"].tolist() == [21, 23]
    assert [found[i]["kind"] for i in range(2)] == ["RR", "SN"]
    with pytest.raises(ConfigError, match="nothing"):
        source(path, targets={"nothing": "class"})
    no_row = source(path, object_column="object", where={"filter": "y"})
    with pytest.raises(BadRecord, match="no row that the config's where asks for"):
        no_row[0]
    mixed = written(
        tmp_path / "m.csv", "object,mjd,mag,class\n" + lines([("a", 1, 2, "SN"), ("a", 2, 2, "RR")])
    )
    with pytest.raises(BadRecord, match="without one label"):
        source(mixed, object_column="object", targets={"kind": "class"})[0]


def test_windows(tmp_path: Path) -> None:
    text = "mjd,mag\n" + lines([(i, 20 + i / 100) for i in range(25)])
    path = written(tmp_path / "a.csv", text)
    in_order = source(path, window=10)
    times = [in_order[i]["light_curves"]["time"] for i in range(len(in_order))]
    assert [len(t) for t in times] == [10, 10, 5]
    assert np.concatenate(times).tolist() == list(range(25)), "no epoch twice, none lost"
    assert [in_order[i]["id"] for i in range(3)] == ["a.csv#0", "a.csv#1", "a.csv#2"]

    def starts(seed: int) -> list[float]:
        drawn = source(path, window=10, windows="random", per_curve=6, seed=seed)
        windows = [drawn[i]["light_curves"]["time"] for i in range(len(drawn))]
        assert len(windows) == 6
        for window in windows:
            assert np.array_equal(np.diff(window), np.ones(9))
        return [float(window[0]) for window in windows]

    assert starts(1) == starts(1) != starts(2)
    assert len(source(path, window=25)) == len(source(path, window=99, windows="random")) == 1


def test_sources_travel(tmp_path: Path) -> None:
    path = parquet_rows(tmp_path / "a.parquet")
    for fields in ({"object_column": "id"}, {"object_column": "id", "window": 2}):
        found = source(path, **fields)
        again = pickle.loads(pickle.dumps(found))
        last = len(found) - 1
        np.testing.assert_array_equal(
            again[last]["light_curves"]["time"], found[last]["light_curves"]["time"]
        )
        with pytest.raises(IndexError):
            found[last + 1]


# -------------------------------------------------------------------------------- odd and bad


def test_repeated_times_are_kept_in_order(tmp_path: Path) -> None:
    rows = [(2, 5), (1, 1), (1, 2), (1, 3)]
    found = curve(written(tmp_path / "a.csv", "mjd,mag\n" + lines(rows)))
    assert found["time"].tolist() == [1, 1, 1, 2] and found["value"].tolist() == [1, 2, 3, 5]
    tokens = LightCurve().tokeniser.build().encode(found)
    assert tokens.content[:, 0].tolist() == [1, 2, 3, 5]


def test_errors_not_above_0_weigh_nothing(tmp_path: Path) -> None:
    rows = [(1, 20, 0.1), (2, 21, 0), (3, 22, -1), (4, 23, "")]
    found = curve(written(tmp_path / "a.csv", "mjd,mag,magerr\n" + lines(rows)))
    tokens = LightCurve().tokeniser.build().encode(found)
    assert tokens.weights is not None and tokens.weights[:, 0].tolist() == [1, 0, 0, 0]


def test_one_epoch_is_a_curve(tmp_path: Path) -> None:
    for text in ("mjd,mag\n5,20\n", "5 20\n"):
        found = curve(written(tmp_path / "a.dat", text))
        tokens = LightCurve().tokeniser.build().encode(found)
        assert len(tokens) == 1 and tokens.positions.tolist() == [[0.0]]


@pytest.mark.parametrize(
    ("name", "content", "fields", "reason"),
    [
        ("empty.csv", "", {}, "empty file"),
        ("blank.csv", "\n \n", {}, "no table in the file"),
        ("head.csv", "mjd,mag\n", {}, "no row of a light curve"),
        ("short.csv", "mjd,mag\n1,2\n3\n", {}, "another number of cells"),
        ("text.csv", "mjd,mag\n1,bright\n", {}, "text in the column of the value"),
        ("words.csv", "mjd,mag\nsoon,2\n", {}, "text in the column of the time"),
        ("other.csv", "a,b\n1,2\n", {}, "no column of the time"),
        ("notime.csv", "mag,b\n1,2\n", {}, "no column of the time"),
        ("wrong.csv", "mjd,mag\n1,2\n", {"value": "flux"}, "no column 'flux'"),
        ("object.csv", "mjd,mag\n1,2\n", {"object_column": "star"}, "no column 'star'"),
        ("latin.csv", b"mjd,mag\n1,\xff\xfe\n", {}, "cannot be read"),
        ("not.parquet", "PAR1 or not", {}, "damaged parquet file"),
        ("not.fits", "SIMPLE  = nothing", {}, "damaged FITS file"),
        ("not.ecsv", "mjd,mag\n1,2\n", {}, "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: Any, fields: Any, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    with pytest.raises(BadRecord, match=reason) as caught:
        source(path, **fields)[0]
    assert caught.value.file == path and not any(c.isdigit() for c in caught.value.reason)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="no such file"):
        source(tmp_path / "none.csv")[0]
    with pytest.raises(BadRecord, match="no such file"):
        source(tmp_path / "none.parquet", object_column="id", window=3)[0]
    with pytest.raises(DataError, match="no such path list"):
        LightCurveFiles(paths=str(tmp_path / "nothing")).build(REGISTRY)


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    found = curve(written(tmp_path / "a.csv", "mjd,mag\n1,nan\n2,\n"))
    with pytest.raises(BadRecord, match="no epoch with a value"):
        LightCurve().tokeniser.build().encode(found)
    untimed = curve(written(tmp_path / "b.csv", "mjd,mag\nnan,1\n2,1\n"))
    with pytest.raises(BadRecord, match="time that is not finite"):
        LightCurve().tokeniser.build().encode(untimed)


@pytest.mark.parametrize("kind", ["fits", "kepler", "parquet", "rows"])
def test_truncated_files(tmp_path: Path, kind: str) -> None:
    fields: dict[str, Any] = {}
    cls: type = LightCurveFiles
    if kind == "kepler":
        path, cls = kepler(tmp_path / "a.fits"), KeplerFiles
    elif kind == "fits":
        path = tmp_path / "a.fits"
        Table({"mjd": np.arange(999.0), "mag": np.arange(999.0)}).write(path)
    else:
        path = parquet_rows(tmp_path / "a.parquet")
        fields = {"object_column": "id"} if kind == "rows" else {}
    whole = path.read_bytes()
    for share in (0.2, 0.5, 0.65, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        if kind == "kepler" and share > 0.6:
            continue  # only the aperture's image is cut short, which nobody reads
        with pytest.raises(BadRecord):
            found = source(path, cls, **fields)
            assert len(found) == 1
            found[0]


NUMBER = count()
CELLS = st.one_of(
    st.text(max_size=6), st.floats().map(str), st.sampled_from(["", "1e999", "#", '"'])
)
TEXTS = st.one_of(
    st.lists(st.lists(CELLS, max_size=4), max_size=6).map(lambda rows: lines(rows)),
    st.lists(st.lists(CELLS, max_size=4), max_size=6).map(
        lambda rows: "mjd,mag,magerr\n" + lines(rows)
    ),
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=TEXTS | st.binary(max_size=60), ending=st.sampled_from([".csv", ".dat", ".ecsv"]))
def test_text_of_any_kind_is_a_curve_or_a_bad_record(
    tmp_path: Path, text: Any, ending: str
) -> None:
    path = (
        tmp_path / f"{next(NUMBER)}{ending}"
    )  # a new file, since windows are kept by name and time
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf8", "surrogatepass"))
    for fields in ({}, {"window": 2}, {"object_column": "mag"}):
        try:
            found = source(path, **fields)
            for i in range(len(found)):
                LightCurve().tokeniser.build().encode(found[i]["light_curves"])
        except LomError:
            pass
