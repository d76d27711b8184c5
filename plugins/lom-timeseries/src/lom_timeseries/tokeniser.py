"""Light curves and regular series <-> tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from lom_core import BadRecord, Tokens
from lom_core.roles import Array

if TYPE_CHECKING:
    from lom_timeseries.light_curve_kinds import LightCurveEpochs
    from lom_timeseries.series_kinds import SeriesPatches


FLOAT32 = np.finfo(np.float32)
LARGEST, SMALLEST = float(FLOAT32.max), float(FLOAT32.tiny)
TOO_LARGE = "a value or a time that float32 cannot hold"


class EpochEncoder:
    """What LightCurveEpochs configures."""

    def __init__(self, config: LightCurveEpochs) -> None:
        self.config = config
        self.numbers = {band: i for i, band in enumerate(config.bands)}

    def encode(self, value: Any) -> Tokens:
        """Tokens (n, 1) at (n, 1 + bands + 2 if normalised), sorted by time.

        Errors:
            BadRecord: no light curve, columns of different lengths, a time that is not finite,
                no observed value, one beyond float32, a band that the config does not list.
        """
        curve = as_curve(value)
        order = np.argsort(curve["time"], kind="stable")
        curve = {name: column[order] for name, column in curve.items()}
        time, values = curve["time"], curve["value"]
        weights = self._weights(curve)
        zero = time[0] if self.config.time_zero == "first" else time.mean()
        columns = [time - zero]
        if self.config.bands or "band" in curve:
            band = self._band_numbers(curve)
            columns += [band] if self.config.bands else []
        if self.config.normalise != "none":
            seen = values[weights > 0]
            if np.abs(seen).max() > LARGEST / 4:  # so that no range overflows
                raise BadRecord(TOO_LARGE)
            centre, spread = statistics(seen, self.config.normalise)
            values = (values - centre) / spread
            columns += [np.full(len(values), x) for x in (centre, spread)]
        content = np.where(weights > 0, values, 0)
        positions = np.stack(columns, axis=1)
        for column in (content, positions):
            if not np.abs(column).max() <= LARGEST:
                raise BadRecord(TOO_LARGE)
        return Tokens(
            content[:, None].astype(np.float32),
            positions.astype(np.float32),
            weights[:, None].astype(np.float32),
        )

    def decode(self, tokens: Tokens) -> dict[str, Array]:
        """time (days since ``time_zero``), value, weight, and band where there are several."""
        positions = tokens.positions.astype(np.float64)
        value = tokens.content[:, 0].astype(np.float64)
        weight = np.ones(len(value)) if tokens.weights is None else tokens.weights[:, 0]
        if self.config.normalise != "none":
            centre, spread = positions[:, -2], positions[:, -1]
            value = value * spread + centre
        value = np.where(weight > 0, value, np.nan)
        found = {"time": positions[:, 0], "value": value, "weight": weight}
        if self.config.bands:
            names = np.array(self.config.bands)
            found["band"] = names[np.rint(positions[:, 1]).astype(np.int64)]
        return found

    def _weights(self, curve: Mapping[str, Array]) -> Array:
        """(n,) float64, mean 1 over what was observed.

        Errors:
            BadRecord: nothing was.
        """
        seen = np.isfinite(curve["value"])
        if "weight" in curve:
            weights = np.where(seen & np.isfinite(curve["weight"]), curve["weight"], 0)
            seen &= weights > 0
        elif "error" in curve:
            error = curve["error"]
            seen &= np.isfinite(error) & (error > 0)
            relative = np.median(error[seen]) / error[seen] if seen.any() else error[seen]
            clip = self.config.weight_clip
            weights = np.zeros(len(seen))
            weights[seen] = np.clip(relative**2, 1 / clip, clip)
        else:
            weights = np.ones(len(seen))
        if not seen.any():
            raise BadRecord("no epoch with a value (and an error above 0)")
        weights = np.where(seen, np.maximum(weights, 0), 0)
        return np.asarray(weights / weights[seen].mean())

    def _band_numbers(self, curve: Mapping[str, Array]) -> Array:
        """(n,) places in ``bands`` of the curve's bands: names, or where no name is a number, these
        very places."""
        n, bands = len(curve["time"]), curve.get("band")
        if bands is None:
            raise BadRecord("a curve without bands", detail=f"bands: {list(self.config.bands)}")
        names, place = np.unique(bands, return_inverse=True)
        if not self.config.bands:
            if len(names) > 1:
                told = f"{', '.join(map(str, names))[:200]}; set bands"
                raise BadRecord("several bands in a curve of one", detail=told)
            return np.zeros(n)
        numeric = names.dtype.kind in "iuf"
        written = [f"{x:g}" if numeric else str(x) for x in names]
        # Of bands "1" and "2", the numbers 1.0 and 2 are those two, not places in the list.
        if numeric and not any(band.isdecimal() for band in self.numbers):
            numbers = [float(x) for x in names]
        else:
            numbers = [float(self.numbers.get(name, -1)) for name in written]
        known = [x in range(len(self.numbers)) for x in numbers]
        if not all(known):
            unknown = ", ".join(str(x) for x, k in zip(names, known, strict=True) if not k)
            told = f"{unknown[:100]}; bands: {', '.join(self.numbers)}"
            raise BadRecord("a band that the config does not list", detail=told)
        return np.asarray(numbers, dtype=np.float64)[place]


def statistics(values: Array, method: str) -> tuple[float, float]:
    """Centre and spread of a curve's values (n,), in float32; a spread of 0 becomes 1.

    So does one that is 0 beside the values: 2^-22 of their largest is what float32 keeps of them.
    """
    if method == "zero_mean":
        centre, spread = values.mean(), 1.0
    elif method == "random_mean":
        # Seeded by the length alone: decoding and encoding again finds the same half.
        half = np.random.default_rng(len(values)).permutation(len(values))[: (len(values) + 1) // 2]
        centre, spread = values[half].mean(), 1.0
    elif method == "minmax":
        centre, spread = values.min(), np.ptp(values)
    else:
        centre = np.median(values)
        spread = 1.4826 * np.median(np.abs(values - centre))
    if not spread > max(SMALLEST, 2.0**-22 * np.abs(values).max()):
        spread = 1.0
    # In float32, as the positions will carry them.
    return float(np.float32(centre)), float(np.float32(spread))


def as_curve(value: Any) -> dict[str, Array]:
    """time, value (n,) float64, and error, weight, band where given.

    Errors:
        BadRecord: no light curve.
    """
    if isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] in (2, 3):
        value = dict(zip(("time", "value", "error"), value.T, strict=False))
    if not isinstance(value, Mapping) or not {"time", "value"} <= set(value):
        raise BadRecord("no light curve (time and value are needed)")
    try:
        curve = {
            name: np.ma.filled(np.ma.asarray(value[name], dtype=np.float64), np.nan)
            for name in ("time", "value", "error", "weight")
            if value.get(name) is not None
        }
    except (TypeError, ValueError) as error:
        raise BadRecord("a light curve that is not numbers", detail=str(error)[:100]) from None
    if value.get("band") is not None:
        band = np.asarray(value["band"])
        curve["band"] = band.astype(str) if band.dtype == object else band
    shapes = {column.shape for column in curve.values()}
    if len(shapes) > 1 or curve["time"].ndim != 1:
        raise BadRecord("columns of different lengths", detail=str(sorted(shapes)))
    if not len(curve["time"]):
        raise BadRecord("a light curve without epochs")
    if not np.isfinite(curve["time"]).all():
        raise BadRecord("a time that is not finite")
    return curve


class PatchEncoder:
    """What SeriesPatches configures."""

    def __init__(self, config: SeriesPatches) -> None:
        self.config = config
        self.patch, self.n_leads = config.patch_size, len(config.leads)

    def encode(self, value: Any) -> Tokens:
        """Tokens (n, patch_size) at (seconds, lead), or (n, patch_size * leads) at (seconds,).

        Errors:
            BadRecord: no series, another rate or other leads, no observed value.
        """
        values, seen, start = self._as_series(value)
        pad = ((0, -len(values) % self.patch), (0, 0))
        content = self._tokens(np.pad(values, pad))
        weights = self._tokens(np.pad(seen, pad).astype(np.float32))
        n_patches = -(-len(values) // self.patch)
        seconds = start + np.arange(n_patches) * self.patch / self.config.rate
        if self.config.across:
            positions = seconds[:, None]
        else:
            positions = np.stack(
                [np.repeat(seconds, self.n_leads), np.tile(np.arange(self.n_leads), n_patches)],
                axis=1,
            )
        kept = weights.any(axis=1)
        whole = None if weights[kept].all() else weights[kept]
        return Tokens(content[kept], positions[kept].astype(np.float32), whole)

    def decode(self, tokens: Tokens) -> dict[str, Any]:
        """values (T, leads), NaN where not observed, from the first patch to the last; rate,
        and start in seconds."""
        seconds = tokens.positions[:, 0].astype(np.float64)
        start = float(seconds.min())
        at = np.rint((seconds - start) * self.config.rate / self.patch).astype(np.int64)
        n_patches, observed = (
            int(at.max()) + 1,
            np.broadcast_to(tokens.observed, tokens.content.shape),
        )
        lead = None if self.config.across else np.rint(tokens.positions[:, 1]).astype(np.int64)
        per_patch = 1 if lead is None else self.n_leads
        place = at if lead is None else at * per_patch + lead
        complete = observed.all() and len(place) == n_patches * per_patch
        dtype = tokens.content.dtype if complete else np.result_type(tokens.content, np.float32)
        grid = np.full(
            (n_patches * per_patch, self.config.width), np.nan if not complete else 0, dtype
        )
        grid[place] = tokens.content if complete else np.where(observed, tokens.content, np.nan)
        return {"values": self._series(grid), "rate": self.config.rate, "start": start}

    def _tokens(self, values: Array) -> Array:
        """(T, leads) -> (n, w), T a multiple of the patch."""
        pattern = "(t p) c -> t (p c)" if self.config.across else "(t p) c -> (t c) p"
        return np.asarray(rearrange(values, pattern, p=self.patch))

    def _series(self, grid: Array) -> Array:
        """(n, w) -> (T, leads)."""
        pattern = "t (p c) -> (t p) c" if self.config.across else "(t c) p -> (t p) c"
        return np.asarray(rearrange(grid, pattern, p=self.patch, c=self.n_leads))

    def _as_series(self, value: Any) -> tuple[Array, Array, float]:
        """(T, leads) as stored with 0 where not observed, which were observed, and the start."""
        parts = value if isinstance(value, Mapping) else {"values": value}
        if "values" not in parts:
            raise BadRecord("no series (values are needed)")
        values = np.ma.asanyarray(parts["values"])
        if values.dtype.kind not in "uif" or values.ndim not in (1, 2) or not values.size:
            raise BadRecord("no series", detail=f"{values.dtype} of shape {values.shape}")
        rate = float(parts.get("rate") or self.config.rate)
        if not np.isclose(rate, self.config.rate, rtol=1e-6):
            told = f"{rate:g} Hz, the config says {self.config.rate:g}"
            raise BadRecord("another sampling rate", detail=told)
        values = values[:, None] if values.ndim == 1 else values
        seen = ~np.ma.getmaskarray(values)
        values = np.ma.getdata(values)
        if values.dtype.kind == "f":
            seen = seen & np.isfinite(values)
            values = values.astype(np.float32)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if parts.get("mask") is not None:
            mask = np.asarray(parts["mask"]) != 0
            mask = mask[:, None] if mask.ndim == 1 else mask
            if mask.shape not in (values.shape, (len(values), 1)):
                raise BadRecord("mask of another shape", detail=f"{mask.shape}, {values.shape}")
            seen = seen & ~mask
        values, seen = self._leads(values, seen, parts.get("leads"))
        if not seen.any():
            raise BadRecord("no observed value")
        return np.where(seen, values, values.dtype.type(0)), seen, float(parts.get("start", 0.0))

    def _leads(self, values: Array, seen: Array, names: Any) -> tuple[Array, Array]:
        """The columns in the order of the config's leads; those that are missing: not observed."""
        if names is None:
            if values.shape[1] != self.n_leads:
                told = f"{values.shape[1]}, the config has {self.n_leads}"
                raise BadRecord("another number of leads", detail=told)
            return values, seen
        if len(names) != values.shape[1]:
            raise BadRecord("names of leads for another number of them", detail=str(names)[:100])
        place = {str(name).strip().upper(): i for i, name in enumerate(names)}
        found = [place.get(lead.upper(), -1) for lead in self.config.leads]
        if max(found) < 0:
            told = f"it has {', '.join(map(str, names))[:100]}"
            raise BadRecord("none of the config's leads", detail=told)
        present = np.array(found) >= 0
        return values[:, found], seen[:, found] & present
