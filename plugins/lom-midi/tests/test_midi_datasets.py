"""Pieces, tables, MAESTRO's layout, augmentation and the samples."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import mido
import numpy as np
import pytest
from lom_midi.datasets import sample_paths
from lom_midi.notes import (
    as_notes,
    changed,
    on_the_piano,
    split_on_silence,
)
from lom_midi.reading import read_midi

from lom_core import (
    BadRecord,
    DataError,
    Dataset,
    ModalityConfig,
    ModalityRegistry,
    Source,
)

FILES = [Path(path) for split in ("train", "val") for path in sample_paths(split)]
PIECES = [on_the_piano(read_midi(path.read_bytes()))[0] for path in FILES]


def piece(*notes: tuple[int, int, float, float], **more: Any) -> dict[str, Any]:
    pitch, velocity, start, end = zip(*notes, strict=True)
    return {"pitch": pitch, "velocity": velocity, "start": start, "end": end, **more}


def midi(*messages: Any, ticks: int = 480) -> bytes:
    """A file of one track: 480 ticks a quarter note, at 120 a minute 960 a second."""
    file, buffer = mido.MidiFile(ticks_per_beat=ticks), io.BytesIO()
    file.tracks.append(mido.MidiTrack(messages))
    file.save(file=buffer)
    return buffer.getvalue()


def on(note: int, time: int, velocity: int = 64) -> Any:
    return mido.Message("note_on", note=note, velocity=velocity, time=time)


def off(note: int, time: int) -> Any:
    return mido.Message("note_off", note=note, time=time)


def pedal(value: int, time: int) -> Any:
    return mido.Message("control_change", control=64, value=value, time=time)


def opened(*names: str, specials: tuple[str, ...] = ("<GENAI>", "<END>"), **fields: Any) -> Source:
    config = {"kind": "midi", "specials": specials}
    names = names or ("midi",)
    modalities = [ModalityConfig.model_validate({**config, "name": name}) for name in names]
    return Dataset.model_validate(fields).build(ModalityRegistry(modalities))


WHOLE = midi(on(60, 0), off(60, 480))


def test_silence_and_windows_make_records() -> None:
    notes = as_notes(piece((60, 64, 0, 1), (62, 64, 1, 9), (64, 64, 12, 13), (65, 64, 17.5, 18)))
    assert [p["pitch"].tolist() for p in split_on_silence(notes, 4.0)] == [[60, 62, 64], [65]]
    source = opened(kind="midi_files", paths=[str(FILES[0])], notes_per_record=100)
    sizes = [len(source[i]["midi"]["pitch"]) for i in range(len(source))]
    assert set(sizes[:-1]) == {100} and sum(sizes) == len(PIECES[0]["pitch"])
    assert source[0]["midi"]["continues"] and not source[len(source) - 1]["midi"]["continues"]
    assert source[0]["id"] == f"{FILES[0].name}#0"
    assert pickle.loads(pickle.dumps(source))[1]["id"] == source[1]["id"]


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "low.mid").write_bytes(midi(on(12, 0), off(12, 10), on(60, 0), off(60, 10)))
    with pytest.warns(UserWarning, match="1 of 2 notes are outside the piano's keys"):
        assert opened(kind="midi_files", paths=str(tmp_path))[0]["midi"]["pitch"].tolist() == [60]
    with (
        pytest.warns(UserWarning, match="1 pieces have fewer notes than min_notes=5"),
        pytest.raises(DataError, match="no piece of at least 5 notes"),
    ):
        (tmp_path / "low.mid").write_bytes(WHOLE)
        opened(kind="midi_files", paths=str(tmp_path), min_notes=5)


ROWS = [
    {"notes": piece((60, 64, 0, 1)), "source": json.dumps({"composer": "Johann Sebastian Bach", "title": "Fugue"})},
    {"notes": {"pitch": [62], "velocity": [3], "start": [0.5], "duration": [1]}, "source": json.dumps({"composer": "Frédéric Chopin"})},
    {"notes": [{"pitch": 64, "velocity": 1, "start": 0, "end": 1}], "source": None},
    {"notes": {"pitch": [62]}, "source": "not JSON"},
]  # fmt: skip


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_tables_of_notes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"notes.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS), encoding="utf8")
    else:
        pa = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        rows = [
            {"notes": dict(row["notes"]), "source": row["source"]}
            for row in (ROWS[0], ROWS[0] | {"source": ROWS[1]["source"]})
        ]  # type: ignore[call-overload]
        parquet.write_table(pa.Table.from_pylist(rows), path)
    table = {"kind": "notes_table", "paths": str(path)}
    bach = opened(
        **table,
        where={"composer": "bach"},
        specials_from=["composer"],
        specials=("<JOHANN_SEBASTIAN_BACH>",),
    )
    assert len(bach) == 1
    assert bach[0]["midi"]["specials"] == ["<JOHANN_SEBASTIAN_BACH>"] and bach[0]["midi"][
        "pitch"
    ].tolist() == [60]
    assert len(opened(**table, where={"composer": "CHOPIN"})) == 1
    with pytest.raises(DataError, match=r"no row with {'composer': 'liszt'}"):
        opened(**table, where={"composer": "liszt"})
    if suffix == "jsonl":
        everything = opened(**table)
        assert everything[1]["midi"]["end"].tolist() == [1.5]
        assert everything[2]["midi"]["pitch"].tolist() == [64]
        with pytest.raises(BadRecord, match="no notes") as error:
            everything[3]
        assert "notes.jsonl#3" in str(error.value)


@pytest.mark.parametrize("text", ['{"notes": ', "[1]"])
def test_tables_that_are_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"a\.jsonl"):
        opened(kind="notes_table", paths=str(tmp_path / "a.jsonl"))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet"):
        opened(kind="notes_table", paths=str(tmp_path / "a.parquet"))


def test_maestro_as_it_is_published(tmp_path: Path) -> None:
    (tmp_path / "2004").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "2004" / f"{name}.midi").write_bytes(
            midi(on(60 + ord(name) - 97, 0), off(60, 480))
        )
    head = "canonical_composer,canonical_title,split,year,midi_filename,audio_filename,duration\n"
    rows = [
        "Frédéric Chopin,Étude,train,2004,2004/a.midi,2004/a.wav,1.0",
        "Johann Sebastian Bach,\"Fugue, in C\",train,2004,2004/b.midi,2004/b.wav,1.0",
        "Frédéric Chopin,Waltz,validation,2004,2004/c.midi,2004/c.wav,1.0",
    ]  # fmt: skip
    (tmp_path / "maestro-v3.0.0.csv").write_text(head + "\n".join(rows) + "\n", encoding="utf8")
    assert len(opened(kind="maestro", root=str(tmp_path))) == 2
    only = opened(kind="maestro", root=str(tmp_path), where={"canonical_composer": "bach"})
    assert only[0]["midi"]["pitch"].tolist() == [61] and only[0]["id"] == "b.midi"
    assert opened(kind="maestro", root=str(tmp_path), split="validation")[0]["id"] == "c.midi"
    with pytest.raises(DataError, match="no row of split test"):
        opened(kind="maestro", root=str(tmp_path), split="test")
    (tmp_path / "maestro-v3.0.0.csv").write_text(head + rows[0].replace("2004/a.midi", "../x.midi"))
    with pytest.raises(DataError, match="outside the data set's folder"):
        opened(kind="maestro", root=str(tmp_path))
    with pytest.raises(DataError, match=r"no maestro-v\*\.csv or \.json"):
        opened(kind="maestro", root=str(tmp_path / "2004"))


def test_augmentation_is_seeded_and_stays_on_the_keyboard() -> None:
    fields = {"kind": "augmented_midi", "of": {"kind": "midi_samples"}, "copies": 2}
    source = opened(**fields)
    n = len(source) // 3
    assert source[n + 3]["id"] == f"{source[3]['id']}~1"
    first, second = source[3]["midi"], source[n + 3]["midi"]
    shift = set((second["pitch"] - first["pitch"]).tolist())
    assert len(shift) == 1 and abs(shift.pop()) <= 5
    speed = first["end"] / second["end"]
    assert np.allclose(speed, speed[0]) and 0.8 <= speed[0] <= 1.2
    again = opened(**fields)[n + 3]["midi"]
    assert np.array_equal(again["pitch"], second["pitch"]) and np.array_equal(
        again["start"], second["start"]
    )
    high = changed(as_notes(piece((107, 64, 0, 1), (30, 64, 0, 1))), 5, 1.0)
    assert high["pitch"].tolist() == [31, 108]


def test_samples_are_different_pieces() -> None:
    pieces = {split: {Path(p).name for p in sample_paths(split)} for split in ("train", "val")}
    assert not pieces["train"] & pieces["val"]
    assert {split: len(names) for split, names in pieces.items()} == {"train": 11, "val": 4}
    for split in pieces:
        source = opened(kind="midi_samples", split=split)
        assert all(8 <= len(source[i]["midi"]["pitch"]) <= 64 for i in range(len(source)))


def test_too_many_notes_outside_the_keys(tmp_path: Path) -> None:
    low = midi(on(12, 0), off(12, 10), on(60, 0), off(60, 10))
    (tmp_path / "low.mid").write_bytes(low)
    (tmp_path / "only.mid").write_bytes(midi(on(12, 0), off(12, 10)))
    source = opened(kind="midi_files", paths=str(tmp_path), max_dropped=0.4)
    with pytest.raises(BadRecord, match="too many notes outside a piano's keys"):
        source[0]
    with pytest.raises(BadRecord, match="no note on the keys of a piano"):
        source[1]


def test_whole_recordings_are_not_read_before_their_turn(tmp_path: Path) -> None:
    files = [str(FILES[0]), "-", str(tmp_path / "later.mid")]
    source = opened(kind="midi_files", paths=files, split_silence=0, min_notes=2)
    assert len(source) == 3 and source[1] == {}
    (tmp_path / "later.mid").write_bytes(WHOLE)
    with pytest.raises(BadRecord, match="fewer notes than min_notes"):
        source[2]
    assert len(source[0]["midi"]["pitch"]) == len(PIECES[0]["pitch"])


def test_a_saved_set_of_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([dict(ROWS[0]), dict(ROWS[0])]).save_to_disk(tmp_path / "saved")
    source = opened(kind="notes_table", paths=str(tmp_path / "saved"))
    assert len(source) == 2 and source[1]["midi"]["pitch"].tolist() == [60]


def test_a_table_without_notes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no column 'notes'; it has: text"):
        opened(kind="notes_table", paths=str(tmp_path / "a.parquet"))


def test_maestros_json_table(tmp_path: Path) -> None:
    (tmp_path / "2004").mkdir()
    (tmp_path / "2004" / "a.midi").write_bytes(WHOLE)
    table = {
        "canonical_composer": {"0": "Alban Berg", "1": "Alban Berg"},
        "split": {"0": "train", "1": "test"},
        "year": {"0": 2018, "1": 2018},
        "midi_filename": {"0": "2004/none.midi", "1": "2004/a.midi"},
    }
    (tmp_path / "maestro-v3.0.0.json").write_text(json.dumps(table))
    berg = {"canonical_composer": "berg", "year": "2018"}
    source = opened(kind="maestro", root=str(tmp_path), split="test", where=berg)
    assert len(source) == 1 and source[0]["id"] == "a.midi"
    with pytest.raises(BadRecord, match="no such file"):
        opened(kind="maestro", root=str(tmp_path))[0]
    (tmp_path / "maestro-v3.0.0.json").write_text("[1]")
    with pytest.raises(DataError, match="cannot be read"):
        opened(kind="maestro", root=str(tmp_path))
    (tmp_path / "maestro-v3.0.0.json").write_text(json.dumps({"split": {"0": "train"}}))
    with pytest.raises(DataError, match="has no column midi_filename"):
        opened(kind="maestro", root=str(tmp_path))
