"""Configs of regularly sampled series, ECGs first; what they build is in ecg.py, ucr.py ..."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator

from lom_core import (
    ConfigError,
    Dataset,
    FileDataset,
    ModalityConfig,
    ModalityRegistry,
    Source,
    Tokens,
)
from lom_core import Tokeniser as _Tokeniser
from lom_core.roles import Array, Encoder

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")


def _differ(leads: tuple[str, ...]) -> tuple[str, ...]:
    if len({lead.upper() for lead in leads}) < len(leads):
        raise ConfigError(f"leads must differ (case does not count): {', '.join(leads)}")
    return leads


class SeriesPatches(_Tokeniser, kind="series_patches"):
    """Patches over time, per lead or across leads.

    A series is an array (T,) or (T, leads), or ``{"values": ..., "rate": Hz, "leads": names,
    "mask": True = bad, "start": seconds}``. With names, leads are matched by name (case does not
    count), those that ``leads`` does not list are not read, and those that the series lacks were
    not observed. NaN, masked values and what fills the last patch have weight 0; patches without
    any observed value are left out. ``decode`` gives ``{"values": (T, leads), "rate", "start"}``
    from the first patch to the last, exact in float32 or in the stored integers, NaN where not
    observed.

    Per lead a token is (patch_size,) at (seconds, lead number), all leads of a time before the
    next time; across leads it is (patch_size * leads), leads fastest, at (seconds,). Seconds are
    those of the patch's first sample, in float32.

    Args:
        patch_size: samples of a patch.
        leads: names of the channels.
        rate: samples a second; a series that says another is a bad record.
        across: one token holds all leads.
    """

    patch_size: int = Field(default=20, ge=1)
    leads: tuple[str, ...] = Field(default=("value",), min_length=1)
    rate: float = Field(default=1.0, gt=0)
    across: bool = False

    _leads = field_validator("leads")(_differ)

    @property
    def width(self) -> int:
        return self.patch_size * (len(self.leads) if self.across else 1)

    @property
    def n_channels(self) -> int:
        return len(self.leads) if self.across else 1

    @property
    def pos_width(self) -> int:
        return 1 if self.across else 2

    def build(self) -> Encoder:
        from lom_timeseries.tokeniser import PatchEncoder

        return PatchEncoder(self)


class Series(ModalityConfig, kind="series"):
    """Regularly sampled series of one or more leads as patches, z-scored by the run.

    Args:
        patch_size, leads, rate, across: of :class:`SeriesPatches`.
        unit: of the values, for pictures.
    """

    name: str = "series"
    patch_size: int = Field(default=20, ge=1)
    leads: tuple[str, ...] = Field(default=("value",), min_length=1)
    rate: float = Field(default=1.0, gt=0)
    across: bool = False
    unit: str = ""

    def defaults(self) -> dict[str, Any]:
        patch = self.patch_size / self.rate
        place = {"n_frequencies": 16, "min_period": 2 * patch, "max_period": 4096 * patch}
        lead = {} if self.across else {"n_bands": len(self.leads)}
        return {
            "tokeniser": {
                "kind": "series_patches",
                "patch_size": self.patch_size,
                "leads": self.leads,
                "rate": self.rate,
                "across": self.across,
            },
            "scale": "zscore",
            "position": {"kind": "time_and_band", **place, **lead},
            "head": "huber",
        }

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        """``last_value``: the last sample of the lead that was observed before the patch."""
        from lom_timeseries.predictors import last_of_group, last_of_leads

        if self.across:
            return {"last_value": last_of_leads(tokens, len(self.leads))}
        return {"last_value": last_of_group(tokens, tokens.positions[:, 1])}

    def synth(self, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
        """A row of spikes in noise, alike in all leads; their height."""
        n = 12 * self.patch_size
        height = float(rng.uniform(1, 3))
        at = np.arange(n) / self.patch_size
        phase = (at - rng.uniform(0, 2)) % 2 - 1
        spikes = height * np.exp(-0.5 * (phase / 0.1) ** 2)
        values = spikes[:, None] + rng.normal(0, 0.05, (n, len(self.leads)))
        return {"values": values.astype(np.float32), "rate": self.rate}, height

    def ahead(self, tokens: Tokens, amount: float) -> Array:
        """The patches of the next ``amount`` seconds."""
        from lom_timeseries.writing import patches_ahead

        return patches_ahead(tokens, amount, self.patch_size / self.rate, self.across)

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.csv``: seconds and a column a lead."""
        from lom_timeseries.writing import write_series

        return write_series(value, path, self.leads)

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_timeseries.pictures import draw_series

        draw_series(figure, truth, predicted, self.leads, self.unit)


class ECG(Series, kind="ecg"):
    """``series`` with what a 12-lead ECG of PTB-XL at 100 Hz needs: patches of 0.2 s."""

    name: str = "ecg"
    leads: tuple[str, ...] = Field(default=LEADS, min_length=1)
    rate: float = Field(default=100.0, gt=0)
    unit: str = "mV"


