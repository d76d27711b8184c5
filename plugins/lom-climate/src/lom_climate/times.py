"""Hours since 1970 in CF calendars, and where in the year and in the day they lie.

Days of the year are counted in a year whose months have the lengths of a leap year, whatever the
calendar: the first of March is day 60.0 in every one, so that months can be told from days.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np

from lom_core.errors import BadRecord
from lom_core.roles import Array

EPOCH = "hours since 1970-01-01 00:00:00"
STANDARD = ("standard", "gregorian", "proleptic_gregorian")
GREGORIAN = -3394584.0  # hours: 1582-10-15, before which "standard" is Julian
LENGTHS = np.array([31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31], dtype=np.float64)
MONTH_STARTS = np.concatenate([[0.0], LENGTHS.cumsum()])  # (13,) days
MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def season(hours: Array, calendar: str) -> tuple[Array, Array]:
    """Day of the year (0 .. 366) and hour of the day (0 .. 24) of hours since 1970, (t,) each.

    Errors:
        BadRecord: a calendar that is unknown, or hours that it has no date for.
    """
    calendar = calendar.lower()
    if calendar in STANDARD and hours.min() >= GREGORIAN and np.abs(hours).max() < 1e8:
        month, day, length, hour = _gregorian(hours)
    else:
        month, day, length, hour = _other(hours, calendar)
    return MONTH_STARTS[month] + (day + hour / 24) / length * LENGTHS[month], hour


def _gregorian(hours: Array) -> tuple[Array, Array, Array, Array]:
    """Month (0 ..), day in it (0 ..), its length in days, and hour, (t,) each."""
    # Whole seconds, so that 12:00 is not read as 11:59:59.99.
    seconds = np.rint(hours * 3600).astype(np.int64)
    days, rest = np.divmod(seconds, 86400)
    date = days.astype("datetime64[D]")
    first = date.astype("datetime64[M]")
    start = first.astype("datetime64[D]")
    length = ((first + 1).astype("datetime64[D]") - start).astype(np.float64)
    month = first.astype(np.int64) % 12
    return month, (date - start).astype(np.float64), length, rest / 3600


def _other(hours: Array, calendar: str) -> tuple[Array, Array, Array, Array]:

    try:
        dates = _dates(np.rint(hours * 3600), calendar)
        parts = [
            (d.month - 1, d.day - 1, d.daysinmonth, d.hour + d.minute / 60 + d.second / 3600)
            for d in dates
        ]
    except (ValueError, OverflowError) as error:
        detail = f"calendar {calendar}: {error}"
        raise BadRecord("a time that is no date of its calendar", detail=detail) from None
    month, day, length, hour = (np.array(column) for column in zip(*parts, strict=True))
    return month.astype(np.int64), day.astype(float), length.astype(float), hour.astype(float)


def _dates(seconds: Any, calendar: str) -> Any:
    """cftime's dates of seconds since 1970; it warns of years before the first, which CF lacks."""
    import cftime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=cftime.CFWarning)
        return cftime.num2date(seconds, EPOCH.replace("hours", "seconds"), calendar)


def to_hours(times: Array, units: str, calendar: str) -> Array:
    """(t,) float64 hours since 1970 from CF times: ``minutes since 2020-01-01 00:30:00``.

    Climatologies count from the year 0, as COADS does, which CF no longer allows.

    Errors:
        ValueError: units or a calendar that cftime does not know.
    """
    import cftime

    zero = {"has_year_zero": True} if re.search(r"since\s+0+-", units) else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=cftime.CFWarning)
        dates = cftime.num2date(np.asarray(times, dtype=np.float64), units, calendar, **zero)
        hours = cftime.date2num(dates, EPOCH, calendar, **zero)
    return np.asarray(hours, dtype=np.float64).reshape(-1)


def told(hours: float, calendar: str) -> str:
    """``2010-03-16T12:00`` in the calendar."""

    date: Any = _dates(round(hours * 3600), calendar)
    return f"{date.year:04}-{date.month:02}-{date.day:02}T{date.hour:02}:{date.minute:02}"


def from_text(text: str, calendar: str, last: bool) -> float:
    """Hours since 1970 of ``1979``, ``1979-01``, ``1979-01-31`` or ``1979-01-31T06:00``.

    Args:
        last: the end of the year, month or day that the text names, not its beginning.

    Errors:
        ValueError: no such date.
    """
    import cftime

    day_text, _, clock = text.partition("T")
    parts = [int(p) for p in day_text.split("-")]
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"'{text}' is no date; write 1979, 1979-01, 1979-01-31 or 1979-01-31T06:00"
        )
    year, month, day = [*parts, 1, 1][:3] if len(parts) > 1 else (parts[0], 1, 1)
    hour, minute = (int(p) for p in f"{clock or 0}:0".split(":")[:2])
    if last and not clock:
        year, month = (year + 1, month) if len(parts) == 1 else (year, month)
        if len(parts) == 2:
            year, month = (year, month + 1) if month < 12 else (year + 1, 1)
    date = cftime.datetime(year, month, day, hour, minute, calendar=calendar)
    hours = float(cftime.date2num(date, EPOCH, calendar))
    return hours + 24 * (last and not clock and len(parts) == 3) - 1e-6 * (last and not clock)
