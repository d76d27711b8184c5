"""TFRecord files without TensorFlow: their framing, and the protobuf messages in them.

Framing (tensorflow/core/lib/io/record_writer.h): of each record uint64 length, uint32 masked
CRC32C of the length, the data, uint32 masked CRC32C of the data, all little-endian. Messages
(tensorflow/core/example/example.proto, feature.proto): SequenceExample, Features, FeatureLists.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protobuf
FOOT = 4  # bytes after the data
Frame = tuple[int, int]
"""Offset and length of a record's data; a length of -1 where the file is broken."""


# ------------------------------------------------------------------------------------- framing


def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


CRC_TABLE = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC32C (Castagnoli, RFC 3720 B.4), rotated right by 15 and offset as TFRecord does."""
    crc, table = 0xFFFFFFFF, CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_frames(path: Path) -> list[Frame]:
    """Where the records of a file are; reads their lengths only.

    Where a length fails its checksum or reaches beyond the file, the rest cannot be found: one
    last frame of length -1 stands for it, and reading that tells so.
    """
    frames: list[Frame] = []
    size, at = path.stat().st_size, 0
    with path.open("rb") as file:
        while at < size:
            file.seek(at)
            head = file.read(12)
            length, crc = struct.unpack("<QI", head) if len(head) == 12 else (size, 0)
            start = at + len(head)
            if start + length + FOOT > size or masked_crc(head[:8]) != crc:
                return [*frames, (at, -1)]
            frames.append((start, length))
            at = start + length + FOOT
    return frames


def read_frame(path: Path, frame: Frame) -> bytes:
    """The data of a record.

    Errors:
        BadRecord: the file is truncated or damaged there.
    """
    start, length = frame
    if length < 0:
        told = f"nothing can be read after byte {start}"
        raise BadRecord("truncated TFRecord file, or a damaged record length", detail=told)
    with path.open("rb") as file:
        file.seek(start)
        data, foot = file.read(length), file.read(FOOT)
    if len(data) != length or len(foot) != FOOT:
        raise BadRecord("truncated TFRecord file", detail=f"at byte {start}")
    if struct.unpack("<I", foot)[0] != masked_crc(data):
        raise BadRecord("wrong checksum of a TFRecord", detail=f"at byte {start}")
    return data


# ------------------------------------------------------------------------------------ messages


@dataclass
class Example:
    """context: name -> values; sequences: name -> the values of all steps, end to end."""

    context: dict[str, Any] = field(default_factory=dict)
    sequences: dict[str, Array] = field(default_factory=dict)


def parse_example(data: bytes) -> Example:
    """A SequenceExample; repeated numbers may be packed or not, a step a Feature or all in one.

    Errors:
        BadRecord: no such message.
    """
    example = Example()
    try:
        for number, part in fields(data):
            if number == 1:
                for name, value in _entries(part):
                    example.context[name] = _feature(value)
            elif number == 2:
                for name, value in _entries(part):
                    steps = [_feature(step) for n, step in fields(value) if n == 1]
                    numbers = [s for s in steps if isinstance(s, np.ndarray) and len(s)]
                    example.sequences[name] = (
                        np.concatenate(numbers) if numbers else np.empty(0, np.float32)
                    )
    except (IndexError, ValueError, TypeError, OverflowError, AttributeError) as error:
        if isinstance(error, BadRecord):
            raise
        told = f"{type(error).__name__}: {str(error)[:100]}"
        raise BadRecord("a TFRecord that holds no SequenceExample", detail=told) from None
    return example


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a message: an integer of a varint, bytes of everything else.

    Errors:
        ValueError, IndexError: no protobuf message.
    """
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == BYTES:
            length, at = _varint(data, at)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > size:
            raise ValueError("a field beyond the end of its message")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned integer at ``at`` and where it ends; 10 bytes at most."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("a varint of more than 10 bytes")


def _entries(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(key, value) of the map in field 1 of Features and of FeatureLists."""
    for number, entry in fields(data):
        if number == 1:
            pair = dict(fields(entry))
            yield pair.get(1, b"").decode("utf8"), pair.get(2, b"")


def _feature(data: bytes) -> Any:
    """list of bytes, float32 (n,) or int64 (n,) of a Feature."""
    for number, part in fields(data):
        values = [value for n, value in fields(part) if n == 1]
        if number == 1:
            return values
        if number == 2:  # packed into one field, or 4 bytes a field
            return np.frombuffer(b"".join(values), dtype="<f4").astype(np.float32)
        if number == 3:
            return np.array([_signed(i) for v in values for i in _integers(v)], dtype=np.int64)
    return np.empty(0, np.float32)


def _integers(value: int | bytes) -> list[int]:
    if isinstance(value, int):
        return [value]
    at, found = 0, []
    while at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return found


def _signed(value: int) -> int:
    """int64 travels as an unsigned number, in two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - 2**64 if value >= 2**63 else value
