"""Records from NetCDF, Zarr and GRIB files."""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lom_climate.file_grid import Grid, read_grid
from lom_climate.files import DAMAGE, Field, Key, TimeAxis, open_file
from lom_climate.probe import probe
from lom_climate.times import from_text, told
from lom_core import BadRecord, ConfigError, DataError, ModalityRegistry
from lom_core.files import list_paths
from lom_core.roles import Array, Record

if TYPE_CHECKING:
    from lom_climate import ClimateFiles

SUFFIXES = (".nc", ".nc4", ".cdf", ".grib", ".grib2", ".grb", ".grb2")
OPEN_FILES = 8  # kept open in each process
Stamp = tuple[int, int] | None
EXACT = 1 / 3600  # hours within which two times are the same
UNEVEN = 1.5  # of the usual step: a gap (months differ by a tenth)


def open_files(config: ClimateFiles, registry: ModalityRegistry) -> FieldSource:
    """Read times, grids and names of all files, and lay out the records.

    Errors:
        ConfigError: a modality that has another number of channels.
        DataError: files that cannot be opened or put together, or no record in them.
    """
    paths = _paths(config.paths)
    stamps = [_stamp(path) for path in paths]
    probe(config, paths)
    first = lay_out(config, paths[0])
    fields, grid, axes = first.fields, first.grid, [first.axis]
    for path in paths[1:]:
        layout = lay_out(config, path)
        if not grid.same(layout.grid):
            raise DataError(f"{path}: another grid than {paths[0]}; give them as two data sets")
        if fields != layout.fields:
            raise DataError(f"{path}: its levels stand in another order than those of {paths[0]}")
        axes.append(layout.axis)
    for name, several in fields.items():
        _check_channels(registry, name, [field.channel for field in several])
    times, where, calendar = _joined(axes)
    mask = None if config.mask is None else _mask(config, grid)
    records = _records(config, times, calendar)
    if not len(records):
        raise DataError(_no_record(config, times, calendar))
    keys = config.filter_by_keys
    return FieldSource(paths, stamps, keys, fields, grid, times, where, calendar, records, mask)


@dataclass(frozen=True)
class Layout:
    """What a file holds: the fields of each modality, its times and its grid."""

    fields: dict[str, list[Field]]
    axis: TimeAxis
    grid: Grid

    @property
    def every(self) -> list[Field]:
        return [field for several in self.fields.values() for field in several]


def lay_out(config: ClimateFiles, path: Path) -> Layout:
    """Find the config's variables in a file.

    Errors:
        DataError: it cannot be opened, or lacks what the config asks for.
    """
    with open_file(path, config.filter_by_keys) as data:
        fields = {
            m: data.fields(v, config.levels, config.units) for m, v in config.by_modality().items()
        }
        every = [field for several in fields.values() for field in several]
        return Layout(fields, data.time_axis(every[0]), read_grid(data, every, config.region))


class FieldSource:
    """Records by number. Files are opened when they are read, once in every process."""

    def __init__(
        self,
        paths: list[Path],
        stamps: list[Stamp],
        filter_by_keys: dict[str, Key],
        fields: dict[str, list[Field]],
        grid: Grid,
        times: Array,
        where: Array,
        calendar: str,
        records: Array,
        mask: Array | None,
    ) -> None:
        self.paths, self.stamps, self.filter_by_keys = paths, stamps, filter_by_keys
        self.fields, self.grid, self.mask = fields, grid, mask
        self.times, self.where, self.calendar = times, where, calendar  # (t,), (t, 2) file, index
        self.records = records  # (k, 1 + s): base and steps, as numbers of times
        self._open: OrderedDict[Path, Any] = OrderedDict()
        self._process = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": OrderedDict()}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        base, *steps = self.records[range(len(self))[index]]
        record: dict[str, Any] = {"id": told(self.times[base], self.calendar)}
        for name, fields in self.fields.items():
            values = np.stack([self._read(step, fields) for step in steps])
            record[name] = {
                "values": values,
                "lat": self.grid.lat,
                "lon": self.grid.lon,
                "time": self.times[steps],
                "base": float(self.times[base]),
                "calendar": self.calendar,
            }
            if self.mask is not None:
                record[name]["mask"] = self.mask
        return record

    def _read(self, step: int, fields: list[Field]) -> Array:
        """(c, y, x) float32 of one time, NaN where not observed."""
        file, at = self.where[step]
        path = self.paths[file]
        try:
            data = self._file(int(file))
            values = np.stack([self.grid.cut(data.read(field, int(at))) for field in fields])
        except BadRecord:
            raise
        except DataError as error:
            raise BadRecord("cannot be read", file=path, row=int(at), detail=str(error)) from error
        except DAMAGE as error:
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise BadRecord("cannot be read", file=path, row=int(at), detail=detail) from error
        seen = np.isfinite(values) if self.mask is None else np.isfinite(values) & ~self.mask
        if not seen.any():
            raise BadRecord("no observed value", file=path, row=int(at))
        return values

    def _file(self, file: int) -> Any:
        """The open file; a process never uses a handle that another one opened."""
        path = self.paths[file]
        if self._process != os.getpid():
            self._open, self._process = OrderedDict(), os.getpid()
        if path not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)[1].close()
            if _stamp(path) != self.stamps[file]:
                raise BadRecord("changed since the data set was opened", file=path)
            self._open[path] = open_file(path, self.filter_by_keys)
        self._open.move_to_end(path)
        return self._open[path]


