"""AstroMer's TFRecords, written by a few lines of our own and read without TensorFlow."""

from __future__ import annotations

import pickle
import struct
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_timeseries import AstromerRecords, LightCurve
from lom_timeseries.tfrecord import masked_crc, parse_example

from lom_core import BadRecord, ConfigError, DataError, LomError, ModalityRegistry
from lom_core.builtin import Category

REGISTRY = ModalityRegistry([LightCurve(), Category(name="kind", labels=("a", "b", "c"))])
TIME, MAG, ERR = [59000.5, 59001.0, 59003.25], [20.0, 20.5, 21.0], [0.1, 0.2, 0.4]


# ---------------------------------------------------------------------------- a tiny writer


def varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def part(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def entry(name: str, value: bytes) -> bytes:
    return part(1, part(1, name.encode()) + part(2, value))


def floats(values: Any, packed: bool = True) -> bytes:
    each = [struct.pack("<f", v) for v in values]
    body = part(1, b"".join(each)) if packed else b"".join(varint(1 << 3 | 5) + e for e in each)
    return part(2, body)


def integer(value: int) -> bytes:
    return part(3, part(1, varint(value)))


def example(
    columns: Any = None,
    label: int | None = 1,
    name: bytes | int | None = b"star",
    length: int | None = 3,
    steps: str = "one feature",
) -> bytes:
    columns = {"dim_0": TIME, "dim_1": MAG, "dim_2": ERR} if columns is None else columns
    context = b""
    if name is not None:
        value = part(1, part(1, name)) if isinstance(name, bytes) else integer(name)
        context += entry("id", value)
    context += b"" if label is None else entry("label", integer(label))
    context += b"" if length is None else entry("length", integer(length))
    lists = b""
    for key, values in columns.items():
        groups = [values] if steps == "one feature" else [[v] for v in values]
        inner = b"".join(part(1, floats(g, packed=steps != "unpacked")) for g in groups)
        lists += entry(key, inner)
    return part(1, context) + part(2, lists)


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    crcs = [struct.pack("<I", masked_crc(x)) for x in (length, data)]
    return length + crcs[0] + data + crcs[1]


def fold(root: Path, *records: bytes, where: str = "train/RRab/chunk_0.record") -> Path:
    path = root / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(map(frame, records)))
    return path


def opened(root: Path, **fields: Any) -> Any:
    return AstromerRecords(root=str(root), **fields).build(REGISTRY)


# ------------------------------------------------------------------------------------ tests


def test_the_checksum_is_castagnolis() -> None:
    def crc(data: bytes) -> int:
        rotated = (masked_crc(data) - 0xA282EAD8) & 0xFFFFFFFF
        return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF

    assert crc(b"123456789") == 0xE3069283  # the check value of CRC-32C
    assert crc(bytes(32)) == 0x8A9136AA and crc(b"\xff" * 32) == 0x62A8AB43  # RFC 3720, B.4


@pytest.mark.parametrize("steps", ["one feature", "a feature a step", "unpacked"])
def test_curves_come_back(tmp_path: Path, steps: str) -> None:
    fold(tmp_path, example(steps=steps), example(label=2, name=77, length=None, steps=steps))
    fold(tmp_path, example(label=0), where="val/chunk_0.record")
    found = opened(tmp_path, label_modality="kind")
    assert len(found) == 2 and len(opened(tmp_path, split="val")) == 1
    assert [found[i]["id"] for i in range(2)] == ["star", "77"]
    assert [found[i]["kind"] for i in range(2)] == [1, 2]
    curve = found[0]["light_curves"]
    assert curve["time"].tolist() == TIME and curve["value"].tolist() == MAG
    np.testing.assert_allclose(curve["error"], ERR, rtol=1e-7)
    tokens = LightCurve().tokeniser.build().encode(curve)
    assert tokens.positions[:, 0].tolist() == [0, 0.5, 2.75]
    again = pickle.loads(pickle.dumps(found))
    assert again[1]["kind"] == 2
    assert set(opened(tmp_path)[0]) == {"light_curves", "id"}


