"""Records of the climate-text guide's layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_core import BadRecord, DataError, ModalityRegistry
from lom_core.roles import Array, Record

if TYPE_CHECKING:
    from lom_climate import ClimateText

INDEX = "index.json"


def open_text(config: ClimateText, registry: ModalityRegistry) -> TextSource:
    """Read the index and check every entry of it; the tensors are read later."""
    for name in (config.modality, *config.texts):
        registry.get_config(name)
    folder = Path(config.path).expanduser()
    entries = read_index(folder, list(config.texts.values()))
    n_channels = registry.get_config(config.modality).tokeniser.n_channels
    return TextSource(config, folder, entries, n_channels)


def read_index(folder: Path, fields: list[str]) -> list[dict[str, str]]:
    """The entries of ``index.json``.

    Errors:
        DataError: it is missing, no JSON, no list of mappings, lacks a field, or names a file that
            is not in the folder.
    """
    path = folder / INDEX
    try:
        entries = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; each split's folder needs its index") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of entries, got {_told(entries)}")
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise DataError(f"{path}: entry {number} is {_told(entry)}, expected a mapping")
        for field in ("climate_file", *fields):
            if not isinstance(entry.get(field), str) or not entry[field].strip():
                has = _told(entry[field]) if field in entry else "missing"
                raise DataError(f"{path}: entry {number}: '{field}' is {has}, expected text")
        _check_inside(path, number, entry["climate_file"])
    return entries


def _check_inside(path: Path, number: int, file: str) -> None:
    parts = {*PurePosixPath(file).parts, *PureWindowsPath(file).parts}
    away = PurePosixPath(file).is_absolute() or PureWindowsPath(file).anchor
    if away or ".." in parts or "\0" in file:
        raise DataError(f"{path}: entry {number}: climate_file {file!r} leaves the folder")


class TextSource:
    """Records by number: a grid and its texts."""

    def __init__(
        self, config: ClimateText, folder: Path, entries: list[dict[str, str]], n_channels: int
    ) -> None:
        self.config, self.folder, self.entries = config, folder, entries
        self.n_channels = n_channels

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Record:
        entry = self.entries[index]
        values = self._read(self.folder / entry["climate_file"])
        texts = {name: entry[field] for name, field in self.config.texts.items()}
        return {
            self.config.modality: self._placed(values),
            **texts,
            "id": entry["climate_file"],
        }

    def _read(self, path: Path) -> Array:
        """(t, c, h, w) float32."""
        import torch

        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise BadRecord("a link that leaves the folder", file=path)
        if not path.is_file():
            raise BadRecord("no such file", file=path)
        if path.stat().st_size == 0:
            raise BadRecord("empty file", file=path)
        try:
            tensor = torch.load(path, map_location="cpu", weights_only=True)
        except (
            *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError),
            *(AttributeError, MemoryError, OverflowError, pickle.UnpicklingError, AssertionError),
        ) as error:
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadRecord("cannot be read", file=path, detail=told) from error
        if not isinstance(tensor, torch.Tensor):
            raise BadRecord("no tensor", file=path, detail=f"a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized:
            raise BadRecord("no dense tensor of real numbers", file=path, detail=str(tensor.dtype))
        if tensor.ndim != 4 or not tensor.numel() or tensor.shape[1] != self.n_channels:
            detail = f"{tuple(tensor.shape)}, expected (time, {self.n_channels}, height, width)"
            raise BadRecord("a tensor of the wrong shape", file=path, detail=detail)
        values = tensor.detach().float().numpy()
        if not np.isfinite(values).any():
            raise BadRecord("no observed value", file=path)
        return np.asarray(values)

    def _placed(self, values: Array) -> dict[str, Any]:
        """The grid as grid_patches reads it: pixels fill the extents, the last step is the base."""
        t, _, high, wide = values.shape
        (north, south), (west, east) = self.config.lat, self.config.lon
        return {
            "values": values,
            "lat": north + (south - north) * (np.arange(high) + 0.5) / high,
            "lon": west + (east - west) * (np.arange(wide) + 0.5) / wide,
            "time": self.config.hours * np.arange(1 - t, 1),
            "base": 0.0,
            "calendar": "relative",
        }


def _told(value: Any) -> str:
    return f"a {type(value).__name__} ({str(value)[:40]!r})"
