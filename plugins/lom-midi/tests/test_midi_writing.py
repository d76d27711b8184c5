"""Generated music is a MIDI file that mido reads; where tokens stand follows from them."""

from __future__ import annotations

from pathlib import Path

import mido
import numpy as np
import pytest

from lom_core import Dataset, ModalityConfig, ModalityRegistry, Tokeniser
from lom_core.roles import SequenceEncoder

MIDI = ModalityConfig.model_validate("midi")
SAMPLES = Dataset.model_validate("midi_samples").build(ModalityRegistry([MIDI]))


def test_written_music_is_read_back(tmp_path: Path) -> None:
    encoder = MIDI.tokeniser.build()
    decoded = encoder.decode(encoder.encode(SAMPLES[0]["midi"]))
    path = MIDI.write(decoded, tmp_path / "midi-sample-0")
    messages = [m for m in mido.MidiFile(path) if m.type == "note_on" and m.velocity]
    assert sorted(m.note for m in messages) == sorted(decoded["pitch"].tolist())


@pytest.mark.parametrize("kind", ["exponential", "remi", "miditok:TSD"])
def test_places_follow_from_contents(kind: str) -> None:
    encoder = Tokeniser.model_validate(kind).build()
    assert isinstance(encoder, SequenceEncoder)
    for i in range(0, len(SAMPLES), 9):
        tokens = encoder.encode(SAMPLES[i]["midi"])
        np.testing.assert_array_equal(encoder.places(tokens.content), tokens.positions)
        half = len(tokens) // 2
        np.testing.assert_array_equal(
            encoder.places(tokens.content[:half]), tokens.positions[:half]
        )
