"""Piano tasks: small functions from notes to (prompt, answer), by name.

A *selection* takes the notes that it names out of the piece: they are the answer, the others are
the prompt, so that the model has to write them. A *restoration* spoils a quantity: what is spoilt
is the prompt, the piece as it was is the answer. Times in both are those of the piece.

Notes are sorted by start and then pitch, which settles ties where nothing else is said. An attack
is the notes that start within 50 ms of its first one. To add tasks of your own, in a module that is
imported before the run file is read::

    @selection("highest_note")
    def _(notes):
        "The highest note, the first of equals."
        return np.arange(len(notes["pitch"])) == notes["pitch"].argmax()

``restoration`` and, for any (prompt, answer), ``task`` work alike.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lom_core import BadRecord, ConfigError
from lom_core.errors import nearest
from lom_core.roles import Array
from lom_midi.notes import HIGHEST, LOWEST, Notes, chosen

Split = Callable[[Notes, np.random.Generator], tuple[Notes, Notes]]
Mask = Callable[[Notes], Array]
Spoil = Callable[[Notes, np.random.Generator], Notes]

ANSWER = "<GENAI>"  # what an answer begins with
TOGETHER = 0.05 + 1e-6  # s; 50 ms apart is together, whatever the rounding of the difference
GRID = 0.125  # s: a sixteenth at 120 quarter notes a minute


@dataclass(frozen=True)
class Task:
    """A name, the special token that a prompt begins with, and what makes prompt and answer."""

    name: str
    token: str
    split: Split

    @property
    def told(self) -> str:
        """The definition, in a sentence."""
        return " ".join((self.split.__doc__ or "").split())

    def __call__(self, notes: Notes, rng: np.random.Generator) -> tuple[Notes, Notes]:
        """(prompt, answer) of sorted notes.

        Errors:
            BadRecord: one of the two would be empty.
        """
        n = len(notes["pitch"])
        prompt, answer = self.split(notes, rng) if n else (notes, notes)
        for what, found in (("prompt", prompt), ("answer", answer)):
            if not len(found["pitch"]):
                reason = f"piano task {self.name}: too few notes"
                raise BadRecord(reason, detail=f"{n} of them leave none to the {what}")
        return prompt, answer

    def __reduce__(self) -> tuple[object, ...]:
        # By name: the module that registers it is imported again in a loader's worker.
        return _imported, (self.name, self.split.__module__)


TASKS: dict[str, Task] = {}


def task(name: str, token: str = "") -> Callable[[Split], Split]:
    """Register a function (notes, rng) -> (prompt, answer). The token is ``<NAME>`` by default.

    Errors:
        ConfigError: another task has that name or that token.
    """

    def register(split: Split) -> Split:
        new = Task(name, token or f"<{name.upper()}>", split)
        taken = {ANSWER, "<END>"} | {known.token for known in TASKS.values()}
        if name in TASKS or new.token in taken:
            raise ConfigError(f"piano task '{name}': its name or token {new.token} is taken")
        TASKS[name] = new
        return split

    return register


def selection(name: str, token: str = "") -> Callable[[Mask], Mask]:
    """Register a function notes -> (n,) bool: the notes that are the answer."""

    def register(mask: Mask) -> Mask:
        def split(notes: Notes, rng: np.random.Generator) -> tuple[Notes, Notes]:
            answer = np.asarray(mask(notes), dtype=bool)
            return chosen(notes, ~answer), chosen(notes, answer)

        split.__doc__, split.__module__ = mask.__doc__, mask.__module__
        task(name, token)(split)
        return mask

    return register


def restoration(name: str, token: str = "") -> Callable[[Spoil], Spoil]:
    """Register a function (notes, rng) -> the columns that it spoils; the answer is the piece."""

    def register(spoil: Spoil) -> Spoil:
        def split(notes: Notes, rng: np.random.Generator) -> tuple[Notes, Notes]:
            spoilt = {**notes, **spoil(notes, rng)}
            return chosen(spoilt, np.lexsort((spoilt["pitch"], spoilt["start"]))), notes

        split.__doc__, split.__module__ = spoil.__doc__, spoil.__module__
        task(name, token)(split)
        return spoil

    return register


def find_tasks(names: Iterable[str] = ()) -> list[Task]:
    """The tasks of these names, or all of them.

    Errors:
        ConfigError: no such task.
    """
    wanted = list(names) or list(TASKS)
    for name in wanted:
        if name not in TASKS:
            known = ", ".join(TASKS)
            raise ConfigError(f"no piano task '{name}'{nearest(name, TASKS)}; there are: {known}")
    return [TASKS[name] for name in wanted]


def _imported(name: str, module: str) -> Task:
    importlib.import_module(module)
    return TASKS[name]


# ------------------------------------------------------------------------------ by pitch


def _select(name: str, told: str, mask: Mask) -> None:
    mask.__doc__ = told
    selection(name)(mask)


def _above(notes: Notes, share: float) -> Array:
    return np.asarray(notes["pitch"] > np.quantile(notes["pitch"], share))


def _below(notes: Notes, share: float) -> Array:
    return np.asarray(notes["pitch"] < np.quantile(notes["pitch"], share))


def _quarter(height: Array) -> Array:
    """(n,) bool: the n // 4 highest, the earlier of equals."""
    mask = np.zeros(len(height), dtype=bool)
    mask[np.argsort(-height, kind="stable")[: len(height) // 4]] = True
    return mask


# Quartiles are interpolated linearly (numpy.quantile).
_NOT_AT = "the prompt has those at it."
_select(
    "above_median_pitch",
    f"Notes above the median pitch; {_NOT_AT}",
    lambda n: _above(n, 0.5),
)
_select(
    "below_median_pitch",
    f"Notes below the median pitch; {_NOT_AT}",
    lambda n: _below(n, 0.5),
)
_select(
    "above_first_quartile",
    f"Notes above the first quartile of pitch; {_NOT_AT}",
    lambda n: _above(n, 0.25),
)
_select(
    "below_first_quartile",
    f"Notes below the first quartile of pitch; {_NOT_AT}",
    lambda n: _below(n, 0.25),
)
_select(
    "above_third_quartile",
    f"Notes above the third quartile of pitch; {_NOT_AT}",
    lambda n: _above(n, 0.75),
)
_select(
    "below_third_quartile",
    f"Notes below the third quartile of pitch; {_NOT_AT}",
    lambda n: _below(n, 0.75),
)
_select(
    "middle_quartiles",
    "Notes from the first to the third quartile of pitch, with those at either.",
    lambda n: ~_below(n, 0.25) & ~_above(n, 0.75),
)
_select(
    "outer_quartiles",
    "Notes below the first or above the third quartile of pitch, without those at either.",
    lambda n: _below(n, 0.25) | _above(n, 0.75),
)
_select(
    "highest_quarter",
    "The n // 4 highest of n notes, the earlier of equals.",
    lambda n: _quarter(n["pitch"]),
)
_select(
    "lowest_quarter",
    "The n // 4 lowest of n notes, the earlier of equals.",
    lambda n: _quarter(-n["pitch"]),
)
_select("right_hand", "Notes from middle C (60) up, with it.", lambda n: n["pitch"] >= 60)
_select("left_hand", "Notes below middle C (60).", lambda n: n["pitch"] < 60)


# -------------------------------------------------------------- by velocity and by length


def _length(notes: Notes) -> Array:
    return np.asarray(notes["end"] - notes["start"])


_select("loud", "Notes of velocity 80 or more.", lambda n: n["velocity"] >= 80)
_select("very_loud", "Notes of velocity 100 or more.", lambda n: n["velocity"] >= 100)
_select("soft", "Notes of velocity 60 or less.", lambda n: n["velocity"] <= 60)
_select("very_soft", "Notes of velocity 40 or less.", lambda n: n["velocity"] <= 40)
_select(
    "staccato",
    "Notes that last less than half the median length.",
    lambda n: _length(n) < 0.5 * np.median(_length(n)),
)
_select(
    "legato",
    "Notes that last longer than the median length, without those of just that length.",
    lambda n: _length(n) > np.median(_length(n)),
)


# -------------------------------------------------------------------------- by attack


def _attacks(notes: Notes) -> Array:
    """(n,) number of each note's attack: it starts with its first note and lasts 50 ms."""
    start = notes["start"]
    number = np.zeros(len(start), dtype=np.int64)
    first = 0
    while first < len(start):
        after = int(np.searchsorted(start, start[first] + TOGETHER, side="right"))
        after = max(after, first + 1)  # far from 0 the sum may round to less than the start
        number[after:] += 1
        first = after
    return number


def _attack_sizes(notes: Notes) -> Array:
    attack = _attacks(notes)
    return np.asarray(np.bincount(attack)[attack])


def _struck(notes: Notes, height: Array) -> Array:
    """(n,) bool: one note of each attack, the highest, the first of equals."""
    attack = _attacks(notes)
    order = np.lexsort((-height, attack))  # stable
    mask = np.zeros(len(attack), dtype=bool)
    mask[order[np.flatnonzero(np.diff(attack[order], prepend=-1))]] = True
    return mask


def _skyline(notes: Notes, height: Array) -> Array:
    """Those of ``_struck`` that nothing higher covers: no earlier note that still sounds."""
    line = _struck(notes, height)
    start, end = notes["start"], notes["end"]
    for i in np.flatnonzero(line):
        line[i] = not ((end[:i] > start[i]) & (height[:i] > height[i])).any()
    return line


_select(
    "top_line",
    "The highest note of each attack, the first of equals, unless a higher one still sounds.",
    lambda n: _skyline(n, n["pitch"]),
)
_select(
    "bass_line",
    "The lowest note of each attack, the first of equals, unless a lower one still sounds.",
    lambda n: _skyline(n, -n["pitch"]),
)
_select(
    "highest_struck",
    "The highest note of each attack, the first of equals, also below one that still sounds.",
    lambda n: _struck(n, n["pitch"]),
)
_select(
    "lowest_struck",
    "The lowest note of each attack, the first of equals, also above one that still sounds.",
    lambda n: _struck(n, -n["pitch"]),
)
_select("chords", "Notes of attacks of three or more.", lambda n: _attack_sizes(n) >= 3)
_select(
    "without_chords",
    "Notes of attacks of one or two, from the chords.",
    lambda n: _attack_sizes(n) < 3,
)


# ---------------------------------------------------------------------------- by number


def _numbers(notes: Notes) -> Array:
    return np.arange(len(notes["pitch"]))


def _second_half(notes: Notes) -> Array:
    return _numbers(notes) >= len(notes["pitch"]) // 2


def _gap(notes: Notes) -> Array:
    number, n = _numbers(notes), len(notes["pitch"])
    return (number >= n // 3) & (number < n - n // 3)


_select("every_second", "Notes 2, 4, 6 ... in order.", lambda n: _numbers(n) % 2 == 1)
_select("every_fourth", "Notes 4, 8, 12 ... in order.", lambda n: _numbers(n) % 4 == 3)
_select("continuation", "The last n - n // 2 of n notes, from those before.", _second_half)
_select("beginning", "The first n // 2 of n notes, from the others.", lambda n: ~_second_half(n))
_select("fill_gap", "What is left between the first and the last n // 3 of n notes.", _gap)


# ----------------------------------------------------------------------- restorations


@restoration("denoise_velocity")
def _noisy_velocity(notes: Notes, rng: np.random.Generator) -> Notes:
    """From velocities that are up to 40 off either way, drawn evenly, within 1 .. 127."""
    shift = rng.integers(-40, 41, len(notes["velocity"]))
    return {"velocity": (notes["velocity"] + shift).clip(1, 127)}


@restoration("denoise_pitch")
def _noisy_pitch(notes: Notes, rng: np.random.Generator) -> Notes:
    """From pitches that are up to 3 semitones off either way, drawn evenly, within 21 .. 108."""
    shift = rng.integers(-3, 4, len(notes["pitch"]))
    return {"pitch": (notes["pitch"] + shift).clip(LOWEST, HIGHEST)}


@restoration("denoise_start")
def _noisy_start(notes: Notes, rng: np.random.Generator) -> Notes:
    """From starts that are up to 100 ms off, drawn evenly, none before the first; lengths stay."""
    start = notes["start"] + rng.uniform(-0.1, 0.1, len(notes["start"]))
    start = np.maximum(start, notes["start"].min())
    return {"start": start, "end": start + _length(notes)}


@restoration("denoise_all")
def _(notes: Notes, rng: np.random.Generator) -> Notes:
    """From velocities, pitches and starts that are all noisy, as in the three tasks before."""
    return {
        **_noisy_velocity(notes, rng),
        **_noisy_pitch(notes, rng),
        **_noisy_start(notes, rng),
    }


@restoration("performance")
def _(notes: Notes, rng: np.random.Generator) -> Notes:
    """From notes that are all played at velocity 64."""
    return {"velocity": np.full_like(notes["velocity"], 64)}


@restoration("unquantise")
def _(notes: Notes, rng: np.random.Generator) -> Notes:
    """From starts and ends rounded to 125 ms (halves to even); no note is shorter than that."""
    start = np.rint(notes["start"] / GRID) * GRID
    return {"start": start, "end": np.maximum(np.rint(notes["end"] / GRID) * GRID, start + GRID)}


@restoration("transpose_back")
def _(notes: Notes, rng: np.random.Generator) -> Notes:
    """From a second half that is 1 to 6 semitones higher or lower; the first half tells the key.

    Shifts that leave the keyboard are not drawn.
    """
    pitch = notes["pitch"].copy()
    if len(pitch) < 2:
        raise BadRecord("piano task transpose_back: too few notes", detail=f"{len(pitch)} of them")
    moved = pitch[len(pitch) // 2 :]
    low, high = max(-6, LOWEST - moved.min()), min(6, HIGHEST - moved.max())
    shifts = [shift for shift in range(low, high + 1) if shift]
    if not shifts:
        raise BadRecord("piano task transpose_back: notes that span the keyboard")
    moved += rng.choice(shifts)  # a view of pitch
    return {"pitch": pitch}
