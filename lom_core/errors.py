"""Every error the SDK raises on purpose.

    LomError
    ├── ConfigError        a run file, an override or a component's fields        (ValueError)
    │   └── UnknownKind    no installed plugin provides this kind
    ├── PluginError        a plugin is broken, duplicated or of another version
    ├── DataError          a data set as a whole cannot be used                   (ValueError)
    │   ├── BadRecord      one record cannot be used: skipped, counted, reported
    │   └── TooManyBadRecords
    ├── CheckpointError    a checkpoint is missing, damaged or does not fit
    └── TrainingError      a run cannot go on (loss not finite, ...)

A message says what was given, what is possible and what to do next, in one or two lines. The
command line prints it without a traceback; everything else is a bug of ours and keeps its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LomError(Exception):
    """Root of the tree: ``except LomError`` catches every mistake a user can make."""


class ConfigError(LomError, ValueError):
    """A run file, an override or the fields of a component are wrong."""


class UnknownKind(ConfigError):
    """No installed plugin provides the kind that was asked for."""


class PluginError(LomError):
    """A plugin cannot be loaded, or two of them claim the same kind."""


class DataError(LomError, ValueError):
    """A data set as a whole cannot be used; raised before training starts."""


class BadRecord(DataError):
    """One record cannot be used. Lanes skip it, count it under ``reason`` and report it.

    Args:
        reason: short and without figures of the one record, so that records can be counted by it.
        file: the file it came from, where there is one.
        row: its row, HDU or index inside the file or data set.
        detail: figures of this record ("flux has 3000 values, wavelength 2999").
    """

    def __init__(
        self,
        reason: str,
        *,
        file: object = None,
        row: object = None,
        detail: str = "",
    ) -> None:
        self.reason, self.file, self.row, self.detail = reason, file, row, detail
        where = [str(file)] if file is not None else []
        where += [f"row {row}"] if row is not None else []
        prefix = " ".join(where) + ": " if where else ""
        super().__init__(prefix + reason + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not pickle by themselves; loader workers send these.
        return _bad_record, (self.reason, self.file, self.row, self.detail)


def _bad_record(reason: str, file: object, row: object, detail: str) -> BadRecord:
    return BadRecord(reason, file=file, row=row, detail=detail)


class TooManyBadRecords(DataError):
    """More than ``max_bad_fraction`` of the records could not be used."""


class CheckpointError(LomError):
    """A checkpoint is missing, damaged, or does not fit the run it is loaded into."""


class TrainingError(LomError):
    """A run cannot go on, for instance because the loss is not finite."""


def nearest(name: str, possible: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest of the possible names, or an empty string."""
    match = difflib.get_close_matches(name, list(possible), n=1, cutoff=0.6)
    return f"; did you mean '{match[0]}'?" if match else ""
