"""Notes <-> events in time steps of 1, 2, 4 ... 64 x 10 ms. Vectorised: no loop over notes."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, Tokens
from lom_core.roles import Array
from lom_midi.notes import HIGHEST, LOWEST, Notes, as_notes, on_the_piano

if TYPE_CHECKING:
    from lom_midi import ExponentialTime

STEP = 0.01  # s
N_KEYS = HIGHEST - LOWEST + 1
ON, OFF, VELOCITY, TIME = 2, 2 + N_KEYS, 2 + 2 * N_KEYS, 2 + 2 * N_KEYS + 32
BASE = TIME + 7  # 217
EDGES = np.linspace(0, 128, 33).astype(np.int64)
MIDPOINTS = (EDGES[:-1] + EDGES[1:]) // 2
LONGEST = 1 << 24  # steps; two days in one piece are a damaged file


class ExponentialEncoder:
    """What ExponentialTime configures."""

    def __init__(self, config: ExponentialTime) -> None:
        self.config = config
        self.special = {name: BASE + i for i, name in enumerate(config.specials)}
        self.end = self.special.get("<END>")

    def encode(self, value: Any) -> Tokens:
        """Tokens (n,), positions (n, 1): seconds at which each stands.

        They count from the first note, or from the value's ``origin``: two values that are to be
        compared, such as a prompt and its answer, share one clock.
        """
        notes = as_notes(value)
        first = [self._special(name) for name in notes.get("specials", ())]
        notes, _ = on_the_piano(notes)
        if not len(notes["pitch"]):
            raise BadRecord("no note on the keys of a piano")
        origin = notes.get("origin", notes["start"].min())
        start = np.rint((notes["start"] - origin) / STEP)
        end = np.rint((notes["end"] - origin) / STEP)
        if end.max() > LONGEST:
            raise BadRecord("a piece that is too long", detail=f"{end.max() * STEP:.0f} s")
        tokens = _events(
            notes["pitch"],
            start.astype(np.int64),
            np.maximum(end, start + 1).astype(np.int64),
            notes["velocity"],
        )
        ends = self.end is not None and not notes.get("continues", False)
        content = np.concatenate([first, tokens, [self.end] if ends else []]).astype(np.int64)
        return Tokens(content, self.places(content))

    def places(self, content: Array) -> Array:
        """(n, 1) seconds since the first token."""
        return np.asarray((_steps(content) * STEP).astype(np.float32)[:, None])

    def decode(self, tokens: Tokens) -> Notes:
        """Notes and ``specials``, up to <END>; times are the tokens' positions.

        What a model answers stands where it was asked: one wrong time does not shift all that
        follows. Windows cut anywhere decode too, and so does what a model makes up: a note-off
        without its note is passed over, a note without its note-off lasts to the end of the
        window, a note without a velocity takes the one before, or else 64.
        """
        names = {number: name for name, number in self.special.items()}
        now, velocity, closed = 0, 64, False
        steps = np.rint(tokens.positions[:, 0].astype(np.float64) / STEP).astype(np.int64)
        specials: list[str] = []
        rows: list[list[int]] = []  # pitch, velocity, start, end
        sounding: dict[int, deque[int]] = defaultdict(deque)  # pitch -> rows, struck first first
        for token, now in zip(tokens.content.tolist(), steps.tolist(), strict=True):
            if token == self.end:
                closed = True
                break
            if token >= BASE:
                specials.append(names[token])
            elif VELOCITY <= token < TIME:
                velocity = int(MIDPOINTS[token - VELOCITY])
            elif OFF <= token < VELOCITY:
                pitch = token - OFF + LOWEST
                if sounding[pitch]:
                    rows[sounding[pitch].popleft()][3] = now
            elif ON <= token < OFF:
                pitch = token - ON + LOWEST
                sounding[pitch].append(len(rows))
                rows.append([pitch, velocity, now, -1])
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        pitches, velocities, start, end = table[np.lexsort((table[:, 0], table[:, 2]))].T
        end = np.where(end < 0, now, end)
        found: Notes = {
            "pitch": pitches,
            "velocity": velocities,
            "start": start * STEP,
            "end": np.maximum(end, start + 1) * STEP,
        }
        if specials:
            found["specials"] = specials
        if self.end is not None and not closed:
            found["continues"] = True
        if len(start) and start[0] > 0:
            found["origin"] = 0.0
        return found

    def _special(self, name: str) -> int:
        if name not in self.special or name == "<END>":
            told = f"'{name}'; specials: {', '.join(self.special)}"
            raise BadRecord("a special token that the tokeniser does not list", detail=told[:200])
        return self.special[name]


def _events(pitch: Array, start: Array, end: Array, velocity: Array) -> Array:
    """Tokens (n,) of notes whose times are in steps.

    An event is ``time ... VELOCITY_b NOTE_ON_p`` or ``time ... NOTE_OFF_p``; at one time note-offs
    stand first, then lower keys. Time is the greedy sum of powers of two: 64 as often as it fits,
    then the set bits of the rest.
    """
    n = len(pitch)
    when = np.concatenate([end, start])
    is_on = np.arange(2 * n) >= n
    key = np.concatenate([pitch, pitch]) - LOWEST
    order = np.lexsort((key, is_on, when))
    when, is_on, key = when[order], is_on[order], key[order]
    bins = np.searchsorted(EDGES, np.concatenate([velocity, velocity])[order], side="right") - 1

    gap = np.diff(when, prepend=0)
    n_64, rest = gap >> 6, gap & 63
    bits = (rest[:, None] >> np.arange(5, -1, -1)) & 1  # (events, 6): 32, 16 ... 1
    n_of = n_64 + bits.sum(axis=1) + 1 + is_on
    first = np.cumsum(n_of) - n_of
    tokens = np.full(int(n_of.sum()), TIME + 6)  # what is not written below is a 64
    at = first[:, None] + n_64[:, None] + np.cumsum(bits, axis=1) - 1
    event, which = np.nonzero(bits)
    tokens[at[event, which]] = TIME + 5 - which
    last = first + n_of - 1
    tokens[last] = np.where(is_on, ON, OFF) + key
    tokens[last[is_on] - 1] = VELOCITY + bins[is_on]
    return tokens


def _steps(tokens: Array) -> Array:
    """(n,) steps from the first token to after each."""
    is_time = (tokens >= TIME) & (tokens < BASE)
    return np.asarray(np.cumsum(np.where(is_time, 1 << np.where(is_time, tokens - TIME, 0), 0)))
