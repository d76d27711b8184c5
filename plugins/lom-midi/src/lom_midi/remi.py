"""Notes <-> bars and beats, after REMI (Huang and Yang 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, Tokens
from lom_core.roles import Array
from lom_midi.exponential import EDGES, MIDPOINTS, N_KEYS
from lom_midi.notes import (
    LOWEST,
    Clock,
    Notes,
    as_notes,
    meters_of,
    on_the_piano,
    tempos_of,
)

if TYPE_CHECKING:
    from lom_midi import BarBeat

TEMPOS = np.geomspace(30, 240, 32)  # quarter notes a minute
EIGHTHS = 16  # of the longest bar
LONGEST = 1 << 17  # quarter notes; 18 hours at 120 a minute are a damaged file


@dataclass(frozen=True)
class Layout:
    """Where each sort of token begins: BAR, METER, TEMPO, POSITION, PITCH, VELOCITY, DURATION."""

    resolution: int
    longest: int

    @property
    def meter(self) -> int:
        return 1

    @property
    def tempo(self) -> int:
        return self.meter + EIGHTHS

    @property
    def position(self) -> int:
        return self.tempo + len(TEMPOS)

    @property
    def pitch(self) -> int:
        return self.position + self.resolution * EIGHTHS // 2

    @property
    def velocity(self) -> int:
        return self.pitch + N_KEYS

    @property
    def duration(self) -> int:
        return self.velocity + len(MIDPOINTS)

    @property
    def size(self) -> int:
        return self.duration + self.resolution * self.longest


class BarBeatEncoder:
    """What BarBeat configures."""

    end: int | None = None

    def __init__(self, config: BarBeat) -> None:
        self.resolution = config.resolution
        self.at = Layout(config.resolution, config.longest)
        self.longest = config.longest * config.resolution

    def encode(self, value: Any) -> Tokens:
        """Tokens (n,), positions (n, 1): quarter notes since the first bar.

        The first bar is that of the first note; a value that is cut out of a piece keeps its place
        in the bar.
        """
        notes, _ = on_the_piano(as_notes(value))
        if not len(notes["pitch"]):
            raise BadRecord("no note on the keys of a piano")
        clock = Clock.of(tempos_of(notes))
        start, end = (
            np.rint(clock.to_beats(notes[side]) * self.resolution) for side in ("start", "end")
        )
        if end.max() - start.min() > LONGEST * self.resolution:
            raise BadRecord("a piece that is too long", detail=f"over {LONGEST} quarter notes")
        length = np.clip(end - start, 1, self.longest).astype(np.int64)
        start = start.astype(np.int64)
        order = np.lexsort((notes["pitch"], start))  # rounding made ties
        start, length = start[order], length[order]
        bars, heads = self._bars(meters_of(notes), clock, int(start[0]), int(start[-1]))
        bar_of = np.searchsorted(bars, start, side="right") - 1
        at = self.at
        table = np.stack(
            [
                at.position + start - bars[bar_of],
                at.pitch + notes["pitch"][order] - LOWEST,
                at.velocity + np.searchsorted(EDGES, notes["velocity"][order], side="right") - 1,
                at.duration + length - 1,
            ],
            axis=1,
        )  # (n, 4), a row a note; notes struck together share their POSITION
        kept = np.ones(table.shape, bool)
        kept[1:, 0] = start[1:] != start[:-1]
        before = np.append(0, np.cumsum(kept.sum(axis=1)))
        border = np.repeat(before[np.searchsorted(bar_of, np.arange(len(bars)))], 3)
        content = np.insert(table[kept], border, heads.ravel())
        when = np.insert(np.repeat(start[:, None], 4, axis=1)[kept], border, np.repeat(bars, 3))
        beats = (when - when[0]) / self.resolution
        return Tokens(content, beats.astype(np.float32)[:, None])

    def places(self, content: Array) -> Array:
        """(n, 1) quarter notes since the first bar: a bar stands where the one before it ends."""
        at, bar, position, length = self.at, 0, 0, 8 * self.resolution // 2
        steps = np.empty(len(content), np.int64)
        for number, token in enumerate(content.tolist()):
            if token == 0:
                bar, position = bar + (length if number else 0), 0
            elif token < at.tempo:
                length = (token - at.meter + 1) * self.resolution // 2
            elif at.position <= token < at.pitch:
                position = token - at.position
            steps[number] = bar + position
        return (steps / self.resolution).astype(np.float32)[:, None]

    def decode(self, tokens: Tokens) -> Notes:
        """Notes in seconds from the first bar on, with tempos and meters, for any sequence.

        Velocities and durations without a pitch are passed over; a note without a velocity has 64,
        one without a duration lasts a step.
        """
        at, bar, position, length = self.at, 0, 0, 8 * self.resolution // 2
        rows, tempos, meters = [], [], []
        for number, token in enumerate(tokens.content.tolist()):
            if token == 0:
                bar, position = bar + (length if number else 0), 0
            elif token < at.tempo:
                length = (token - at.meter + 1) * self.resolution // 2
                meters.append((bar, token - at.meter + 1, 8))
            elif token < at.position:
                tempos.append((bar, float(TEMPOS[token - at.tempo])))
            elif token < at.pitch:
                position = token - at.position
            elif token < at.velocity:
                rows.append([token - at.pitch + LOWEST, 64, bar + position, bar + position + 1])
            elif token < at.duration and rows:
                rows[-1][1] = int(MIDPOINTS[token - at.velocity])
            elif token >= at.duration and rows:
                rows[-1][3] = rows[-1][2] + token - at.duration + 1
        pitch, loudness, start, end = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        changes = sorted(dict(tempos or [(0, 120.0)]).items())
        if changes[0][0] > 0:
            changes.insert(0, (0, changes[0][1]))
        beats = np.array([b for b, _ in changes]) / self.resolution
        rate = np.array([t for _, t in changes]) / 60
        seconds = np.concatenate([[0.0], np.cumsum(np.diff(beats) / rate[:-1])])
        clock = Clock(seconds, beats, rate)
        steps = 1 / self.resolution
        table = [[float(clock.to_seconds(np.array(b * steps))), *rest] for b, *rest in meters]
        return {
            "pitch": pitch,
            "velocity": loudness,
            "start": clock.to_seconds(start * steps),
            "end": clock.to_seconds(end * steps),
            "tempos": np.stack([seconds, rate * 60], axis=1),
            "meters": np.array(table or [[0.0, 8, 8]], dtype=np.float64),
        }

    def _bars(self, meters: Array, clock: Clock, first: int, last: int) -> tuple[Array, Array]:
        """Where the bars from step ``first`` to ``last`` begin (b,), their BAR METER TEMPO (b, 3).

        A change of meter counts from the next bar on.
        """
        begin = np.rint(clock.to_beats(meters[:, 0]) * self.resolution)
        eighths = 8 * meters[:, 1] / meters[:, 2]
        if ((eighths != np.floor(eighths)) | (eighths < 1) | (eighths > EIGHTHS)).any():
            raise BadRecord("a meter that is no whole number of eighths, 1 to 16")
        starts, lengths = [int(min(begin[0], first))], []
        if last - starts[0] > LONGEST * self.resolution:
            raise BadRecord("a piece that is too long", detail=f"over {LONGEST} quarter notes")
        while starts[-1] <= last:
            which = max(int(np.searchsorted(begin, starts[-1], side="right")) - 1, 0)
            lengths.append(int(eighths[which]))
            starts.append(starts[-1] + (lengths[-1] * self.resolution) // 2)
        bars, length = np.array(starts[:-1]), np.array(lengths)
        used = np.searchsorted(bars, first, side="right") - 1
        bars, length = bars[used:], length[used:]
        k = np.searchsorted(clock.beats, bars / self.resolution + 1e-9, side="right") - 1
        speed = np.log(clock.rate[k.clip(0)] * 60)
        tempo = np.abs(speed[:, None] - np.log(TEMPOS)).argmin(axis=1)
        head = np.stack([0 * bars, self.at.meter + length - 1, self.at.tempo + tempo], axis=1)
        return bars, head
