"""The exact vocabulary, and round trips on real files: exponential time, beats, MidiTok."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_midi import ExponentialTime
from lom_midi.datasets import sample_paths
from lom_midi.exponential import BASE, EDGES, OFF, ON, TIME, VELOCITY
from lom_midi.notes import (
    Clock,
    as_notes,
    chosen,
    on_the_piano,
)
from lom_midi.reading import read_midi

from lom_core import (
    BadRecord,
    ModalityConfig,
    Tokeniser,
    Tokens,
)

FILES = [Path(path) for split in ("train", "val") for path in sample_paths(split)]
PIECES = [on_the_piano(read_midi(path.read_bytes()))[0] for path in FILES]


def piece(*notes: tuple[int, int, float, float], **more: Any) -> dict[str, Any]:
    pitch, velocity, start, end = zip(*notes, strict=True)
    return {"pitch": pitch, "velocity": velocity, "start": start, "end": end, **more}


def test_the_vocabulary_is_2_and_176_and_32_and_7() -> None:
    assert (ON, OFF, VELOCITY, TIME, BASE) == (2, 90, 178, 210, 217)
    assert EDGES.tolist() == [int(x) for x in np.linspace(0, 128, 33)]
    assert ExponentialTime().vocab_size == 219
    assert ExponentialTime(specials=()).vocab_size == 217


def test_events_have_their_known_answer() -> None:
    # 0.87 s is 87 steps: 64 + 16 + 4 + 2 + 1. The note-off of 60 stands before the note-on of 64.
    value = piece((60, 67, 1.0, 1.87), (64, 127, 1.87, 1.871), specials=["<BACH>"])
    tokens = ExponentialTime(specials=("<BACH>", "<END>")).build().encode(value)
    time = [TIME + 6, TIME + 4, TIME + 2, TIME + 1, TIME]
    first = [217, VELOCITY + 16, ON + 39, *time]
    rest = [OFF + 39, VELOCITY + 31, ON + 43, TIME, OFF + 43, 218]
    assert tokens.content.tolist() == [*first, *rest]
    seconds = [0, 0, 0, 0.64, 0.80, 0.84, 0.86, 0.87, 0.87, 0.87, 0.87, 0.88, 0.88, 0.88]
    assert np.allclose(tokens.positions[:, 0], seconds)


def test_a_long_rest_is_greedy() -> None:
    tokens = (
        ExponentialTime(specials=()).build().encode(piece((60, 64, 0, 0.01), (60, 64, 2.0, 2.01)))
    )
    between = tokens.content[4:-4].tolist()  # 1.99 s: 3 x 64, then 4 + 2 + 1
    assert between == [TIME + 6] * 3 + [TIME + 2, TIME + 1, TIME]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_comes_back_within_5_ms_and_a_velocity_bin(path: Path) -> None:
    notes, _ = on_the_piano(read_midi(path.read_bytes()))
    encoder = ExponentialTime().build()
    back = encoder.decode(encoder.encode(notes))
    zero = notes["start"].min()
    start, end = (np.rint((notes[side] - zero) / 0.01) for side in ("start", "end"))
    lasts = end > start  # others last one step
    assert np.abs(start / 100 - (notes["start"] - zero)).max() <= 0.005 + 1e-9
    assert np.abs(end / 100 - (notes["end"] - zero)).max() <= 0.005 + 1e-9
    end = np.where(lasts, end, start + 1)
    at = np.rint(back["start"] * 100)
    struck = np.lexsort((notes["velocity"] // 4, start, notes["pitch"]))
    again = np.lexsort((back["velocity"] // 4, at, back["pitch"]))
    assert np.array_equal(back["pitch"][again], notes["pitch"][struck])
    assert np.array_equal(at[again], start[struck])
    assert np.abs(back["velocity"][again] - notes["velocity"][struck]).max() <= 2
    # A note-off names a key: the note that was struck first ends first.
    let_go = np.rint(back["end"] * 100)
    assert np.array_equal(
        let_go[np.lexsort((let_go, back["pitch"]))], end[np.lexsort((end, notes["pitch"]))]
    )
    in_turn = np.lexsort((let_go, at, back["pitch"]))
    same = np.diff(back["pitch"][in_turn]) == 0
    assert (np.diff(let_go[in_turn])[same] >= 0).all()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(21, 108), st.integers(1, 127), st.integers(0, 500), st.integers(1, 300)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_decoded_encodes_to_the_same_tokens(notes: list[tuple[int, int, int, int]]) -> None:
    value = piece(*((p, v, s / 100, (s + d) / 100) for p, v, s, d in notes))
    encoder = ExponentialTime().build()
    tokens = encoder.encode(value)
    again = encoder.encode(encoder.decode(tokens))
    assert np.array_equal(tokens.content, again.content)
    assert np.array_equal(tokens.positions, again.positions)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 218), min_size=1, max_size=80))
def test_anything_decodes(content: list[int]) -> None:
    at = np.zeros((len(content), 1), np.float32)
    notes = ExponentialTime().build().decode(Tokens(np.array(content), at))
    assert (notes["end"] > notes["start"]).all()
    if len(notes["pitch"]):
        as_notes(notes)


def test_a_key_that_is_struck_again_ends_first_in_first_out() -> None:
    encoder = ExponentialTime().build()
    one_by_one = piece((60, 10, 0, 0.5), (60, 90, 0.2, 0.9))
    back = encoder.decode(encoder.encode(one_by_one))
    assert back["end"].tolist() == [0.5, 0.9] and back["velocity"].tolist() == [10, 90]
    nested = encoder.decode(encoder.encode(piece((60, 10, 0, 0.9), (60, 90, 0.2, 0.5))))
    assert nested["start"].tolist() == [0, 0.2] and nested["end"].tolist() == [0.5, 0.9]
    unison = encoder.decode(encoder.encode(piece((60, 10, 0, 0.9), (60, 90, 0, 0.5))))
    assert unison["pitch"].tolist() == [60, 60] and sorted(unison["end"]) == [0.5, 0.9]


def test_windows_cut_anywhere_decode() -> None:
    encoder = ExponentialTime().build()
    tokens = encoder.encode(piece((60, 64, 0, 1), (64, 66, 0.5, 1.5), (67, 98, 2, 3)))
    for begin, end in ((0, 3), (3, len(tokens)), (4, 12), (len(tokens) - 2, len(tokens))):
        encoder.decode(tokens[begin:end])
    cut = encoder.decode(tokens[:-3])  # without <END>, NOTE_OFF and a time token
    assert cut["continues"] and cut["end"].tolist() == [1, 1.5, 2.96]
    late = encoder.decode(tokens[2:])  # the note-off of 60 has no note
    assert late["pitch"].tolist() == [64, 67] and late["start"].tolist() == [0.5, 2]


def test_no_rounding_adds_up() -> None:
    start = np.cumsum(np.full(5000, 0.0137))
    value = piece(*((60, 64, float(t), float(t) + 0.005) for t in start))
    back = ExponentialTime().build().encode(value)
    notes = ExponentialTime().build().decode(back)
    assert np.abs(notes["start"] - (start - start[0])).max() <= 0.005 + 1e-9


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("song", "no notes"),
        ({"pitch": [60]}, "no notes"),
        (piece((60, 64, 0, 1)) | {"pitch": [60, 61]}, "different lengths"),
        (piece((60, 64, 0, 1)) | {"pitch": ["c"]}, "not numbers"),
        ({"pitch": [], "velocity": [], "start": [], "end": []}, "no note"),
        (piece((60, 64, 1.0, 0.5)), "ends before it starts"),
        (piece((60, 64, np.nan, 1)), "not finite"),
        (piece((128, 64, 0, 1)), "a pitch that is no whole number"),
        (piece((60, 64.5, 0, 1)), "a velocity that is no whole number"),
        (piece((20, 64, 0, 1)), "no note on the keys of a piano"),
        (piece((60, 64, 0, 1), (62, 64, 1e6, 1e6 + 1)), "a piece that is too long"),
        (piece((60, 64, 0, 1), specials=["<LISZT>"]), "special token that the tokeniser does not list"),
    ],
)  # fmt: skip
def test_what_cannot_be_used(value: Any, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        ExponentialTime().build().encode(value)


VALUES = [chosen(notes, np.arange(120)) for notes in PIECES[:4]]


def test_bars_and_beats_keep_the_grid() -> None:
    value = piece((60, 70, 0.0, 0.5), (64, 70, 0.5, 1.0), (67, 90, 2.25, 3.0))
    encoder = Tokeniser.model_validate("remi").build()
    back = encoder.decode(encoder.encode(value))
    assert back["pitch"].tolist() == [60, 64, 67]
    rate = back["tempos"][0, 1] / 120  # one of 32 tempos
    assert abs(rate - 1) < 0.04
    assert np.allclose(back["start"] * rate, [0, 0.5, 2.25]) and np.allclose(
        back["end"] * rate, [0.5, 1, 3]
    )
    with pytest.raises(BadRecord, match="a meter that is no whole number of eighths"):
        encoder.encode({**value, "meters": [[0, 5, 16]]})


def test_miditoks_tokenisers_by_name() -> None:
    pytest.importorskip("miditok")
    config = Tokeniser.model_validate("miditok:TSD")
    assert config.model_dump() == {"kind": "miditok", "algorithm": "TSD"}
    assert Tokeniser.model_validate(config.model_dump()) == config
    encoder = pickle.loads(pickle.dumps(config.build()))
    tokens = encoder.encode(VALUES[0])
    assert tokens.content.max() < config.vocab_size
    back = encoder.decode(tokens)
    assert len(back["pitch"]) > 100
    with pytest.raises(ValueError, match=r"MidiTok has no tokeniser 'REMIX'; it has: .*REMI"):
        ModalityConfig.model_validate({"kind": "midi", "tokeniser": "miditok:REMIX"})


@pytest.mark.parametrize("tokeniser", ["remi", "miditok:REMI", "miditok:TSD", "miditok:MIDILike"])
def test_what_a_model_makes_up_decodes(tokeniser: str) -> None:
    if tokeniser.startswith("miditok"):
        pytest.importorskip("miditok")
    config = Tokeniser.model_validate(tokeniser)
    encoder, rng = config.build(), np.random.default_rng(0)
    for n in (1, 5, 400):
        content = rng.integers(0, config.vocab_size, n)
        notes = encoder.decode(Tokens(content, np.zeros((n, 1), np.float32)))
        assert (notes["end"] >= notes["start"]).all()
        if len(notes["pitch"]):
            as_notes(notes)


def test_bars_and_beats_of_real_files_come_back_on_the_grid() -> None:
    encoder = Tokeniser.model_validate({"kind": "remi", "longest": 64}).build()
    for notes in PIECES:
        tokens = encoder.encode(notes)
        again = encoder.encode(encoder.decode(tokens))
        assert np.array_equal(tokens.content, again.content)
        clock = Clock.of(notes["tempos"])
        start, end = (np.rint(clock.to_beats(notes[side]) * 12) for side in ("start", "end"))
        back = encoder.decode(tokens)
        clock = Clock.of(back["tempos"])
        at, let_go = (np.rint(clock.to_beats(back[side]) * 12) for side in ("start", "end"))
        order = np.lexsort((notes["pitch"], start))
        assert np.array_equal(back["pitch"], notes["pitch"][order])
        assert np.array_equal(np.diff(at), np.diff(start[order]))
        lasted = np.clip(end - start, 1, 64 * 12)[order]
        assert np.array_equal(let_go - at, lasted)
        assert np.abs(back["velocity"] - notes["velocity"][order]).max() <= 2


def test_a_meter_and_a_tempo_are_told() -> None:
    value = piece((60, 64, 0, 0.5), (62, 64, 1.5, 2.0), tempos=[[0, 60]], meters=[[0, 3, 4]])
    tokens = Tokeniser.model_validate("remi").build().encode(value)
    assert tokens.positions[:, 0].tolist() == [0] * 7 + [1.5] * 4
    back = Tokeniser.model_validate("remi").build().decode(tokens)
    assert back["meters"].tolist() == [[0, 6, 8]]
    assert abs(back["tempos"][0, 1] / 60 - 1) < 0.04
    fast = Tokeniser.model_validate("remi").build().encode({**value, "tempos": [[0, 120]]})
    assert fast.positions[-1, 0] == 3 and (fast.content == 0).sum() == 2  # in the second bar
    with pytest.raises(BadRecord, match="tempos that are none"):
        Tokeniser.model_validate("remi").build().encode({**value, "tempos": [[0, 0]]})
