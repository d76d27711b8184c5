"""Sources: windows of the light curves in files, and the samples that ship."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from lom_core import BadRecord, Dataset, ModalityRegistry, Record, Source
from lom_core.files import FileSource
from lom_core.roles import Array
from lom_core.seeds import mix

if TYPE_CHECKING:
    from lom_timeseries.curve_sets import Curve, _CurveFiles
    from lom_timeseries.readers import Named

UNREADABLE = (OSError, EOFError, ValueError, LookupError, SyntaxError)  # as FileSource catches
PIECE, STEP, BORDER = 128, 64, 768  # of the ECG that ships, in samples


class CurveSource(FileSource):
    """Records named by file, object and window, for those parts that there are."""

    dataset: _CurveFiles

    def object(self, path: Path, row: int) -> str:
        """The object's name, where a file holds many."""
        try:
            name = self.dataset.entry(path, row)[0] if self.dataset.many else ""
        except UNREADABLE:  # told when it is read
            return f"{path.name}#{row}"
        return name or self.dataset.stem(path)

    def __getitem__(self, index: int) -> Record:
        record = dict(super().__getitem__(index))
        path, _ = self.items[index]
        if path is None:
            return record
        name, curve = record[self.dataset.modality]
        curve = dict(curve)
        targets = curve.pop("targets", {})
        label = f"{path.name}#{name}" if name else path.name
        return {self.dataset.modality: curve, **targets, "id": label}


def count_windows(config: _CurveFiles, path: Path) -> int:
    """Records in a file; 1 for one that cannot be read, which tells so when it is its turn."""
    try:
        return len(windows_of(config, path))
    except UNREADABLE:
        return 1


def windows_of(config: _CurveFiles, path: Path) -> list[Named]:
    """(name, curve) of each window of each curve in a file; a bad curve is its BadRecord.

    Consecutive records mostly come from one file, so the last few are kept.
    """
    return _windows(config.model_dump_json(), str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _windows(dump: str, path: str, changed: int) -> list[Named]:
    """The config as its dump, since one that holds lists cannot be hashed."""
    from lom_timeseries.curve_sets import _CurveFiles

    config = Dataset.model_validate_json(dump)
    assert isinstance(config, _CurveFiles)
    file = Path(path)
    found: list[Named] = []
    for name, curve in config.curves(file):
        if isinstance(curve, BadRecord):
            found.append((name, curve))
            continue
        salt = crc32(f"{file.name}#{name}".encode())
        for k, window in enumerate(cuts(len(curve["time"]), config, salt)):
            label = ".".join(filter(None, (name, str(k) if config.window else "")))
            found.append((label, _cut(curve, slice(*window))))
    return found


def _cut(curve: Curve, window: slice) -> Curve:
    return {key: part if key == "targets" else part[window] for key, part in curve.items()}


def cuts(n: int, config: _CurveFiles, salt: int) -> list[tuple[int, int]]:
    """(start, stop) of the windows of a curve of n epochs."""
    width = config.window or n
    if n <= width:
        return [(0, n)]
    if config.windows == "sequential":
        return [(start, min(start + width, n)) for start in range(0, n, width)]
    rng = np.random.default_rng(mix(config.seed, salt))
    starts = rng.integers(0, n - width + 1, size=config.per_curve)
    return [(int(start), int(start) + width) for start in starts]


def sample_curves(which: str, split: str, modality: str, registry: ModalityRegistry) -> Source:
    """The light curves that ship, read as a user's files would be."""
    from lom_timeseries.curve_sets import KeplerFiles, LightCurveFiles

    folder = Path(str(resources.files("lom_timeseries") / "samples"))
    if which == "kepler":
        path = str(folder / f"kepler_{split}.fits")
        return KeplerFiles(paths=[path], modality=modality, window=200).build(registry)
    path = str(folder / f"supernovae_{split}.csv")
    config = LightCurveFiles(paths=[path], modality=modality, object_column="object")
    return config.build(registry)


def sample_ecg(split: str, modality: str) -> Source:
    """Pieces (128, 1) int16 of the ECG that ships."""
    path = resources.files("lom_timeseries") / "samples" / "ecg.csv"
    cells = path.read_text(encoding="utf8").split()[1:]
    return Pieces(np.array(cells, dtype=np.int16), split, modality)


class Pieces:
    """Overlapping pieces of one half of a recording: the border between splits is in time."""

    def __init__(self, values: Array, split: str, modality: str) -> None:
        part = slice(0, BORDER) if split == "train" else slice(BORDER, None)
        self.values, self.offset, self.modality = values[part], part.start, modality
        step = STEP if split == "train" else PIECE
        self.starts = list(range(0, len(self.values) - PIECE + 1, step))

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start = self.starts[index]
        piece = self.values[start : start + PIECE, None]
        return {self.modality: {"values": piece}, "id": f"ecg-{self.offset + start:04}"}
