"""ECG records: WFDB (signal format 16 here, others through the package wfdb), CSV and npy."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from lom_core import BadRecord
from lom_core.roles import Array

INVALID = -(2**15)  # a sample of format 16 that was not measured
DEFAULT_GAIN = 200.0  # adu per unit, where a header gives none or 0 (WFDB header(5))


@dataclass(frozen=True)
class Signal:
    """One line of a WFDB header: file, format, ADC units per physical unit, and the zero."""

    file: str
    format: str
    gain: float
    baseline: float
    unit: str
    name: str


@dataclass(frozen=True)
class Header:
    rate: float
    n_samples: int | None
    signals: tuple[Signal, ...]


def record_files(path: Path) -> list[Path]:
    """A record's header and its signal files, which must exist and not be empty."""
    if path.suffix.lower() != ".hea" or not path.is_file() or not path.stat().st_size:
        return [path]
    files = dict.fromkeys(signal.file for signal in read_header(path).signals)
    return [path, *(_beside(path, file) for file in files)]


def read_ecg(path: Path, rate: float | None = None, baseline_window: float = 0.0) -> dict[str, Any]:
    """``{"values": (T, leads) float32, "rate", "leads"}`` of a record.

    Errors:
        BadRecord: damaged, truncated, no numbers, or a baseline without a rate.
    """
    read = {".hea": read_wfdb, ".npy": _npy}.get(path.suffix.lower(), _csv)
    record = read(path)
    if rate is not None and not np.isclose(record.setdefault("rate", rate), rate, rtol=1e-6):
        told = f"{record['rate']:g} Hz, the config says {rate:g}"
        raise BadRecord("another sampling rate", detail=told)
    if baseline_window:
        if "rate" not in record:
            raise BadRecord("baseline_window needs the rate of CSV and npy files")
        samples = round(baseline_window * record["rate"])
        record["values"] = remove_baseline(record["values"], samples)
    return record


