"""MIDI files <-> notes: read with symusic for speed, or with mido; written with mido."""

from __future__ import annotations

import io
import re
import struct
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array
from lom_midi.notes import Notes, as_notes

DRUMS = 9  # the channel of General MIDI's percussion
PEDAL, DOWN = 64, 64
TICKS = 480  # a quarter note, in files that are written here
FOUR_FOUR = [[0, 4, 4]]
_DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError)  # what mido raises


def read_midi(data: bytes, drums: bool = False, sustain: bool = True) -> Notes:
    """The notes of a Standard MIDI File, by symusic.

    Notes that never end last until their track does, and so does a pedal that stays down. With
    ``sustain`` a note that ends while the pedal is down lasts until the pedal comes up or its key
    is struck again. A pedal counts for the notes of its own channel and track.

    Errors:
        BadRecord: no MIDI file, cut short, time in film frames, a tempo of 0, or no note.
    """
    import symusic

    chunks = _chunks(data)
    if sustain and any(_changes_program(body) for name, body in chunks if name == b"MTrk"):
        # symusic ties controllers to the program and loses some where that changes.
        return read_with_mido(data, drums, sustain)
    try:
        score: Any = symusic.Score.from_midi(_closed(chunks), ttype="tick")
    except (RuntimeError, ValueError, IndexError) as error:
        raise BadRecord("damaged MIDI file", detail=_told(error)) from None
    tempos = [[tempo.time, tempo.mspq] for tempo in score.tempos]
    meters = [[m.time, m.numerator, m.denominator] for m in score.time_signatures]
    parts, pedals = [], []
    for number, track in enumerate(score.tracks):
        if not len(track.notes) or (track.is_drum and not drums):
            continue
        cells = track.notes.numpy()
        start = cells["time"].astype(np.int64)
        table = (cells["pitch"], cells["velocity"], start, start + cells["duration"])
        parts.append(np.stack([*table, np.full(len(start), number)], axis=1).astype(np.int64))
        turned = track.controls.numpy()
        of_pedal = turned["number"] == PEDAL
        pedals.append(_pressed(number, turned["time"][of_pedal], turned["value"][of_pedal]))
    return _to_seconds(parts, pedals if sustain else [], tempos, meters, score.ticks_per_quarter)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Name and body of each chunk, the header first.

    Errors:
        BadRecord: they do not fill the file, there is no track, or its time has no ticks.
    """
    if data[:4] != b"MThd" or len(data) < 14:
        raise BadRecord("no MIDI file", detail=f"begins with {data[:4]!r}")
    (division,) = struct.unpack(">H", data[12:14])
    if division & 0x8000:
        raise BadRecord("MIDI time in film frames (SMPTE)")
    if not division:
        raise BadRecord("damaged MIDI file", detail="0 ticks a quarter note")
    found, at = [], 0
    while at < len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
        body = data[at + 8 : at + 8 + size]
        if at + 8 > len(data) or len(body) < size:
            raise BadRecord("MIDI file cut short", detail=f"in the chunk at byte {at}")
        found.append((name, body))
        at += 8 + size
    if len(found) < 2 or len(found[0][1]) < 6:
        raise BadRecord("MIDI file cut short", detail="no track")
    return found


def _closed(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The file with all keys and pedals let go at the end of each track.

    symusic leaves out notes that never end, and pedals.
    """
    out = []
    for name, body in chunks:
        if name == b"MTrk" and body.endswith(_END):
            body = body[: -len(_END)] + _ALL_OFF + _END
        out.append(name + len(body).to_bytes(4, "big") + body)
    return b"".join(out)


_END = b"\xff\x2f\x00"
# Takes the delta time of the end of the track, which it stands before; leaves 0 for that.
_OFFS = [bytes([0x80 | c, p, 0]) for c in range(16) for p in range(128)]
_ALL_OFF = b"\0".join([*_OFFS, *(bytes([0xB0 | c, PEDAL, 0]) for c in range(16)), b""])


def _changes_program(track: bytes) -> bool:
    """Whether a channel may change its program after its first note.

    Looks for status bytes without reading the events, so that it may say yes to a long rest.
    """
    programs = re.findall(rb"[\xc0-\xcf]", track)
    note = re.search(rb"[\x90-\x9f]", track)
    late = note and re.search(rb"[\xc0-\xcf]", track[note.start() :])
    return bool(late) or len(set(programs)) < len(programs)


