"""MidiTok's tokenisers behind this project's protocol."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from lom_core import BadRecord, ConfigError, Tokens
from lom_core.roles import Array
from lom_midi.notes import (
    HIGHEST,
    LOWEST,
    Clock,
    Notes,
    as_notes,
    chosen,
    meters_of,
    on_the_piano,
    tempos_of,
)

TICKS = 480


@lru_cache(maxsize=8)
def library_tokeniser(algorithm: str) -> Any:
    """MidiTok's tokeniser of that name; ConfigError where there is none that fits."""
    if find_spec("miditok") is None:
        raise ConfigError(f"miditok:{algorithm} needs: pip install 'lom-midi[miditok]'")
    import miditok  # type: ignore[import-untyped]

    known = [n for n in miditok.__all__ if isinstance(getattr(miditok, n), type)]
    if algorithm not in known or algorithm in ("MusicTokenizer", "TokenizerConfig"):
        names = ", ".join(n for n in known if n not in ("MusicTokenizer", "TokenizerConfig"))
        raise ConfigError(f"MidiTok has no tokeniser '{algorithm}'; it has: {names}")
    config = miditok.TokenizerConfig(pitch_range=(LOWEST, HIGHEST + 1), use_tempos=True)
    tokeniser = getattr(miditok, algorithm)(config)
    if tokeniser.is_multi_voc:
        raise ConfigError(
            f"miditok:{algorithm} gives several numbers a token; those that give one fit, such as "
            "REMI, TSD, MIDILike, Structured"
        )
    return tokeniser


class LibraryEncoder:
    """Notes -> symusic's score -> MidiTok's numbers, and back."""

    end: int | None = None

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm

    def encode(self, value: Any) -> Tokens:
        notes, _ = on_the_piano(as_notes(value))
        if not len(notes["pitch"]):
            raise BadRecord("no note on the keys of a piano")
        found = library_tokeniser(self.algorithm).encode(as_score(notes))
        ids = np.asarray((found[0] if isinstance(found, list) else found).ids, dtype=np.int64)
        if not len(ids):
            raise BadRecord("a piece without any token")
        return Tokens(ids, self.places(ids))

    def places(self, content: Array) -> Array:
        return np.arange(len(content), dtype=np.float32)[:, None]

    def decode(self, tokens: Tokens) -> Notes:
        tokeniser, ids = library_tokeniser(self.algorithm), tokens.content.tolist()
        score = tokeniser.decode(ids if tokeniser.one_token_stream else [ids])
        tracks = score.to("second").tracks
        cells = [note for track in tracks for note in track.notes]
        table = np.array([[n.pitch, n.velocity, n.start, n.end] for n in cells]).reshape(-1, 4)
        pitch, velocity, start, end = table.T
        notes = {"pitch": pitch.astype(int), "velocity": velocity.astype(int)}
        notes.update(start=start, end=np.maximum(end, start))
        return chosen(notes, np.lexsort((pitch, start)))


def as_score(notes: Notes) -> Any:
    """A symusic score in beats: by the notes' own tempos, else 120 a minute."""
    import symusic

    tempos, meters = tempos_of(notes), meters_of(notes)
    clock = Clock.of(tempos)

    def ticks(seconds: Array) -> Array:
        at = np.rint(clock.to_beats(seconds) * TICKS)
        if at.max() >= 2**31:
            raise BadRecord("a piece that is too long", detail=f"{seconds.max():.0f} s")
        return np.asarray(at.clip(0), dtype=np.int32)

    start, end = ticks(notes["start"]), ticks(notes["end"])
    score: Any = symusic.Score(TICKS)
    track: Any = symusic.Track()
    track.notes = symusic.Note.from_numpy(
        start,
        np.maximum(end - start, 1),
        notes["pitch"].astype(np.int8),
        notes["velocity"].astype(np.int8),
    )
    score.tracks.append(track)
    for at, rate in zip(ticks(tempos[:, 0]), tempos[:, 1], strict=True):
        score.tempos.append(symusic.Tempo(int(at), float(rate)))
    for at, above, below in zip(ticks(meters[:, 0]), meters[:, 1], meters[:, 2], strict=True):
        score.time_signatures.append(symusic.TimeSignature(int(at), int(above), int(below)))
    return score
