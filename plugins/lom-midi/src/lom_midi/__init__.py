"""Music: MIDI files as tokens, and piano tasks to fine-tune on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from lom_core import (
    Component,
    ConfigError,
    Dataset,
    FileDataset,
    ModalityConfig,
    ModalityRegistry,
    Source,
    Tokeniser,
    hookimpl,
)
from lom_core.roles import Encoder
from lom_midi.task_kinds import PianoTasks, task_tokens

SPECIALS = ("<GENAI>", "<END>")


class ExponentialTime(Tokeniser, kind="exponential"):
    """Events between time steps of 1, 2, 4 ... 64 x 10 ms: a vocabulary of 217, then specials.

    ``time ... VELOCITY_b NOTE_ON_p`` and ``time ... NOTE_OFF_p``, note-offs first at ties; 32
    velocity bins. Tokens 0 and 1 are reserved; then 88 NOTE_ON, 88 NOTE_OFF, 32 VELOCITY, 7 TIME.

    The value is notes (lom_midi.notes). Times count from the first note. Notes outside the piano's
    keys, 21 to 108, are left out; all others come back within 5 ms and one velocity bin; a note of
    no step lasts one. A note-off names a key, not a note: where a key is struck again while
    it sounds, the note that was struck first ends first, as in MIDI files themselves.

    Args:
        specials: names of the tokens from 217 on: composers, data sets, tasks. A value names those
            that stand first in its ``specials``. ``<END>``, if listed, closes every piece.
    """

    specials: tuple[str, ...] = SPECIALS

    @field_validator("specials")
    @classmethod
    def _differ(cls, specials: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(specials)) < len(specials):
            raise ConfigError(f"specials must differ: {', '.join(specials)}")
        return specials

    @property
    def vocab_size(self) -> int:
        return 217 + len(self.specials)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return (
            *("reserved_0", "reserved_1"),
            *(f"NOTE_{what}_{pitch}" for what in ("ON", "OFF") for pitch in range(21, 109)),
            *(f"VELOCITY_{number}" for number in range(32)),
            *(f"TIME_{2**power}" for power in range(7)),
            *self.specials,
        )

    def build(self) -> Encoder:
        from lom_midi.exponential import ExponentialEncoder

        return ExponentialEncoder(self)


class BarBeat(Tokeniser, kind="remi"):
    """Bars and beats, as REMI (Huang and Yang 2020).

    A bar is BAR METER TEMPO, then POSITION where it changes, and PITCH VELOCITY DURATION of notes.

    Positions and durations are on a grid of ``resolution`` steps a quarter note, so notes come back
    within half a step and one velocity bin, in a tempo rounded to one of 32 (30 to 240 a minute,
    a step of 7%): seconds stretch accordingly. Meters are whole numbers of eighths, up to 16.

    Args:
        resolution: steps a quarter note; 12 holds triplets and sixteenths.
        longest: quarter notes that a note can last; longer ones are cut to it.
    """

    resolution: int = Field(default=12, ge=2, le=96, multiple_of=2)
    longest: int = Field(default=8, ge=1, le=64)

    @property
    def vocab_size(self) -> int:
        from lom_midi.remi import Layout

        return Layout(self.resolution, self.longest).size

    def build(self) -> Encoder:
        from lom_midi.remi import BarBeatEncoder

        return BarBeatEncoder(self)


class MidiTokTokens(Tokeniser, kind="miditok", takes="algorithm"):
    """Any tokeniser of the package MidiTok, in its default configuration: ``miditok:REMI``.

    Needs ``pip install lom-midi[miditok]``. What decodes depends on the algorithm: its own grid of
    beats, tempos and velocities. Notes must lie on its pitches, 21 to 108 by default.

    Args:
        algorithm: REMI, TSD, MIDILike, Structured, CPWord ... those of one sequence of numbers.

    Errors:
        ConfigError: the package is missing, or has no such tokeniser.
    """

    algorithm: str

    @property
    def vocab_size(self) -> int:
        from lom_midi.wrapped import library_tokeniser

        return len(library_tokeniser(self.algorithm))

    def build(self) -> Encoder:
        from lom_midi.wrapped import LibraryEncoder

        return LibraryEncoder(self.algorithm)


class Midi(ModalityConfig, kind="midi"):
    """Music, event by event. Where a token stands is part of what it says, so it is not revealed.

    Args:
        specials: of :class:`ExponentialTime`, which is the tokeniser unless another is given.

    Errors:
        ConfigError: ``specials`` beside a ``tokeniser``, which has its own.
    """

    name: str = "midi"
    specials: tuple[str, ...] = SPECIALS
    reveal_position: bool = False

    @model_validator(mode="after")
    def _one_list(self) -> Midi:
        listed = getattr(self.tokeniser, "specials", ())
        if self.specials not in (SPECIALS, listed):
            raise ConfigError(
                f"specials of modality '{self.name}' are not those of its tokeniser "
                f"'{self.tokeniser.tag}'; beside tokeniser: list them in it, "
                "{kind: exponential, specials: [...]}"
            )
        return self

    def defaults(self) -> dict[str, Any]:
        # Seconds or quarter notes; MidiTok's tokens have nothing but their number.
        counted = self.tokeniser is not None and self.tokeniser.kind == "miditok"
        shortest, longest = (2.0, 8192.0) if counted else (0.05, 100.0)
        return {
            "tokeniser": {"kind": "exponential", "specials": self.specials},
            "scale": "identity",
            "position": {
                "kind": "fourier",
                "n_frequencies": 16,
                "min_period": shortest,
                "max_period": longest,
            },
            "head": "categorical",
        }

    def synth(self, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
        """Sixteen notes on two keys; the share of those on the upper one."""
        upper = rng.random(16) < rng.uniform()
        start = np.arange(16) * 0.25
        return {
            "pitch": np.where(upper, 72, 48),
            "velocity": rng.integers(20, 120, 16),
            "start": start,
            "end": start + rng.uniform(0.1, 0.2, 16),
        }, float(upper.mean())

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.mid``."""
        from lom_midi.reading import write_midi

        path = path.with_name(path.name + ".mid")
        write_midi(value, path)
        return path

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_midi.pictures import draw_notes

        draw_notes(figure, truth, predicted)