def read_with_mido(data: bytes, drums: bool = False, sustain: bool = True) -> Notes:
    """The same by mido, event by event: slow, and what read_midi is tested against."""
    import mido
    from mido.midifiles.meta import KeySignatureError

    _chunks(data)
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
        tracks = [list(track) for track in file.tracks]
    except (*_DAMAGE, KeySignatureError) as error:
        raise BadRecord("damaged MIDI file", detail=_told(error)) from None
    tempos, meters, parts, pedals = [], [], [], []
    for number, track in enumerate(tracks):
        now, sounding, rows = 0, defaultdict(list), []
        turned = defaultdict(list)
        for message in track:
            now += message.time
            if message.type == "set_tempo":
                tempos.append([now, message.tempo])
            elif message.type == "time_signature":
                meters.append([now, message.numerator, message.denominator])
            if message.is_meta or (getattr(message, "channel", DRUMS) == DRUMS and not drums):
                continue
            key = (message.channel, getattr(message, "note", -1))
            if message.type == "note_on" and message.velocity:
                sounding[key].append((now, message.velocity))
            elif message.type in ("note_on", "note_off") and sounding[key]:
                start, velocity = sounding[key].pop(0)
                rows.append([message.note, velocity, start, now, number * 16 + message.channel])
            elif message.type == "control_change" and message.control == PEDAL:
                turned[message.channel].append((now, message.value))
        for (channel, pitch), left in sounding.items():
            rows += [[pitch, v, start, now, number * 16 + channel] for start, v in left]
        for channel, turns in turned.items():
            at, value = np.array([*turns, (now, 0)]).T
            pedals.append(_pressed(number * 16 + channel, at, value))
        if rows:
            parts.append(np.array(rows, dtype=np.int64))
    return _to_seconds(parts, pedals if sustain else [], tempos, meters, file.ticks_per_beat)


def _pressed(channel: int, at: Array, value: Array) -> Array:
    """(k, 3) of channel, ticks when the pedal went down and came up; its turns (m,) end with 0."""
    down = value >= DOWN
    turned = at[down != np.append(False, down[:-1])].astype(np.int64)
    n = len(turned) // 2
    return np.stack([np.full(n, channel), turned[: 2 * n : 2], turned[1 : 2 * n : 2]], axis=1)


def _to_seconds(
    parts: list[Array],
    pedals: list[Array],
    tempos: list[list[int]],
    meters: list[list[int]],
    division: int,
) -> Notes:
    """Notes from rows of pitch, velocity, start, end (ticks) and channel."""
    if not parts:
        raise BadRecord("no note")
    rows = np.concatenate(parts)
    if pedals and sum(len(pressed) for pressed in pedals):
        rows[:, 3] = _held(rows, np.concatenate(pedals))
    if any(tempo <= 0 for _, tempo in tempos):
        raise BadRecord("a tempo of 0")
    # (ticks, microseconds a quarter note), the last of each tick; 120 a minute until the first.
    table = dict([(0, 500_000), *((int(t), int(us)) for t, us in sorted(tempos, key=_time))])
    ticks = np.array(sorted(table))
    rate = np.array([table[int(t)] for t in ticks]) * 1e-6 / division
    since = np.concatenate([[0.0], np.cumsum(np.diff(ticks) * rate[:-1])])

    def seconds(at: Array) -> Array:
        segment = np.searchsorted(ticks, at, side="right") - 1
        return np.asarray(since[segment] + (at - ticks[segment]) * rate[segment])

    meters = sorted(meters, key=_time) or FOUR_FOUR
    table_of_meters = np.array(meters, dtype=np.float64)
    table_of_meters[:, 0] = seconds(np.array([m[0] for m in meters]))
    return as_notes(
        {
            "pitch": rows[:, 0],
            "velocity": rows[:, 1],
            "start": seconds(rows[:, 2]),
            "end": seconds(rows[:, 3]),
            "tempos": np.stack([since, 60 / (rate * division)], axis=1),
            "meters": table_of_meters,
        }
    )


def _time(row: list[int]) -> int:
    return row[0]


def _held(rows: Array, pedals: Array) -> Array:
    """(n,) ends in ticks: under a pedal until it comes up, or the key is struck again."""
    end = rows[:, 3].copy()
    for channel in np.unique(pedals[:, 0]):
        down, up = pedals[pedals[:, 0] == channel, 1:].T
        order = np.argsort(down, kind="stable")
        down, up = down[order], np.maximum.accumulate(up[order])
        mine = np.flatnonzero(rows[:, 4] == channel)
        under = np.searchsorted(down, end[mine], side="right") - 1
        caught = (under >= 0) & (end[mine] < up[under])
        end[mine[caught]] = up[under[caught]]
    # The first strike of the same key from when this one was let go.
    key, span = rows[:, 4] * 128 + rows[:, 0], int(rows[:, 2:4].max()) + 2
    strikes = np.sort(key * span + rows[:, 2])
    let_go = np.maximum(rows[:, 3], rows[:, 2] + 1)
    again = np.append(strikes, -1)[np.searchsorted(strikes, key * span + let_go)]
    return np.where(again // span == key, np.minimum(end, again - key * span), end)


def write_midi(notes: Any, path: str | Path) -> None:
    """A file of one piano track, 120 quarter notes a minute: times are kept to half a millisecond.

    Errors:
        BadRecord: no notes.
    """
    import mido

    notes = as_notes(notes)
    per_second = 2 * TICKS
    events = []
    for pitch, velocity, start, end in zip(*(notes[c] for c in _COLUMNS), strict=True):
        on, off = round(float(start) * per_second), round(float(end) * per_second)
        events.append((on, 1, "note_on", int(pitch), max(int(velocity), 1)))
        events.append((max(off, on + 1), 0, "note_off", int(pitch), 0))
    track, now = mido.MidiTrack(), 0
    for at, _, kind, pitch, velocity in sorted(events):
        track.append(mido.Message(kind, note=pitch, velocity=velocity, time=at - now))
        now = at
    file = mido.MidiFile(ticks_per_beat=TICKS)
    file.tracks.append(track)
    file.save(str(path))


_COLUMNS = ("pitch", "velocity", "start", "end")


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