def test_later_layout_with_named_columns(tmp_path: Path) -> None:
    columns = {"mjd": TIME[::-1], "mag": MAG[::-1], "errmag": ERR[::-1]}
    fold(tmp_path, example(columns, label=None, name=None), where="validation/00.record")
    record = opened(tmp_path, split="val")[0]
    assert record["light_curves"]["time"].tolist() == TIME, "sorted by time"
    assert record["id"] == "validation/00.record@12"


def test_records_that_are_refused(tmp_path: Path) -> None:
    cases = [
        (example(length=-3), "another length than the record says"),
        (example(length=4), "another length than the record says"),
        (example(label=None), "a record without a label"),
        (example({"dim_0": TIME}), "no column of the value"),
        (example({"dim_0": TIME, "dim_1": MAG[:2]}), "columns of different lengths"),
        (example({"dim_0": [], "dim_1": []}, length=None), "no row of a light curve"),
        (b"\x0a\x7fabc", "holds no SequenceExample"),
        (b"\xff" * 20, "holds no SequenceExample"),
        (b"", "no column of the time"),
    ]
    path = fold(tmp_path, *(data for data, _ in cases))
    found = opened(tmp_path, label_modality="kind")
    assert len(found) == len(cases)
    for i, (_, reason) in enumerate(cases):
        with pytest.raises(BadRecord, match=reason) as caught:
            found[i]
        assert caught.value.file == path


def test_truncated_and_damaged_files(tmp_path: Path) -> None:
    path = fold(tmp_path, example(), example(name=b"twin"), example(name=b"three"))
    whole, one = path.read_bytes(), len(frame(example()))
    for size in (one + 5, one + 40, 2 * one - 1):
        path.write_bytes(whole[:size])
        found = opened(tmp_path)
        assert len(found) == 2 and found[0]["id"] == "star"
        with pytest.raises(BadRecord, match="truncated TFRecord file"):
            found[1]
    spoilt = bytearray(whole)
    spoilt[one // 2] ^= 1  # in the first record's data
    path.write_bytes(spoilt)
    found = opened(tmp_path)
    assert len(found) == 3 and found[2]["id"] == "three"
    with pytest.raises(BadRecord, match="wrong checksum"):
        found[0]
    spoilt = bytearray(whole)
    spoilt[one + 7] ^= 0x80  # the second record's length becomes negative, or more than 2^63
    path.write_bytes(spoilt)
    found = opened(tmp_path)
    assert len(found) == 2
    with pytest.raises(BadRecord, match="damaged record length"):
        found[1]
    path.write_bytes(b"")
    with pytest.raises(BadRecord, match="truncated"):
        opened(tmp_path)[0]


def test_a_file_that_shrinks_after_it_was_indexed(tmp_path: Path) -> None:
    path = fold(tmp_path, example(), example())
    found = opened(tmp_path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(BadRecord, match="truncated"):
        found[1]
    path.unlink()
    with pytest.raises(BadRecord, match="cannot be read"):
        found[0]


def test_folders_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="root is the folder of one fold"):
        opened(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match=r"no \.record file"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="other"):
        opened(tmp_path, label_modality="other")


NUMBER = count()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damaged_records_are_bad_records(tmp_path: Path, data: Any) -> None:
    message = bytearray(example())
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    root = tmp_path / str(next(NUMBER))
    stored = bytes(message) if data.draw(st.booleans()) else data.draw(st.binary(max_size=40))
    fold(root, stored)
    try:
        record = opened(root, label_modality="kind")[0]
        LightCurve().tokeniser.build().encode(record["light_curves"])
    except LomError:
        pass


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_parse_or_are_a_bad_record(data: bytes) -> None:
    with suppress(BadRecord):
        parse_example(data)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=60))
def test_any_file_is_indexed(tmp_path: Path, data: bytes) -> None:
    path = fold(tmp_path / str(next(NUMBER)))
    path.write_bytes(data)
    found = opened(path.parents[2])
    for i in range(len(found)):
        with pytest.raises(BadRecord):
            found[i]