class _Pieces(Dataset):
    """How recordings become records.

    Notes outside the piano's keys, 21 to 108, are left out; their number is told when the set is
    opened, and ``max_dropped`` bounds it. With ``split_silence: 0`` and ``notes_per_record: 0`` a
    recording is a record, and nothing is read before its turn; otherwise all recordings are read
    once when the set is opened, to find their pieces.

    Args:
        split_silence: seconds; a recording falls into pieces where nothing sounds for longer than
            that. 0 keeps it whole.
        notes_per_record: notes in a record; 0 keeps pieces whole. The last of a piece is shorter.
        min_notes: pieces and windows of fewer notes are left out; how many is told once.
        max_dropped: a recording with a larger share of notes outside the keys is a bad record.
    """

    modality: str = "midi"
    split_silence: float = Field(default=4.0, ge=0)
    notes_per_record: int = Field(default=0, ge=0)
    min_notes: int = Field(default=1, ge=1)
    max_dropped: float = Field(default=1.0, ge=0, le=1)


class MidiFiles(_Pieces, FileDataset, kind="midi_files"):
    """MIDI files, as :class:`FileDataset` lists them.

    Args:
        drums: also the notes of channel 10, which name drums, not pitches.
        sustain: notes last while the pedal is down.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".mid", ".midi")

    drums: bool = False
    sustain: bool = True

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_midi.datasets import open_files

        registry.get_config(self.modality)
        return open_files(self)


class NotesTable(_Pieces, kind="notes_table"):
    """Rows with a ``notes`` column and a JSON ``source``, kept in memory: 32 bytes a note.

    As the piano guide's Hugging Face sets: ``notes`` holds ``pitch, velocity, start, end`` as lists
    (or ``duration`` for ``end``), ``source`` a JSON text with composer, title ...

    Args:
        paths: ``.parquet``, ``.jsonl`` or ``.arrow`` files, a folder of them (as it is downloaded,
            or as ``save_to_disk`` writes it), a glob, or a list.
        where: only rows whose source holds these texts, whatever their case:
            ``{composer: bach}`` finds "Johann Sebastian Bach". Named validation sets are this.
        specials_from: fields of the source that become special tokens where the tokeniser lists
            them: composer "Bach" is ``<BACH>``.
    """

    paths: str | list[str]
    where: dict[str, str] = {}
    specials_from: tuple[str, ...] = ()

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_midi.datasets import open_notes

        return open_notes(self, registry)


class Maestro(_Pieces, kind="maestro"):
    """MAESTRO (Hawthorne et al. 2019) as it is published: a table and the MIDI files below.

    Args:
        root: its folder, with maestro-v*.csv or maestro-v*.json.
        split: its own splits.
        where: as of ``notes_table``, of the table's columns: ``{canonical_composer: chopin}``.
        sustain: notes last while the pedal is down.
    """

    root: str
    split: Literal["train", "validation", "test"] = "train"
    where: dict[str, str] = {}
    sustain: bool = True

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_midi.datasets import open_maestro

        registry.get_config(self.modality)
        return open_maestro(self)


class AugmentedMidi(Dataset, kind="augmented_midi"):
    """The records of another data set, and ``copies`` of each, transposed and at another speed.

    Records 0 .. n-1 are the originals. What each change draws depends on the seed and the record's
    number alone.

    Args:
        semitones: a shift of up to so many, either way, as far as the keyboard reaches.
        speed: factors are drawn evenly between these two.
    """

    of: Dataset
    modality: str = "midi"
    copies: int = Field(default=1, ge=0)
    seed: int = 0
    semitones: int = Field(default=5, ge=0)
    speed: tuple[float, float] = (0.8, 1.2)

    @field_validator("speed")
    @classmethod
    def _ordered(cls, speed: tuple[float, float]) -> tuple[float, float]:
        if not 0 < speed[0] <= speed[1]:
            raise ConfigError(f"speed {list(speed)} must be [slowest, fastest], above 0")
        return speed

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_midi.datasets import AugmentedSource

        registry.get_config(self.modality)
        return AugmentedSource(self, self.of.build(registry))


class MidiSamples(Dataset, kind="midi_samples"):
    """Pieces of the game Freedoom, all instruments but drums, in windows (see README).

    Args:
        split: ``train`` and ``val`` are different pieces.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "midi"
    notes_per_record: int = Field(default=64, ge=0)

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_midi.datasets import open_files, sample_paths

        registry.get_config(self.modality)
        paths = sample_paths(self.split)
        return open_files(
            MidiFiles(
                paths=paths,
                modality=self.modality,
                notes_per_record=self.notes_per_record,
                min_notes=8,
            ),
            quiet=True,
        )


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (
        *(Midi, ExponentialTime, BarBeat, MidiTokTokens),
        *(MidiFiles, NotesTable, Maestro, AugmentedMidi, MidiSamples, PianoTasks),
    ):
        register(cls)


__all__ = [
    "AugmentedMidi",
    "BarBeat",
    "ExponentialTime",
    "Maestro",
    "Midi",
    "MidiFiles",
    "MidiSamples",
    "MidiTokTokens",
    "NotesTable",
    "PianoTasks",
    "task_tokens",
]