class ECGFiles(FileDataset, kind="ecg_files"):
    """Records of one or more leads: WFDB (the ``.hea`` file), CSV and ``.npy``.

    WFDB records of signal format 16 are read by this plugin, other formats by the package wfdb
    (``pip install lom-timeseries[wfdb]``); values are physical, NaN where the record says invalid.
    A CSV file has a column a lead under a line of names. ``.npy`` holds (T,) or (T, leads).

    Args:
        baseline_window: seconds of a moving mean that is subtracted; 0 keeps the baseline.
        rate: samples a second of CSV and ``.npy``, which do not tell; needed for a baseline.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".hea", ".csv", ".npy")

    modality: str = "ecg"
    baseline_window: float = Field(default=0.0, ge=0)
    rate: float | None = Field(default=None, gt=0)

    def files(self, path: Path) -> list[Path]:
        from lom_timeseries.ecg import record_files

        return record_files(path)

    def read(self, path: Path, row: int) -> Any:
        from lom_timeseries.ecg import read_ecg

        return read_ecg(path, self.rate, self.baseline_window)


class PTBXL(Dataset, kind="ptbxl"):
    """PTB-XL (Wagner et al. 2020) as it is published: ptbxl_database.csv and the records below.

    Args:
        root: the folder of ptbxl_database.csv.
        split: folds 1 - 8 are ``train``, 9 is ``val``, 10 is ``test``, as its authors recommend.
        folds: these instead of the split's.
        high_resolution: 500 Hz (filename_hr), not 100 Hz (filename_lr).
        targets: modality -> what an ECG is labelled with: ``scp:NORM`` (1 if the statement is
            in scp_codes, else 0), ``superclass:MI`` (1 if one of that diagnostic class of
            scp_statements.csv is), or a column such as ``age``; an empty cell was not observed.
        min_likelihood: statements below it (0 .. 100) do not count. PTB-XL writes 0 where the
            likelihood is unknown, so the default counts all.
        baseline_window: as of ``ecg_files``.
    """

    root: str
    split: Literal["train", "val", "test"] = "train"
    folds: tuple[int, ...] = ()
    high_resolution: bool = False
    targets: dict[str, str] = {}
    min_likelihood: float = Field(default=0.0, ge=0, le=100)
    baseline_window: float = Field(default=0.0, ge=0)
    modality: str = "ecg"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.ptbxl import open_ptbxl

        for name in (self.modality, *self.targets):
            registry.get_config(name)
        return open_ptbxl(self)


class UCRFiles(Dataset, kind="ucr_files"):
    """The UCR and UEA archives' ``.ts`` and ``.tsv`` files: a series a line.

    Args:
        paths: a file, a folder, a glob, or a list of files.
        label_modality: under which records hold the class, a string; empty leaves it out.
    """

    paths: str | list[str]
    modality: str = "series"
    label_modality: str = ""

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.ucr import open_ucr

        for name in filter(None, (self.modality, self.label_modality)):
            registry.get_config(name)
        return open_ucr(self)


class UCR(Dataset, kind="ucr"):
    """A set of the UCR / UEA archive by its name, split as published: ``{name: GunPoint}``.

    The archive's validation split does not exist: it is taken from its training series, the same
    share of each class. Splits of one run need the same ``val_fraction`` and ``seed``.

    Args:
        name: of the set, as its files begin: ``GunPoint_TRAIN.ts`` (or ``.tsv``).
        split: ``train``, ``val``, or ``test``: the whole of the published test series.
        folder: where the archive is unpacked, with a folder a set or without; empty: the sets
            that the package aeon ships (``pip install lom-timeseries[aeon]``).
        val_fraction: of the training series; 0 keeps all of them for training.
        label_modality: under which records hold the class, a string, or the number where the set
            is one for regression; empty leaves it out.
    """

    name: str
    split: Literal["train", "val", "test"] = "train"
    folder: str = ""
    val_fraction: float = Field(default=0.2, ge=0, lt=1)
    seed: int = 0
    modality: str = "series"
    label_modality: str = ""

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.ucr import open_named

        for name in filter(None, (self.modality, self.label_modality)):
            registry.get_config(name)
        return open_named(self)


class AugmentedSeries(Dataset, kind="augmented_series"):
    """The series of another data set, and ``copies`` of each, changed by ``seed``.

    Records 0 .. n-1 are the originals. What each change draws depends on the seed and the record's
    number alone, so that a run can be repeated and resumed.

    Args:
        of: the data set.
        gain: standard deviation of the logarithm of a factor for the whole record.
        noise: standard deviation of white noise, as a share of each lead's own.
        wander: amplitude of a slow sine, one period or less over the record, as a share of each
            lead's standard deviation.
        lead_dropout: chance of each lead to count as not observed; one always stays.
    """

    of: Dataset
    modality: str = "ecg"
    copies: int = Field(default=1, ge=0)
    seed: int = 0
    gain: float = Field(default=0.1, ge=0)
    noise: float = Field(default=0.05, ge=0)
    wander: float = Field(default=0.1, ge=0)
    lead_dropout: float = Field(default=0.0, ge=0, lt=1)

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.augment import AugmentedSource

        registry.get_config(self.modality)
        return AugmentedSource(self, self.of.build(registry))


class ECGSamples(Dataset, kind="ecg_samples"):
    """Pieces of 128 samples of one real ECG lead of 1024 samples (README.md).

    Its sampling rate is not documented: the records say none, so the modality's ``rate`` counts.

    Args:
        split: ``train`` is the first 768 samples (11 overlapping pieces), ``val`` the last 256.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "ecg"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_timeseries.datasets import sample_ecg

        registry.get_config(self.modality)
        return sample_ecg(self.split, self.modality)