def remove_baseline(values: Array, samples: int) -> Array:
    """(T, leads) minus its moving mean over about ``samples`` samples (an odd number, centred).

    At the ends, and around values that are NaN, the mean is over what there is.
    """
    half = min(max(samples, 1) // 2, len(values))
    seen = np.isfinite(values)
    sums, n = (_moving_sum(x, half) for x in (np.where(seen, values, 0.0), seen.astype(np.float64)))
    return np.asarray(values - sums / np.maximum(n, 1), dtype=np.float32)


def _moving_sum(x: Array, half: int) -> Array:
    total = np.pad(np.cumsum(x, axis=0, dtype=np.float64), ((1, 0), (0, 0)))
    at = np.arange(len(x))
    return np.asarray(total[np.minimum(at + half + 1, len(x))] - total[np.maximum(at - half, 0)])


def read_header(path: Path) -> Header:
    """A WFDB header (header(5) of the WFDB Applications Guide).

    Errors:
        BadRecord: it is none, or of a record of several segments.
    """
    text = path.read_text(encoding="utf8", errors="replace").splitlines()
    lines = [line.strip() for line in text if line.strip() and not line.lstrip().startswith("#")]
    try:
        record = lines[0].split()
        if "/" in record[0]:
            raise BadRecord("a WFDB record of several segments")
        rate = float(record[2].split("/")[0].split("(")[0]) if len(record) > 2 else 250.0
        n_samples = int(record[3]) if len(record) > 3 else 0
        n_signals = int(record[1])
        signals = tuple(_signal(line, i) for i, line in enumerate(lines[1 : n_signals + 1]))
    except (IndexError, ValueError) as error:
        if isinstance(error, BadRecord):
            raise
        raise BadRecord("no WFDB header", detail=str(error)[:100]) from None
    if len(signals) != n_signals or not n_signals or not rate > 0:
        told = f"{n_signals} signals, {len(signals)} of them described, {rate:g} Hz"
        raise BadRecord("no WFDB header", detail=told)
    return Header(rate, n_samples or None, signals)


def _signal(line: str, number: int) -> Signal:
    """``file format gain(baseline)/unit resolution zero first checksum block name``.

    The baseline defaults to the ADC zero, the gain to 200, the unit to mV.
    """
    cells = line.split(None, 8)
    gain, _, unit = (cells[2] if len(cells) > 2 else "").partition("/")
    number_text, _, baseline = gain.rstrip(")").partition("(")
    zero = cells[4] if len(cells) > 4 else "0"
    return Signal(
        file=cells[0],
        format=cells[1],
        gain=float(number_text or 0) or DEFAULT_GAIN,
        baseline=float(baseline or zero),
        unit=unit or "mV",
        name=cells[8].strip() if len(cells) > 8 else f"signal {number}",
    )


def read_wfdb(path: Path) -> dict[str, Any]:
    """A record by its header, in physical units.

    Errors:
        BadRecord: no header, a signal file outside the record's folder, another length than the
            header says, or a format that needs the package wfdb, which is not installed.
    """
    header = read_header(path)
    signals = header.signals
    if any(signal.format != "16" for signal in signals):
        values = _by_package(path, header)
    else:
        files = dict.fromkeys(signal.file for signal in signals)
        parts = [_format_16(path, header, file) for file in files]
        if len({len(part) for part in parts}) > 1:
            raise BadRecord("signal files of different lengths")
        # Signals of one file are together now; back to the order of the header.
        order = [i for file in files for i, s in enumerate(signals) if s.file == file]
        values = np.concatenate(parts, axis=1)[:, np.argsort(order)]
    return {"values": values, "rate": header.rate, "leads": [s.name for s in signals]}


def _beside(path: Path, file: str) -> Path:
    if not file or file in (".", "..") or "/" in file or "\\" in file:
        raise BadRecord("a signal file outside the record's folder", detail=file[:100])
    return path.parent / file


def _format_16(path: Path, header: Header, file: str) -> Array:
    """(T, signals of this file) float32: little-endian int16, interleaved."""
    signals = [signal for signal in header.signals if signal.file == file]
    raw = _beside(path, file).read_bytes()
    row = 2 * len(signals)
    expected = header.n_samples or len(raw) // row
    if len(raw) != expected * row or not expected:
        told = f"{file} has {len(raw)} bytes, {expected * row} expected"
        raise BadRecord("signal file of another length than its header says", detail=told)
    digital = np.frombuffer(raw, dtype="<i2").reshape(expected, len(signals))
    gain, baseline = (np.array([getattr(s, k) for s in signals]) for k in ("gain", "baseline"))
    physical = (digital - baseline) / gain
    return np.where(digital == INVALID, np.nan, physical).astype(np.float32)


def _by_package(path: Path, header: Header) -> Array:
    if find_spec("wfdb") is None:
        formats = ", ".join(sorted({signal.format for signal in header.signals}))
        told = f"format {formats}: pip install 'lom-timeseries[wfdb]'"
        raise BadRecord("a WFDB format that needs the package wfdb", detail=told)
    import wfdb  # type: ignore[import-untyped]

    try:
        return np.asarray(wfdb.rdrecord(str(path.with_suffix(""))).p_signal, dtype=np.float32)
    except (TypeError, AttributeError) as error:
        raise BadRecord("damaged WFDB record", detail=str(error)[:100]) from None


def _npy(path: Path) -> dict[str, Any]:
    values = np.load(path, allow_pickle=False)
    if values.ndim not in (1, 2) or values.dtype.kind not in "uif":
        raise BadRecord("no series in the file", detail=f"{values.dtype} of shape {values.shape}")
    return {"values": np.atleast_2d(values.T).T}


def _csv(path: Path) -> dict[str, Any]:
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    if len(lines) < 2:
        raise BadRecord("no line of values under a line of names")
    names = [name.strip().strip("'\"") for name in lines[0].split(",")]
    rows = [line.split(",") for line in lines[1:] if line.strip()]
    for i, row in enumerate(rows):
        if len(row) != len(names):
            told = f"row {i + 1} has {len(row)} cells, {len(names)} names"
            raise BadRecord("a line with another number of cells", detail=told)
    values = np.array([[cell.strip() or "nan" for cell in row] for row in rows], dtype=np.float32)
    return {"values": values, "leads": names}
