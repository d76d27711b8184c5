"""Piano tasks: what each takes out or spoils, and the data set that is made of them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_midi.notes import as_notes
from lom_midi.task_kinds import task_tokens
from lom_midi.tasks import ANSWER, TASKS, find_tasks, restoration, selection, task

from lom_core import BadRecord, ConfigError

COLUMNS = ("pitch", "velocity", "start", "end")
SPOILS = {
    "denoise_velocity": {"velocity"},
    "denoise_pitch": {"pitch"},
    "denoise_start": {"start", "end"},
    "denoise_all": set(COLUMNS),
    "performance": {"velocity"},
    "unquantise": {"start", "end"},
    "transpose_back": {"pitch"},
}
SELECTIONS = [name for name in TASKS if name not in SPOILS]


def piece(*cells: tuple[float, ...]) -> dict[str, Any]:
    """Notes of rows (pitch, velocity, start, end)."""
    return as_notes(dict(zip(COLUMNS, np.array(cells, dtype=float).T, strict=True)))


def rows(notes: dict[str, Any]) -> list[tuple[float, ...]]:
    return [tuple(map(float, row)) for row in zip(*(notes[c] for c in COLUMNS), strict=True)]


def split(name: str, notes: dict[str, Any], seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    return TASKS[name](notes, np.random.default_rng(seed))


# Eight notes, a second apart, by number: pitch, velocity, seconds that each lasts.
PITCH = [40, 50, 60, 60, 62, 70, 80, 90]
VELOCITY = [20, 40, 60, 61, 79, 80, 100, 127]
LENGTH = [0.1, 0.2, 0.5, 0.5, 0.5, 0.5, 0.8, 0.9]
APART = piece(*((PITCH[i], VELOCITY[i], i, i + LENGTH[i]) for i in range(8)))
# The quartiles of PITCH are 57.5, 61 and 72.5.
OF_APART = {
    "above_median_pitch": [4, 5, 6, 7],
    "below_median_pitch": [0, 1, 2, 3],
    "above_first_quartile": [2, 3, 4, 5, 6, 7],
    "below_first_quartile": [0, 1],
    "above_third_quartile": [6, 7],
    "below_third_quartile": [0, 1, 2, 3, 4, 5],
    "middle_quartiles": [2, 3, 4, 5],
    "outer_quartiles": [0, 1, 6, 7],
    "highest_quarter": [6, 7],
    "lowest_quarter": [0, 1],
    "right_hand": [2, 3, 4, 5, 6, 7],
    "left_hand": [0, 1],
    "loud": [5, 6, 7],
    "very_loud": [6, 7],
    "soft": [0, 1, 2],
    "very_soft": [0, 1],
    "staccato": [0, 1],
    "legato": [6, 7],
    "every_second": [1, 3, 5, 7],
    "every_fourth": [3, 7],
    "continuation": [4, 5, 6, 7],
    "beginning": [0, 1, 2, 3],
    "fill_gap": [2, 3, 4, 5],
}
# A chord of three (one 50 ms late), two together, one alone under the second's long upper note.
CHORDAL = piece(
    (48, 64, 1.00, 1.5),
    (52, 64, 1.02, 1.5),
    (55, 64, 1.05, 1.5),
    (45, 64, 2.00, 2.5),
    (72, 64, 2.00, 3.8),
    (60, 64, 3.00, 3.5),
    (60, 70, 4.00, 4.5),
    (60, 64, 4.00, 4.4),
)
OF_CHORDAL = {
    "top_line": [2, 4, 6],
    "bass_line": [0, 3, 5, 6],
    "highest_struck": [2, 4, 5, 6],
    "lowest_struck": [0, 3, 5, 6],
    "chords": [0, 1, 2],
    "without_chords": [3, 4, 5, 6, 7],
}


def test_known_answers_cover_all_tasks() -> None:
    assert len(TASKS) >= 24
    assert {*OF_APART, *OF_CHORDAL} == set(SELECTIONS)


@pytest.mark.parametrize(
    ("name", "notes", "numbers"),
    [(name, APART, found) for name, found in OF_APART.items()]
    + [(name, CHORDAL, found) for name, found in OF_CHORDAL.items()],
)
def test_what_a_selection_takes_out(name: str, notes: dict[str, Any], numbers: list[int]) -> None:
    prompt, answer = split(name, notes)
    everything = rows(notes)
    assert rows(answer) == [everything[i] for i in numbers]
    assert rows(prompt) == [row for i, row in enumerate(everything) if i not in numbers]


def test_ties() -> None:
    ties = piece(*((pitch, 64, i, i + 0.5) for i, pitch in enumerate([50, 60, 60, 60, 70])))
    for name, numbers in (
        ("above_median_pitch", [4]),
        ("below_median_pitch", [0]),
        ("middle_quartiles", [1, 2, 3]),
        ("above_first_quartile", [4]),
    ):
        assert split(name, ties)[1]["start"].tolist() == numbers, name
    level = piece(*((60 + i % 2, 64, i, i + 0.5) for i in range(160)))
    for name, first in (("highest_quarter", 1), ("lowest_quarter", 0)):  # the earlier of equals
        assert split(name, level)[1]["start"].tolist() == list(range(first, 80, 2)), name
    lengths = piece(*((60, 64, i, i + length) for i, length in enumerate([0.25, 0.5, 0.5, 0.125])))
    assert split("staccato", lengths)[1]["start"].tolist() == [3]  # the median is 0.375
    lengths = piece(*((60, 64, i, i + length) for i, length in enumerate([0.25, 0.5, 0.5])))
    with pytest.raises(BadRecord):  # just half is not less
        split("staccato", lengths)
    again = piece((60, 64, 0, 4), (60, 64, 1, 3), (55, 64, 2, 3))
    assert split("top_line", again)[1]["start"].tolist() == [0, 1]  # one key, struck again


def test_an_attack_does_not_creep() -> None:
    """Notes 40 ms apart are together by twos: an attack is 50 ms from its first note."""
    run = piece(*((60 + i, 64, 0.04 * i, 0.04 * i + 0.01) for i in range(6)))
    assert split("highest_struck", run)[1]["pitch"].tolist() == [61, 63, 65]
    with pytest.raises(BadRecord, match="chords: too few notes"):
        split("chords", run)


@pytest.mark.parametrize("name", sorted(SPOILS))
def test_what_a_restoration_spoils(name: str) -> None:
    rng = np.random.default_rng(3)
    start = 100 + np.sort(rng.uniform(0, 60, 200)).round(3)
    table = np.stack([rng.integers(40, 90, 200), rng.integers(1, 128, 200), start, start + 0.31])
    notes = piece(*table.T)
    prompt, answer = split(name, notes)
    assert rows(answer) == rows(notes)
    changed = {c for c in COLUMNS if sorted(prompt[c]) != sorted(notes[c])}
    assert changed == SPOILS[name]
    assert np.array_equal(np.lexsort((prompt["pitch"], prompt["start"])), np.arange(200))
    limits = {"pitch": 6 if name == "transpose_back" else 3, "velocity": 126, "start": 0.1}
    for column, limit in limits.items():  # sorted columns differ by no more than their notes do
        assert np.abs(np.sort(prompt[column]) - np.sort(notes[column])).max() <= limit


def test_known_restorations() -> None:
    assert set(split("performance", APART)[0]["velocity"]) == {64}
    off = piece((60, 64, 0.30, 0.31), (62, 64, 0.94, 1.32))
    prompt, _ = split("unquantise", off)
    assert prompt["start"].tolist() == [0.25, 1.0]
    assert prompt["end"].tolist() == [0.375, 1.375]
    for seed in range(20):
        prompt, _ = split("transpose_back", APART, seed)
        moved = prompt["pitch"] - APART["pitch"]
        assert not moved[:4].any()
        assert len(set(moved[4:])) == 1 and 1 <= abs(moved[4]) <= 6
    seen = {int(split("transpose_back", APART, seed)[0]["pitch"][-1]) for seed in range(200)}
    assert seen == set(range(84, 97)) - {90}


def test_what_cannot_be_transposed() -> None:
    wide = piece((60, 64, 0, 1), (60, 64, 1, 2), (21, 64, 2, 3), (108, 64, 3, 4))
    with pytest.raises(BadRecord, match="span the keyboard"):
        split("transpose_back", wide)
    with pytest.raises(BadRecord, match="too few notes"):
        split("transpose_back", piece((60, 64, 0, 1)))


@pytest.mark.parametrize("name", SELECTIONS)
def test_too_few_notes(name: str) -> None:
    """One note is either the prompt's or the answer's."""
    with pytest.raises(BadRecord) as caught:
        split(name, piece((60, 64, 0, 1)))
    assert caught.value.reason == f"piano task {name}: too few notes"
    assert caught.value.detail


@pytest.mark.parametrize("name", list(TASKS))
def test_no_note_at_all(name: str) -> None:
    empty = {c: np.zeros(0, int if c in ("pitch", "velocity") else float) for c in COLUMNS}
    with pytest.raises(BadRecord, match="too few notes"):
        split(name, empty)


NOTE = st.tuples(
    st.integers(21, 108),
    st.integers(1, 127),
    st.integers(-500, 5000).map(lambda cs: cs / 100),
    st.integers(1, 400).map(lambda cs: cs / 100),
)
PIECES = st.lists(NOTE, min_size=1, max_size=40).map(
    lambda notes: piece(*((p, v, start, start + length) for p, v, start, length in notes))
)


@pytest.mark.parametrize("name", list(TASKS))
@settings(max_examples=40, deadline=None)
@given(notes=PIECES, seed=st.integers(0, 2**32))
def test_properties(name: str, notes: dict[str, Any], seed: int) -> None:
    before = rows(notes)
    try:
        prompt, answer = split(name, notes, seed)
    except BadRecord as error:
        assert name in error.reason
        return
    again = split(name, notes, seed)
    assert (rows(again[0]), rows(again[1])) == (rows(prompt), rows(answer))
    assert rows(notes) == before  # the piece itself is left as it was
    for part in (prompt, answer):
        assert len(part["pitch"]) > 0
        assert part["pitch"].min() >= 21 and part["pitch"].max() <= 108
        assert part["velocity"].min() >= 1 and part["velocity"].max() <= 127
        assert (part["end"] > part["start"]).all()
        assert {part[c].dtype.kind for c in ("pitch", "velocity")} == {"i"}
        assert {part[c].dtype for c in ("start", "end")} == {np.dtype(np.float64)}
    if name in SPOILS:
        assert rows(answer) == before and len(prompt["pitch"]) == len(before)
    else:
        assert sorted(rows(prompt) + rows(answer)) == sorted(before)


# -------------------------------------------------------------------------------- the registry


@contextmanager
def own_tasks() -> Iterator[None]:
    known = dict(TASKS)
    try:
        yield
    finally:
        TASKS.clear()
        TASKS.update(known)


def test_tasks_of_ones_own() -> None:
    with own_tasks():

        @selection("first_note")
        def _(notes: Any) -> Any:
            "The first note."
            return np.arange(len(notes["pitch"])) == 0

        @restoration("slow", "<LENTO>")
        def _(notes: Any, rng: Any) -> Any:
            return {"start": notes["start"] * 2, "end": notes["end"] * 2}

        @task("copy")
        def _(notes: Any, rng: Any) -> Any:
            return notes, notes

        assert task_tokens(["first_note", "slow", "copy"]) == ("<FIRST_NOTE>", "<LENTO>", "<COPY>")
        assert TASKS["first_note"].told == "The first note."
        assert split("first_note", APART)[1]["start"].tolist() == [0]
        assert split("slow", APART)[0]["start"].tolist() == list(range(0, 16, 2))
        assert split("copy", APART) == (APART, APART)
    assert "slow" not in TASKS


@pytest.mark.parametrize(
    ("name", "token"), [("loud", ""), ("new", "<LOUD>"), ("new", ANSWER), ("new", "<END>")]
)
def test_names_and_tokens_that_are_taken(name: str, token: str) -> None:
    with own_tasks(), pytest.raises(ConfigError, match=f"'{name}'.*is taken"):
        task(name, token)(lambda notes, rng: (notes, notes))


def test_tokens_and_definitions() -> None:
    assert task_tokens() == tuple(t.token for t in TASKS.values())
    assert len(set(task_tokens())) == len(TASKS)
    assert task_tokens(["top_line"]) == ("<TOP_LINE>",)
    assert all(t.told.endswith(".") for t in TASKS.values())
    with pytest.raises(
        ConfigError, match=r"'top_lin'; did you mean 'top_line'\?; there are: above"
    ):
        task_tokens(["top_lin"])


def test_a_task_travels_by_name() -> None:
    for one in find_tasks():
        assert pickle.loads(pickle.dumps(one)) is one


def test_a_worker_imports_the_module_of_a_task(tmp_path: Any) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "from lom_midi.tasks import selection\n"
        "@selection('mine')\n"
        "def _(notes):\n"
        "    return notes['pitch'] > 60\n"
    )
    make = "import my_tasks, pickle, sys; from lom_midi.tasks import TASKS; sys.stdout.buffer.write(pickle.dumps(TASKS['mine']))"
    read = "import pickle, sys; print(pickle.load(sys.stdin.buffer).token)"

    def run(code: str, data: bytes = b"") -> bytes:
        code = f"import sys; sys.path[:] = {[str(tmp_path), *sys.path]!r}; {code}"
        return subprocess.run(
            [sys.executable, "-c", code], input=data, capture_output=True, check=True
        ).stdout

    assert run(read, run(make)).strip() == b"<MINE>"


def test_a_light_import() -> None:
    code = f"import sys; sys.path[:] = {sys.path!r}; import lom_midi.tasks; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "False"