def _stamp(path: Path) -> Stamp:
    """Size and time of a file's last change; none of a store, which is a folder."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns) if path.is_file() else None


def _paths(paths: str | list[str]) -> list[Path]:
    if isinstance(paths, str) and Path(paths).expanduser().suffix == ".zarr":
        return [Path(paths).expanduser()]  # a folder, but one store
    return [path for path in list_paths(paths, SUFFIXES) if path is not None]


def _check_channels(registry: ModalityRegistry, name: str, channels: list[str]) -> None:
    n = registry.get_config(name).tokeniser.n_channels
    if n != len(channels):
        raise ConfigError(
            f"modality '{name}' has {n} channels, the data set's variables make {len(channels)}: "
            f"{', '.join(channels)}"
        )


def _joined(axes: list[TimeAxis]) -> tuple[Array, Array, str]:
    """Times (t,) of all files, where each stands (t, 2), and the calendar.

    Errors:
        DataError: times of a file that are not sorted or repeat, here or across files, or
            calendars that differ.
    """
    for axis in axes:
        if axis.calendar != axes[0].calendar:
            raise DataError(
                f"{axis.path}: calendar {axis.calendar}, {axes[0].path} has {axes[0].calendar}"
            )
        if (np.diff(axis.hours) < 0).any():
            raise DataError(f"{axis.path}: times are not sorted")
    order = sorted(range(len(axes)), key=lambda i: float(axes[i].hours[0]))
    times = np.concatenate([axes[i].hours for i in order])
    where = np.concatenate(
        [
            np.stack([np.full(len(axes[i].hours), i), np.arange(len(axes[i].hours))], 1)
            for i in order
        ]
    )
    wrong = np.flatnonzero(np.diff(times) <= EXACT)
    if len(wrong):
        one, two = (axes[where[k, 0]].path for k in (wrong[0], wrong[0] + 1))
        date = told(times[wrong[0] + 1], axes[0].calendar)
        inside = f"{one}: " if one == two else f"{one} and {two}: "
        raise DataError(f"{inside}the time {date} stands twice, or the files overlap")
    return times, where, axes[0].calendar


def _records(config: ClimateFiles, times: Array, calendar: str) -> Array:
    """(k, 1 + s) numbers of the base time and of the steps of each record."""
    first, last = -np.inf, np.inf
    if config.period is not None:
        try:
            first = from_text(config.period[0], calendar, last=False)
            last = from_text(config.period[1], calendar, last=True)
        except ValueError as error:
            raise ConfigError(f"period {list(config.period)}: {error}") from None
    inside = np.flatnonzero((times >= first) & (times <= last))
    if not len(inside):
        return np.zeros((0, 1 + len(config.steps)), np.int64)
    if config.step == "index":
        _check_even(times[inside], calendar)
        steps = inside[:, None] + np.array(config.steps, dtype=np.int64)
        found = (steps >= inside[0]) & (steps <= inside[-1])
    else:
        wanted = times[inside][:, None] + np.array(config.steps)
        steps = inside[0] + np.searchsorted(times[inside], wanted - EXACT)
        steps = np.minimum(steps, inside[-1])
        found = np.abs(times[steps] - wanted) <= EXACT
    whole = found.all(axis=1)
    return np.asarray(np.concatenate([inside[:, None], steps], axis=1)[whole][:: config.stride])


def _check_even(times: Array, calendar: str) -> None:
    steps = np.diff(times)
    if len(steps) and steps.max() > UNEVEN * np.median(steps):
        k = int(steps.argmax())
        raise DataError(
            f"no time between {told(times[k], calendar)} and {told(times[k + 1], calendar)}, "
            f"though steps are usually {np.median(steps):g} hours: step: index would jump over it; "
            "use step: hours, or a period on one side of it"
        )


def _no_record(config: ClimateFiles, times: Array, calendar: str) -> str:
    inside = f" within period {list(config.period)}" if config.period else ""
    usual = f", usually {np.median(np.diff(times)):g} hours apart" if len(times) > 1 else ""
    return (
        f"no time{inside} has all of the steps {config.steps} ({config.step}); the files have "
        f"{len(times)} times from {told(times[0], calendar)} to {told(times[-1], calendar)}{usual}"
    )


def _mask(config: ClimateFiles, grid: Grid) -> Array:
    """(y, x), True = bad."""
    assert config.mask is not None
    here, values = read_mask(config)
    if not grid.same(here):
        raise DataError(f"{config.mask.file}: the mask is on another grid than the data")
    bad = values > 0.5
    return np.asarray(~bad if config.mask.invert else bad)


def read_mask(config: ClimateFiles) -> tuple[Grid, Array]:
    """The mask's grid and its values (y, x) float32.

    Errors:
        DataError: its file or variable cannot be read.
    """
    assert config.mask is not None
    path = Path(config.mask.file).expanduser()
    with open_file(path) as data:
        field = data.fields([config.mask.variable], data.levels_of(config.mask.variable)[:1], {})[0]
        grid = read_grid(data, [field], config.region)
        try:
            return grid, grid.cut(data.read(field, 0))
        except DAMAGE as error:
            raise DataError(f"{path}: the mask cannot be read ({error})") from error
