"""Seeded changes of regular series."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from lom_core import BadRecord, Record, Source
from lom_core.roles import Array
from lom_core.seeds import mix

if TYPE_CHECKING:
    from lom_timeseries.series_kinds import AugmentedSeries


class AugmentedSource:
    """The originals, then their changed copies."""

    def __init__(self, config: AugmentedSeries, source: Source) -> None:
        self.config, self.source = config, source

    def __len__(self) -> int:
        return len(self.source) * (1 + self.config.copies)

    def __getitem__(self, index: int) -> Record:
        index = range(len(self))[index]
        copy, original = divmod(index, len(self.source))
        record = self.source[original]
        value = record.get(self.config.modality)
        if not copy or value is None:
            return record
        parts = dict(value) if isinstance(value, Mapping) else {"values": value}
        rng = np.random.default_rng(mix(self.config.seed, index))
        parts["values"] = changed(self.config, np.asarray(parts["values"]), rng)
        name = f"{record.get('id', original)}~{copy}"
        return {**record, self.config.modality: parts, "id": name}


def changed(config: AugmentedSeries, values: Array, rng: np.random.Generator) -> Array:
    """(T,) or (T, leads) -> (T, leads) float32, NaN where a lead was dropped.

    Errors:
        BadRecord: it is no series.
    """
    if values.ndim not in (1, 2) or values.dtype.kind not in "uif" or not values.size:
        raise BadRecord("no series", detail=f"{values.dtype} of shape {values.shape}")
    x = values.astype(np.float64)
    x = x[:, None] if x.ndim == 1 else x
    n, n_leads = x.shape
    # Drawn whatever the settings are: turning one change off leaves the others as they were.
    gain = np.exp(config.gain * rng.standard_normal())
    noise = rng.standard_normal(x.shape)
    turns, phase = rng.uniform(0.25, 1.0), rng.uniform(0, 2 * np.pi, n_leads)
    dropped = np.asarray(rng.random(n_leads) < config.lead_dropout)
    stays = rng.integers(n_leads)
    if dropped.all():
        dropped[stays] = False
    count = np.maximum(np.isfinite(x).sum(axis=0), 1)
    mean = np.nansum(x, axis=0) / count
    sigma = np.sqrt(np.nansum((x - mean) ** 2, axis=0) / count)
    slow = np.sin(2 * np.pi * turns * np.arange(n)[:, None] / n + phase)
    x = gain * x + sigma * (config.noise * noise + config.wander * slow)
    return np.where(dropped, np.nan, x).astype(np.float32)
