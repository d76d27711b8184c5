"""ECG records: WFDB, PTB-XL as it is published, CSV, npy, and what is done to them."""

from __future__ import annotations

import importlib.util
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_timeseries import ECG, LEADS, AugmentedSeries, ECGFiles, ECGSamples
from lom_timeseries.ecg import read_header, remove_baseline

from lom_core import BadRecord, LomError, ModalityRegistry
from lom_core.sources import ListSource

REGISTRY = ModalityRegistry([ECG()])
HAS_WFDB = importlib.util.find_spec("wfdb") is not None
DIGITAL = np.array([[200, -100], [0, 50], [-(2**15), 7], [1000, -1]], np.int16)


def record(
    folder: Path, name: str = "r", digital: Any = DIGITAL, leads: Any = ("I", "V1"), **more: Any
) -> Path:
    """A WFDB record of format 16, gain 1000 per mV, baseline 0; ``more`` changes the header."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = {"rate": 100, "file": f"{name}.dat", "format": "16", "gain": "1000(0)/mV", **more}
    head = f"{name} {len(leads)} {fields['rate']} {len(digital)}\n"
    head += "".join(
        f"{fields['file']} {fields['format']} {fields['gain']} 16 0 {digital[0, i]} 0 0 {lead}\n"
        for i, lead in enumerate(leads)
    )
    (folder / f"{name}.hea").write_text(f"# made by hand\n{head}# <age>: 60\n")
    (folder / f"{name}.dat").write_bytes(digital.astype("<i2").tobytes())
    return folder / f"{name}.hea"


def read(path: Path, **fields: Any) -> Any:
    return ECGFiles(paths=[str(path)], **fields).build(REGISTRY)[0]["ecg"]


# ---------------------------------------------------------------------------------------- wfdb


def test_format_16(tmp_path: Path) -> None:
    found = read(record(tmp_path))
    assert found["rate"] == 100 and found["leads"] == ["I", "V1"]
    expected = np.array([[0.2, -0.1], [0, 0.05], [np.nan, 0.007], [1, -0.001]], np.float32)
    np.testing.assert_array_equal(found["values"], expected)
    tokens = ECG(patch_size=2).tokeniser.build().encode(found)
    assert tokens.positions.tolist() == [
        [0, 0],
        [0, 6],
        [np.float32(0.02), 0],
        [np.float32(0.02), 6],
    ]


@pytest.mark.parametrize(
    ("gain", "expected"),
    [("200", 1.0), ("0", 1.0), ("100(50)/uV", 1.5), ("200/mV", 1.0), ("50.5(-2)", 4.0)],
)
def test_gain_and_baseline(tmp_path: Path, gain: str, expected: float) -> None:
    values = read(record(tmp_path, gain=gain))["values"]
    assert values[0, 0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.skipif(not HAS_WFDB, reason="wfdb is not installed")
@pytest.mark.parametrize("gain", ["1000(0)/mV", "123.5(-7)/uV", "200"])
def test_format_16_as_the_package_wfdb_reads_it(tmp_path: Path, gain: str) -> None:
    import wfdb

    rng = np.random.default_rng(0)
    digital = rng.integers(-(2**15), 2**15, (50, 12)).astype(np.int16)
    path = record(tmp_path, "p", digital, LEADS, gain=gain)
    theirs = wfdb.rdrecord(str(path.with_suffix("")))
    ours = read(path)
    assert ours["leads"] == theirs.sig_name and ours["rate"] == theirs.fs
    np.testing.assert_allclose(ours["values"], theirs.p_signal, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not HAS_WFDB, reason="wfdb is not installed")
@pytest.mark.parametrize("fmt", ["16", "80", "212", "24", "32"])
def test_records_that_the_package_wfdb_writes(tmp_path: Path, fmt: str) -> None:
    import wfdb

    signal = np.sin(np.arange(60) / 5)[:, None] * [1, 0.5]
    wfdb.wrsamp("w", 250, ["mV"] * 2, ["I", "II"], signal, fmt=[fmt] * 2, write_dir=str(tmp_path))
    found = read(tmp_path / "w.hea")
    assert found["rate"] == 250 and found["leads"] == ["I", "II"]
    np.testing.assert_allclose(found["values"], signal, atol=0.02)


def test_several_signal_files(tmp_path: Path) -> None:
    record(tmp_path, "a", DIGITAL[:, :1], ["I"])
    record(tmp_path, "b", DIGITAL[:, 1:], ["V1"])
    line = "{} 16 1000(0)/mV 16 0 0 0 0 {}\n"
    head = "m 2 100 4\n" + line.format("b.dat", "V1") + line.format("a.dat", "I")
    (tmp_path / "m.hea").write_text(head)
    found = read(tmp_path / "m.hea")
    assert found["leads"] == ["V1", "I"]
    np.testing.assert_allclose(found["values"][0], [-0.1, 0.2])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda p: p.with_suffix(".dat").unlink(), "no such file"),
        (lambda p: p.with_suffix(".dat").write_bytes(b""), "empty file"),
        (lambda p: p.with_suffix(".dat").write_bytes(b"\0" * 14), "another length"),
        (lambda p: p.with_suffix(".dat").write_bytes(b"\0" * 18), "another length"),
        (lambda p: p.write_text(""), "empty file"),
        (lambda p: p.write_text("# nothing\n"), "no WFDB header"),
        (lambda p: p.write_text("r two 100 4\n"), "no WFDB header"),
        (lambda p: p.write_text("r 2 100 4\nr.dat 16\n"), "no WFDB header"),
        (lambda p: p.write_text("r 0 100 4\n"), "no WFDB header"),
        (lambda p: p.write_text("r 1 0 4\nr.dat 16\n"), "no WFDB header"),
        (lambda p: p.write_text("r/3 2 100 4\n"), "several segments"),
        (lambda p: p.write_text("r 1 100 4\n../r.dat 16\n"), "outside"),
        (lambda p: p.write_text(f"r 1 100 4\n{p.with_suffix('.dat')} 16\n"), "outside"),
        (lambda p: p.unlink(), "no such file"),
    ],
)
def test_damaged_records(tmp_path: Path, spoil: Any, reason: str) -> None:
    path = record(tmp_path / "deep")
    (tmp_path / "r.dat").write_bytes(DIGITAL.tobytes())
    spoil(path)
    with pytest.raises(BadRecord, match=reason):
        read(path)


def test_a_link_that_the_user_made_is_followed(tmp_path: Path) -> None:
    path = record(tmp_path / "deep")
    elsewhere = tmp_path / "cache.dat"
    path.with_suffix(".dat").rename(elsewhere)
    path.with_suffix(".dat").symlink_to(elsewhere)
    assert len(read(path)["values"]) == 4


def test_other_formats_ask_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lom_timeseries.ecg.find_spec", lambda name: None)
    with pytest.raises(BadRecord, match=r"pip install 'lom-timeseries\[wfdb\]'"):
        read(record(tmp_path, format="212"))


# ---------------------------------------------------------------------------------- csv and npy


def test_csv_and_npy(tmp_path: Path) -> None:
    values = np.array([[1, 2], [3, np.nan]], np.float32)
    (tmp_path / "a.csv").write_text("I,'II'\n1,2\n3,\n")
    found = read(tmp_path / "a.csv", rate=100)
    assert found["leads"] == ["I", "II"] and found["rate"] == 100
    np.testing.assert_array_equal(found["values"], values)
    np.save(tmp_path / "b.npy", values)
    np.testing.assert_array_equal(read(tmp_path / "b.npy")["values"], values)
    np.save(tmp_path / "c.npy", values[0])
    assert read(tmp_path / "c.npy")["values"].shape == (2, 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"I\n", "no line of values"),
        ("b.csv", b"I,II\n1\n", "another number of cells"),
        ("c.csv", b"I\nhigh\n", "cannot be read"),
        ("d.csv", b"\xff\xfe\n1\n", "cannot be read"),
        ("e.npy", b"not numpy", "cannot be read"),
        ("f.npy", b"", "empty file"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadRecord, match=reason):
        read(tmp_path / name)


def test_npy_is_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BadRecord, match="cannot be read"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", np.zeros((2, 2, 2)))
    with pytest.raises(BadRecord, match="no series in the file"):
        read(tmp_path / "b.npy")


def test_another_rate_than_the_record_says(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="another sampling rate"):
        read(record(tmp_path), rate=500)


# --------------------------------------------------------------------------------- the baseline


def test_the_baseline_has_its_known_answer(tmp_path: Path) -> None:
    values = np.array([[0.0], [3.0], [0.0], [np.nan], [8.0]])
    # Means over three samples, of what there is: 1.5, 1, 1.5, 4, 8.
    expected = [[-1.5], [2.0], [-1.5], [np.nan], [0.0]]
    np.testing.assert_allclose(remove_baseline(values, 3), expected)
    np.testing.assert_allclose(remove_baseline(np.full((9, 2), 5.0), 5), 0)
    assert np.nanmax(np.abs(remove_baseline(values, 99) - (values - 2.75))) < 1e-6
    np.save(tmp_path / "a.npy", values)
    found = read(tmp_path / "a.npy", rate=10, baseline_window=0.3)["values"]
    np.testing.assert_allclose(found, expected)
    with pytest.raises(BadRecord, match="needs the rate"):
        read(tmp_path / "a.npy", baseline_window=0.3)


# --------------------------------------------------------------------------------- augmentation


def test_augmentation_is_seeded_and_stays_within() -> None:
    wave = np.sin(np.arange(500) / 10)[:, None] * [1.0, 3.0]
    values = [{"values": wave.astype(np.float32), "rate": 100.0, "leads": ["I", "II"]}]
    originals = ListSource([{"ecg": v, "id": "x", "age": 60} for v in values])

    def augmented(**fields: Any) -> Any:
        from lom_timeseries.augment import AugmentedSource

        settings = {"of": {"kind": "ecg_samples"}, "copies": 3, **fields}
        return AugmentedSource(AugmentedSeries.model_validate(settings), originals)

    source = augmented(seed=1)
    assert len(source) == 4 and source[0] is originals[0]
    assert [source[i]["id"] for i in range(1, 4)] == ["x~1", "x~2", "x~3"]
    assert source[1]["age"] == 60 and source[1]["ecg"]["rate"] == 100
    copies = [source[i]["ecg"]["values"] for i in range(1, 4)]
    assert not np.array_equal(copies[0], copies[1])
    np.testing.assert_array_equal(copies[2], augmented(seed=1)[3]["ecg"]["values"])
    assert not np.array_equal(copies[2], augmented(seed=2)[3]["ecg"]["values"])
    sigma = wave.std(axis=0)
    for copy in copies:
        gain = (copy * wave).sum(axis=0) / (wave**2).sum(axis=0)
        assert (gain > 0.6).all() and (gain < 1.6).all()
        rest = copy - gain * wave
        assert (np.abs(rest).max(axis=0) < 0.45 * sigma).all(), "noise of 5%, wander of 10%"
    off = augmented(gain=0, noise=0, wander=0)[1]["ecg"]["values"]
    np.testing.assert_allclose(off, wave, atol=1e-6)
    dropped = augmented(lead_dropout=0.99, copies=20)
    lost = [np.isnan(dropped[i]["ecg"]["values"]).all(axis=0).sum() for i in range(1, 21)]
    assert max(lost) == 1, "one lead always stays"


def test_augmented_samples_are_a_data_set() -> None:
    registry = ModalityRegistry([ECG(leads=("value",))])
    source = AugmentedSeries(of=ECGSamples(), copies=2).build(registry)
    assert len(source) == 33
    with pytest.raises(IndexError):
        source[33]
    encoder = registry.get_config("ecg").tokeniser.build()
    assert len(encoder.encode(source[32]["ecg"])) == 7


# ------------------------------------------------------------------------------------------ fuzz


WORDS = st.one_of(
    st.sampled_from(
        ["r", "2", "16", "100", "4", "200(0)/mV", "-1", "1e999", "nan", "inf", "r.dat"]
    ),
    st.text(max_size=4),
    st.integers().map(str),
)
HEADERS = st.lists(st.lists(WORDS, max_size=9).map(" ".join), max_size=4).map("\n".join)
NUMBER = count()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=HEADERS | st.binary(max_size=40), data=st.binary(max_size=16))
def test_any_header_is_a_record_or_a_bad_one(tmp_path: Path, text: Any, data: bytes) -> None:
    folder = tmp_path / str(next(NUMBER))
    folder.mkdir()
    content = text if isinstance(text, bytes) else text.encode("utf8", "surrogatepass")
    (folder / "r.hea").write_bytes(content)
    (folder / "r.dat").write_bytes(data)
    try:
        value = read(folder / "r.hea")
        ECG(leads=("a",), rate=value["rate"]).tokeniser.build().encode(value)
    except LomError:
        pass


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.text(max_size=40) | st.binary(max_size=40), ending=st.sampled_from(["csv", "npy"])
)
def test_any_csv_or_npy_is_a_record_or_a_bad_one(tmp_path: Path, content: Any, ending: str) -> None:
    path = tmp_path / f"{next(NUMBER)}.{ending}"
    path.write_bytes(
        content if isinstance(content, bytes) else ("I,II\n" + content).encode("utf8", "ignore")
    )
    with suppress(LomError):
        ECG().tokeniser.build().encode(read(path))


def test_headers_say_what_they_say(tmp_path: Path) -> None:
    path = tmp_path / "h.hea"
    path.write_text(
        "h 1 360/1000(5) 650000 10:00:00 1/1/2000\nh.dat 16x1 200 11 1024 995 -2 0 MLII\n"
    )
    header = read_header(path)
    assert (header.rate, header.n_samples, header.signals[0].baseline) == (360, 650000, 1024)
    path.write_text("h 1\nh.dat 16\n")
    header = read_header(path)
    assert (header.rate, header.n_samples, header.signals[0].name) == (250, None, "signal 0")
