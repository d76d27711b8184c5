"""Recordings -> pieces -> records of notes."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, ConfigError, DataError, ModalityRegistry, Record, Source
from lom_core.files import list_paths
from lom_core.seeds import mix
from lom_midi.notes import (
    HIGHEST,
    LOWEST,
    Notes,
    as_notes,
    changed,
    on_the_piano,
    split_on_silence,
    windows,
)
from lom_midi.reading import read_midi

if TYPE_CHECKING:
    from lom_midi import AugmentedMidi, Maestro, MidiFiles, NotesTable, _Pieces

Read = Callable[[int], Notes | None]

RECENT = 64  # recordings that a source keeps in memory


class PieceSource:
    """Pieces of recordings by number: (recording, piece) of each was found when it was opened.

    ``read(i)`` gives the notes of recording i, None where it was not observed. A recording that
    cannot be read is one record, which says so when it is its turn.

    Attributes:
        dropped, n_notes: how many notes are outside the piano's keys, and of how many; counted in
            the pieces that were found at opening.

    Errors:
        DataError: nothing is left.
    """

    def __init__(self, config: _Pieces, names: list[str], read: Read, quiet: bool = False) -> None:
        self.config, self.names, self.read = config, names, read
        self._recent: dict[int, list[Notes]] = {}  # shuffled records come back to a recording
        self.dropped = self.n_notes = 0
        if not (config.split_silence or config.notes_per_record):
            self.items = [(recording, 0) for recording in range(len(names))]
            return
        self.items, n_short = [], 0
        for recording in range(len(names)):
            try:
                notes = read(recording)
                found = [] if notes is None else self._pieces(notes)
            except (BadRecord, OSError):
                notes, found = None, []
            if notes is None:
                self.items.append((recording, 0))
                continue
            n = len(notes["pitch"])
            self.n_notes += n
            self.dropped += n - sum(len(piece["pitch"]) for piece in found)
            long = [i for i, piece in enumerate(found) if len(piece["pitch"]) >= config.min_notes]
            n_short += len(found) - len(long)
            self.items += [(recording, i) for i in long]
        if not quiet:
            self._tell(n_short)
        if not self.items:
            raise DataError(f"{config.tag}: no piece of at least {config.min_notes} notes")

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Record:
        recording, number = self.items[index]
        name = self.names[recording]
        if recording not in self._recent:
            try:
                notes = self.read(recording)
                self._recent[recording] = [] if notes is None else self._pieces(notes)
            except BadRecord as error:
                raise BadRecord(error.reason, file=name, detail=error.detail) from error
            except OSError as error:
                raise BadRecord("cannot be read", file=name, detail=str(error)[:200]) from error
        while len(self._recent) > RECENT:
            del self._recent[next(iter(self._recent))]  # the oldest
        pieces = self._recent[recording]
        if not pieces:
            return {}  # not observed
        piece = pieces[number]
        if len(piece["pitch"]) < self.config.min_notes:
            raise BadRecord(
                "fewer notes than min_notes", file=name, detail=str(len(piece["pitch"]))
            )
        label = f"{Path(name).name}#{number}" if len(pieces) > 1 else Path(name).name
        return {self.config.modality: piece, "id": label}

    def _pieces(self, notes: Notes) -> list[Notes]:
        """At least one.

        Errors:
            BadRecord: no note on the keys, or a larger share than ``max_dropped`` outside them.
        """
        config, n = self.config, len(notes["pitch"])
        notes, dropped = on_the_piano(notes)
        if dropped == n:
            raise BadRecord("no note on the keys of a piano")
        if dropped > config.max_dropped * n:
            raise BadRecord("too many notes outside a piano's keys", detail=f"{dropped} of {n}")
        whole = split_on_silence(notes, config.split_silence) if config.split_silence else [notes]
        size = config.notes_per_record
        return [part for piece in whole for part in (windows(piece, size) if size else [piece])]

    def _tell(self, n_short: int) -> None:
        told = []
        if self.dropped:
            told.append(
                f"{self.dropped} of {self.n_notes} notes are outside the piano's keys, "
                f"{LOWEST} to {HIGHEST}"
            )
        if n_short:
            least = self.config.min_notes
            told.append(f"{n_short} pieces have fewer notes than min_notes={least}")
        if told:
            warnings.warn(f"{self.config.tag} leaves out: {'; '.join(told)}", stacklevel=4)


class FileReader:
    """Number -> notes of a MIDI file; small enough to send to every loader worker."""

    def __init__(self, paths: list[Path | None], drums: bool, sustain: bool) -> None:
        self.paths, self.drums, self.sustain = paths, drums, sustain

    def __call__(self, number: int) -> Notes | None:
        path = self.paths[number]
        if path is None:
            return None
        if not path.is_file():
            raise BadRecord("no such file", file=path)
        data = path.read_bytes()
        if not data:
            raise BadRecord("empty file", file=path)
        return read_midi(data, self.drums, self.sustain)


def open_files(config: MidiFiles, quiet: bool = False) -> Source:
    paths = list_paths(config.paths, config.suffixes)
    reader = FileReader(paths, config.drums, config.sustain)
    return PieceSource(config, [str(path) for path in paths], reader, quiet)


def open_maestro(config: Maestro) -> Source:
    """Errors: DataError without its table, columns or a row, or where a name leaves its folder."""
    root = Path(config.root).expanduser()
    tables = sorted(root.glob("maestro-v*.csv")) or sorted(root.glob("maestro-v*.json"))
    if not tables:
        raise DataError(
            f"no maestro-v*.csv or .json in {root}; root is the unpacked folder of MAESTRO"
        )
    rows = _maestro_rows(tables[-1])
    needed = {"midi_filename", "split", *config.where}
    missing = sorted(needed - set(rows[0] if rows else ()))
    if missing:
        raise DataError(f"{tables[-1]} has no column {', '.join(missing)}")
    kept = [row for row in rows if row["split"] == config.split and _matches(row, config.where)]
    if not kept:
        raise DataError(f"{tables[-1]}: no row of split {config.split} with {config.where}")
    paths: list[Path | None] = []
    for row in kept:
        path = root / row["midi_filename"]
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{tables[-1]}: {row['midi_filename']} is outside the data set's folder"
            )
        paths.append(path)
    return PieceSource(config, [str(p) for p in paths], FileReader(paths, False, config.sustain))


def _maestro_rows(path: Path) -> list[dict[str, Any]]:
    """The table's rows: CSV, or JSON by columns, {"split": {"0": "train", ...}, ...}."""
    try:
        with path.open(newline="", encoding="utf8") as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            columns = json.load(file)
        return [{name: column[row] for name, column in columns.items()} for row in columns["split"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {error}") from None


def _matches(source: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(text.lower() in str(source.get(field, "")).lower() for field, text in where.items())


# ------------------------------------------------------------------------------ tables of notes


class RowReader:
    """Number -> notes of a row, or the reason why it has none."""

    def __init__(self, rows: list[Notes | BadRecord]) -> None:
        self.rows = rows

    def __call__(self, number: int) -> Notes:
        row = self.rows[number]
        if isinstance(row, BadRecord):
            raise row
        return row


def open_notes(config: NotesTable, registry: ModalityRegistry) -> Source:
    """Errors: ConfigError without pyarrow where it is needed, DataError without a row."""
    tokeniser = registry.get_config(config.modality).tokeniser
    listed = set(getattr(tokeniser, "specials", ()))
    names: list[str] = []
    rows: list[Notes | BadRecord] = []
    for path in list_paths(config.paths, (".parquet", ".jsonl", ".arrow")):
        if path is None:
            raise DataError(f"{config.paths}: a table of notes cannot be 'not observed'")
        for number, row in enumerate(table_rows(path)):
            source = _source(row.get("source"))
            if not _matches(source, config.where):
                continue
            tokens = [_special(source.get(field, "")) for field in config.specials_from]
            names.append(f"{path}#{number}")
            try:
                rows.append(notes_of(row.get("notes"), [t for t in tokens if t in listed]))
            except BadRecord as error:
                rows.append(error)
    if not rows:
        raise DataError(f"{config.paths}: no row with {config.where or 'notes'}")
    return PieceSource(config, names, RowReader(rows))


def notes_of(value: Any, specials: list[str]) -> Notes:
    """A cell of the notes column: lists by name, or a list of notes."""
    if isinstance(value, list):
        if not all(isinstance(note, Mapping) for note in value):
            raise BadRecord("no notes", detail="a list of something else")
        names = {name for note in value for name in note}
        value = {name: [note.get(name) for note in value] for name in names}
    if not isinstance(value, Mapping):
        raise BadRecord("no notes", detail=f"a {type(value).__name__}")
    columns = dict(value)
    if "end" not in columns and {"start", "duration"} <= set(columns):
        try:
            columns["end"] = np.add(columns["start"], columns["duration"])
        except (TypeError, ValueError) as error:
            raise BadRecord("notes that are not numbers", detail=str(error)[:100]) from None
    return as_notes({**columns, "specials": specials} if specials else columns)


def table_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a parquet, Arrow or JSON lines file.

    Errors:
        ConfigError: pyarrow is needed and missing.
        DataError: the file is missing or damaged, or has no column ``notes``.
    """
    try:
        yield from _json_rows(path) if path.suffix == ".jsonl" else _arrow_rows(path)
    except DataError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {str(error)[:120]}") from None


def _json_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    with path.open(encoding="utf8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            row = json.loads(line)
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: no JSON object")
            yield row


def _arrow_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if find_spec("pyarrow") is None:
        raise ConfigError(f"{path} needs pyarrow: pip install 'lom-midi[parquet]'")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as batches:
                schema, found = batches.schema, list(batches)
        else:
            file = parquet.ParquetFile(path)
            schema, found = file.schema_arrow, file.iter_batches(batch_size=256)
        if "notes" not in schema.names:
            raise DataError(f"{path} has no column 'notes'; it has: {', '.join(schema.names)}")
        wanted = [name for name in ("notes", "source") if name in schema.names]
        for batch in found:
            yield from batch.select(wanted).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"{path} is damaged: {str(error)[:120]}") from None


def _source(value: Any) -> Mapping[str, Any]:
    """The JSON of a source column; {} where there is none, or it is no object."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return {}
    return value if isinstance(value, Mapping) else {}


def _special(name: str) -> str:
    return f"<{'_'.join(str(name).upper().split())}>"


# -------------------------------------------------------------------------------- augmentation


class AugmentedSource:
    """The originals, then their changed copies."""

    def __init__(self, config: AugmentedMidi, source: Source) -> None:
        self.config, self.source = config, source

    def __len__(self) -> int:
        return len(self.source) * (1 + self.config.copies)

    def __getitem__(self, index: int) -> Record:
        copy, original = divmod(index, len(self.source))
        record = self.source[original]
        value = record.get(self.config.modality)
        if not copy or value is None:
            return record
        rng = np.random.default_rng(mix(self.config.seed, index))
        semitones = int(rng.integers(-self.config.semitones, self.config.semitones + 1))
        notes = changed(as_notes(value), semitones, float(rng.uniform(*self.config.speed)))
        name = f"{record.get('id', original)}~{copy}"
        return {**record, self.config.modality: notes, "id": name}


@lru_cache(maxsize=2)
def sample_paths(split: str) -> list[str]:
    folder = resources.files("lom_midi") / "samples" / split
    return sorted(str(path) for path in folder.iterdir() if path.name.endswith(".mid"))
