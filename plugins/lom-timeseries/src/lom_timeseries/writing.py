"""Light curves -> ECSV; regular series -> CSV; and what lies ahead of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import ConfigError, Tokens
from lom_core.roles import Array
from lom_core.tables import write_rows


def write_light_curve(curve: Mapping[str, Array], path: Path, unit: str) -> Path:
    """``PATH.ecsv``: time (d), band if there are several, and value (unit), by time."""
    from astropy import units
    from astropy.table import Table

    order = np.argsort(curve["time"], kind="stable")
    names = [name for name in ("time", "band", "value") if name in curve]
    table = Table({name: np.asarray(curve[name])[order] for name in names})
    table["time"].unit = units.d
    table["value"].unit = units.Unit(unit, parse_strict="silent") if unit else None
    path = path.with_name(path.name + ".ecsv")
    table.write(path, format="ascii.ecsv", overwrite=True)
    return path


def write_series(series: Mapping[str, Any], path: Path, leads: Sequence[str]) -> Path:
    """``PATH.csv``: seconds, and a column a lead; empty where not observed."""
    values = np.asarray(series["values"], dtype=np.float64)
    seconds = float(series["start"]) + np.arange(len(values)) / float(series["rate"])
    rows = (
        [f"{second:.6f}", *("" if np.isnan(x) else f"{x:.7g}" for x in row)]
        for second, row in zip(seconds, values, strict=True)
    )
    return write_rows(path, ["seconds", *leads], rows)


def epochs_ahead(tokens: Tokens, days: float, banded: bool) -> Array:
    """(n, p): every band at the curve's usual spacing, at least a day, for so many days more.

    A curve's centre and spread, which positions carry if it is normalised, stay what they were.

    Errors:
        ConfigError: not even one epoch fits.
    """
    time = tokens.positions[:, 0]
    gaps = np.diff(np.unique(time))
    step = max(1.0, float(np.median(gaps))) if len(gaps) else 1.0
    n = int(days / step + 1e-9)
    if n < 1:
        raise ConfigError(f"ahead={days:g} days: epochs are {step:.3g} days apart; ask for more")
    when = time.max() + step * np.arange(1, n + 1)
    bands = np.unique(tokens.positions[:, 1]) if banded else np.zeros(1)
    found = np.tile(tokens.positions[-1], (n * len(bands), 1))
    found[:, 0] = np.repeat(when, len(bands))
    if banded:
        found[:, 1] = np.tile(bands, n)
    return found.astype(np.float32)


def patches_ahead(tokens: Tokens, seconds: float, patch: float, across: bool) -> Array:
    """(n, p): the patches of so many seconds after the last one, ``patch`` seconds each, of the
    same leads."""
    last = float(tokens.positions[:, 0].max())
    n = max(1, round(seconds / patch))
    when = last + patch * np.arange(1, n + 1)
    if across:
        return when[:, None].astype(np.float32)
    leads = np.unique(tokens.positions[:, 1])
    return np.stack([np.repeat(when, len(leads)), np.tile(leads, n)], axis=1).astype(np.float32)
