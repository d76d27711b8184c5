"""Notes: the raw value of music. Seconds, MIDI pitches, MIDI velocities.

A value is a mapping of arrays ``pitch``, ``velocity`` (1 .. 127), ``start`` and ``end`` (seconds),
all (n,), and optionally ``specials`` (names of special tokens that stand first), ``tempos``
(m, 2) of seconds and quarter notes a minute, ``meters`` (k, 3) of seconds, numerator, denominator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array

Notes = dict[str, Any]
LOWEST, HIGHEST = 21, 108  # the keys of a piano
COLUMNS = ("pitch", "velocity", "start", "end")


def as_notes(value: Any) -> Notes:
    """The checked notes of a value, by start and then pitch.

    Errors:
        BadRecord: no notes, columns of different lengths, times that are not finite or run
            backwards, pitches, velocities or names of special tokens that are none.
    """
    if not isinstance(value, Mapping) or any(name not in value for name in COLUMNS):
        raise BadRecord("no notes", detail=f"needs {', '.join(COLUMNS)}")
    try:
        pitch, velocity, start, end = (np.asarray(value[c], dtype=np.float64) for c in COLUMNS)
    except (TypeError, ValueError) as error:
        raise BadRecord("notes that are not numbers", detail=str(error)[:100]) from None
    lengths = {a.shape for a in (pitch, velocity, start, end)}
    if len(lengths) > 1 or pitch.ndim != 1:
        raise BadRecord("columns of different lengths", detail=str(sorted(map(str, lengths))))
    if not len(pitch):
        raise BadRecord("no note")
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        raise BadRecord("a time that is not finite")
    if (end < start).any():
        raise BadRecord("a note that ends before it starts")
    for name, column, lowest in (("pitch", pitch, 0), ("velocity", velocity, 1)):
        if not ((column >= lowest) & (column <= 127) & (column == np.floor(column))).all():
            raise BadRecord(f"a {name} that is no whole number of {lowest} .. 127")
    specials = value.get("specials", ())
    if not isinstance(specials, list | tuple) or not all(isinstance(s, str) for s in specials):
        raise BadRecord("specials that are no list of names")
    tables = {"tempos": tempos_of, "meters": meters_of}
    rest: Notes = {name: check(value) for name, check in tables.items() if name in value}
    rest.update({name: value[name] for name in ("specials", "continues") if name in value})
    if "origin" in value:
        rest["origin"] = origin_of(value["origin"], start)
    order = np.lexsort((pitch, start))
    return {
        "pitch": pitch[order].astype(np.int64),
        "velocity": velocity[order].astype(np.int64),
        "start": start[order],
        "end": end[order],
        **rest,
    }


def chosen(notes: Notes, which: Array) -> Notes:
    """The notes of a mask (n,) or of numbers (k,), with all else that the value holds."""
    return {**notes, **{name: np.asarray(notes[name])[which] for name in COLUMNS}}


def origin_of(value: Any, start: Array) -> float:
    """When the tokens' clock begins, in seconds; BadRecord if that is after the first note."""
    try:
        origin = float(value)
    except (TypeError, ValueError):
        raise BadRecord("an origin that is no time", detail=str(value)[:60]) from None
    if not origin <= start.min():
        raise BadRecord("an origin after the first note")
    return origin


def on_the_piano(notes: Notes) -> tuple[Notes, int]:
    """The notes of the 88 keys, and how many others there were."""
    inside = (notes["pitch"] >= LOWEST) & (notes["pitch"] <= HIGHEST)
    return chosen(notes, inside), int((~inside).sum())


def tempos_of(notes: Mapping[str, Any]) -> Array:
    """(m, 2) seconds and quarter notes a minute: 120 where the value says nothing.

    Errors:
        BadRecord: they are not finite, not above 0 or not in order.
    """
    tempos = _table(notes, "tempos", [[0.0, 120.0]])
    if (tempos[:, 1] <= 0).any() or (np.diff(tempos[:, 0]) < 0).any():
        raise BadRecord("tempos that are none")
    return tempos


