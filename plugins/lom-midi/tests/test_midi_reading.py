"""Two readers that agree, and files that are broken in every way."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_midi import ExponentialTime
from lom_midi.datasets import sample_paths
from lom_midi.notes import (
    on_the_piano,
)
from lom_midi.reading import read_midi, read_with_mido, write_midi

from lom_core import (
    BadRecord,
    Dataset,
    LomError,
    ModalityConfig,
    ModalityRegistry,
    Source,
)

FILES = [Path(path) for split in ("train", "val") for path in sample_paths(split)]
PIECES = [on_the_piano(read_midi(path.read_bytes()))[0] for path in FILES]


def midi(*messages: Any, ticks: int = 480) -> bytes:
    """A file of one track: 480 ticks a quarter note, at 120 a minute 960 a second."""
    file, buffer = mido.MidiFile(ticks_per_beat=ticks), io.BytesIO()
    file.tracks.append(mido.MidiTrack(messages))
    file.save(file=buffer)
    return buffer.getvalue()


def on(note: int, time: int, velocity: int = 64) -> Any:
    return mido.Message("note_on", note=note, velocity=velocity, time=time)


def off(note: int, time: int) -> Any:
    return mido.Message("note_off", note=note, time=time)


def pedal(value: int, time: int) -> Any:
    return mido.Message("control_change", control=64, value=value, time=time)


def program(number: int, time: int) -> Any:
    return mido.Message("program_change", program=number, time=time)


def opened(*names: str, specials: tuple[str, ...] = ("<GENAI>", "<END>"), **fields: Any) -> Source:
    config = {"kind": "midi", "specials": specials}
    names = names or ("midi",)
    modalities = [ModalityConfig.model_validate({**config, "name": name}) for name in names]
    return Dataset.model_validate(fields).build(ModalityRegistry(modalities))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_symusic_and_mido_read_the_same(path: Path) -> None:
    data = path.read_bytes()
    one, two = read_midi(data), read_with_mido(data)
    for name in ("pitch", "start", "end", "velocity"):
        order = [np.lexsort((n["velocity"], n["end"], n["pitch"], n["start"])) for n in (one, two)]
        assert np.allclose(one[name][order[0]], two[name][order[1]], atol=1e-9), name
    assert np.allclose(one["tempos"], two["tempos"])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_midi(PIECES[0], tmp_path / "a.mid")
    back = read_midi((tmp_path / "a.mid").read_bytes())
    assert len(back["pitch"]) == len(PIECES[0]["pitch"])
    assert np.abs(np.sort(back["start"]) - np.sort(PIECES[0]["start"])).max() < 6e-4


@pytest.mark.parametrize("read", [read_midi, read_with_mido])
def test_the_pedal_holds_notes(read: Any) -> None:
    data = midi(
        pedal(127, 0),
        on(60, 0),
        off(60, 480),
        on(64, 0),
        off(64, 96),
        on(60, 384),
        off(60, 480),
        pedal(0, 480),
        on(67, 0),
        off(67, 480),
    )
    held = read(data)
    assert list(zip(held["pitch"], held["start"], held["end"], strict=True)) == [
        (60, 0.0, 1.0),  # struck again at 1 s
        (64, 0.5, 2.0),  # until the pedal comes up
        (60, 1.0, 2.0),
        (67, 2.0, 2.5),
    ]
    assert read(data, sustain=False)["end"].tolist() == [0.5, 0.6, 1.5, 2.5]


@pytest.mark.parametrize("read", [read_midi, read_with_mido])
def test_notes_that_never_end_last_until_the_track_does(read: Any) -> None:
    data = midi(on(60, 0), on(62, 480), off(62, 480), mido.MetaMessage("end_of_track", time=960))
    notes = read(data)
    assert notes["pitch"].tolist() == [60, 62]
    assert notes["end"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("read", [read_midi, read_with_mido])
def test_tempos_change_the_clock(read: Any) -> None:
    data = midi(
        on(60, 0),
        off(60, 480),
        mido.MetaMessage("set_tempo", tempo=1_000_000),
        on(62, 480),
        off(62, 480),
    )
    assert read(data)["start"].tolist() == [0, 1.5] and read(data)["end"].tolist() == [0.5, 2.5]


def test_drums_are_left_out() -> None:
    drum = mido.Message("note_on", channel=9, note=38, velocity=64, time=0)
    data = midi(drum, mido.Message("note_off", channel=9, note=38, time=10), on(60, 0), off(60, 10))
    assert read_midi(data)["pitch"].tolist() == [60]
    assert read_midi(data, drums=True)["pitch"].tolist() == [38, 60]


WHOLE = midi(on(60, 0), off(60, 480))
BROKEN = {
    "cut in the header": (WHOLE[:10], "no MIDI file"),
    "cut in a track": (WHOLE[:-6], "MIDI file cut short"),
    "no track": (WHOLE[:14], "MIDI file cut short"),
    "text": (b"<html>" * 10, "no MIDI file"),
    "no note": (midi(mido.MetaMessage("text", text="x")), "no note"),
    "division 0": (WHOLE[:12] + b"\0\0" + WHOLE[14:], "damaged MIDI file"),
    "film frames": (WHOLE[:12] + b"\xe7\x28" + WHOLE[14:], r"film frames"),
    "tempo 0": (
        midi(mido.MetaMessage("set_tempo", tempo=0), on(60, 0), off(60, 480)),
        "a tempo of 0",
    ),
    "running status without a status": (
        WHOLE[:22] + b"\x00\x3c\x40" + WHOLE[25:],
        "damaged MIDI file|no note",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_broken_files_are_told(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.mid").write_bytes(data)
    (tmp_path / "b.mid").write_bytes(WHOLE)
    source = opened(kind="midi_files", paths=str(tmp_path))
    assert len(source) == 2 and source[1]["midi"]["pitch"].tolist() == [60]
    with pytest.raises(BadRecord, match=reason) as error:
        source[0]
    assert "a.mid" in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty.mid").write_bytes(b"")
    source = opened(
        kind="midi_files",
        paths=[str(tmp_path / "empty.mid"), str(tmp_path / "none.mid"), str(FILES[0])],
    )
    for index, reason in enumerate(["empty file", "no such file"]):
        with pytest.raises(BadRecord, match=reason):
            source[index]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_notes_or_a_bad_record(data: st.DataObject) -> None:
    small = min(FILES, key=lambda path: path.stat().st_size).read_bytes()
    if data.draw(st.booleans()):
        mutated = bytearray(small)
        for _ in range(data.draw(st.integers(1, 40))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        raw = bytes(mutated[: data.draw(st.integers(0, len(mutated)))])
    else:
        raw = data.draw(st.binary(max_size=60))
    try:
        notes = read_midi(raw)
        ExponentialTime().build().encode(notes)
    except LomError as error:
        assert isinstance(error, BadRecord)


CORNERS = {
    "a pedal that stays down": [pedal(127, 0), on(60, 0), off(60, 480), on(62, 480), off(62, 480)],
    "a pedal that goes up twice": [pedal(127, 0), on(60, 0), off(60, 480), pedal(0, 480), pedal(0, 9)],
    "a pedal that only goes up": [on(60, 0), pedal(0, 100), off(60, 380), on(62, 0), off(62, 9)],
    "a program that changes": [pedal(127, 0), on(60, 0), off(60, 480), program(5, 0), on(62, 0), off(62, 480), pedal(0, 480)],
    "a program that changes in a note": [on(60, 0), program(5, 10), pedal(127, 0), off(60, 480), pedal(0, 480)],
    "a key that is struck twice": [on(60, 0), on(60, 100), off(60, 100), off(60, 100)],
    "a key that is struck twice under the pedal": [pedal(127, 0), on(60, 0), on(60, 100), off(60, 100), off(60, 100), on(60, 400), off(60, 10), pedal(0, 400)],
    "a key that is held for ever": [on(60, 0), on(60, 480), off(60, 480), on(61, 0), off(61, 480)],
}  # fmt: skip
HELD = [[(60, 1.5), (62, 1.5)], [(60, 1.0)], [(60, 0.5), (62, 0.509375)], [(60, 1.5), (62, 1.5)], [(60, 970 / 960)], [(60, 0.2083333), (60, 0.3125)], [(60, 700 / 960), (60, 700 / 960), (60, 1110 / 960)], [(60, 1.0), (60, 1.5), (61, 1.5)]]  # fmt: skip


@pytest.mark.parametrize(("name", "held"), list(zip(CORNERS, HELD, strict=True)), ids=CORNERS)
@pytest.mark.parametrize("read", [read_midi, read_with_mido])
def test_corners(read: Any, name: str, held: list[tuple[int, float]]) -> None:
    notes = read(midi(*CORNERS[name]))
    got = sorted(zip(notes["pitch"].tolist(), notes["end"].tolist(), strict=True))
    assert [p for p, _ in got] == [p for p, _ in held]
    assert np.allclose([end for _, end in got], [end for _, end in held])