def meters_of(notes: Mapping[str, Any]) -> Array:
    """(k, 3) seconds, numerator, denominator: 4/4 where the value says nothing.

    Errors:
        BadRecord: they are not finite, not above 0 or not in order.
    """
    meters = _table(notes, "meters", [[0.0, 4.0, 4.0]])
    if (meters[:, 1:] <= 0).any() or (np.diff(meters[:, 0]) < 0).any():
        raise BadRecord("meters that are none")
    return meters


def _table(notes: Mapping[str, Any], name: str, otherwise: list[list[float]]) -> Array:
    try:
        table = np.asarray(notes.get(name, otherwise), dtype=np.float64)
    except (TypeError, ValueError):
        raise BadRecord(f"{name} that are none") from None
    if table.ndim != 2 or table.shape[1] != len(otherwise[0]) or not len(table):
        raise BadRecord(f"{name} that are none", detail=f"shape {table.shape}")
    if not np.isfinite(table).all():
        raise BadRecord(f"{name} that are none", detail="not finite")
    return table


@dataclass(frozen=True)
class Clock:
    """Seconds <-> quarter notes, in stretches of constant tempo.

    Args:
        seconds, beats: (m,) where each stretch begins.
        rate: (m,) quarter notes a second.
    """

    seconds: Array
    beats: Array
    rate: Array

    @staticmethod
    def of(tempos: Array) -> Clock:
        """Of a table (m, 2) of seconds and quarter notes a minute; beat 0 is where it begins."""
        seconds, rate = tempos[:, 0], tempos[:, 1] / 60
        return Clock(seconds, np.append(0.0, np.cumsum(np.diff(seconds) * rate[:-1])), rate)

    def to_beats(self, seconds: Array) -> Array:
        k = (np.searchsorted(self.seconds, seconds, side="right") - 1).clip(0)
        return np.asarray(self.beats[k] + (seconds - self.seconds[k]) * self.rate[k])

    def to_seconds(self, beats: Array) -> Array:
        k = (np.searchsorted(self.beats, beats, side="right") - 1).clip(0)
        return np.asarray(self.seconds[k] + (beats - self.beats[k]) / self.rate[k])


def split_on_silence(notes: Notes, seconds: float) -> list[Notes]:
    """Pieces between which nothing sounds for longer than ``seconds``. ``notes`` are sorted."""
    sounding = np.maximum.accumulate(notes["end"])
    borders = np.flatnonzero(notes["start"][1:] - sounding[:-1] > seconds) + 1
    return [chosen(notes, part) for part in np.split(np.arange(len(notes["pitch"])), borders)]


def windows(notes: Notes, size: int) -> list[Notes]:
    """Windows of ``size`` notes, end to end; all but the last are marked to continue."""
    n = len(notes["pitch"])
    parts = [np.arange(i, min(i + size, n)) for i in range(0, n, size)]
    found = [chosen(notes, part) for part in parts]
    return [{**part, "continues": i < len(found) - 1} for i, part in enumerate(found)]


def changed(notes: Notes, semitones: int, speed: float) -> Notes:
    """Transposed as far as the keyboard reaches, and played ``speed`` times as fast."""
    room = LOWEST - notes["pitch"].min(), HIGHEST - notes["pitch"].max()
    semitones = int(np.clip(semitones, min(room[0], 0), max(room[1], 0)))
    out = {**notes, "pitch": notes["pitch"] + semitones}
    out.update({name: notes[name] / speed for name in ("start", "end")})
    for name, column in (("tempos", 1), ("meters", None)):
        if name in notes:
            table = np.array(notes[name], dtype=np.float64)
            table[:, 0] /= speed
            if column is not None:
                table[:, column] *= speed
            out[name] = table
    return out
