"""Data sets: configs only; what reads them is in datasets.py, text.py."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lom_core import ConfigError, Dataset, ModalityRegistry, Source


class GridMask(BaseModel):
    """A field on the data's own grid that says which pixels are bad: those above 0.5.

    Args:
        file, variable: where it stands. Its first time and level are taken.
        invert: those at or below 0.5 are bad.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    variable: str
    invert: bool = False


class ClimateFiles(Dataset, kind="climate_files"):
    """Records cut from NetCDF, Zarr or GRIB files: a base time with the steps around it.

    Several files are put end to end in time. Latitudes may rise or fall, longitudes may run 0 ..
    360 or -180 .. 180; records have them north to south and west to east, from Greenwich where
    they go all round. A cyclic column (the first longitude once more at the end) is left out.

    Args:
        paths: a file, a folder, a glob, a path list (``.txt``) or a list of files.
        variables: names in the files, in the order of the modality's channels; for several
            modalities ``{name: [variables]}``. ``t_850`` is the variable ``t`` at level 850.
        modality: the modality that a plain list of ``variables`` belongs to.
        levels: a variable with levels that is named without one stands for it at each of these.
            Pressures are in hPa, whatever the file has.
        units: variable -> the unit that it must have.
        steps: the record's steps, 0 = the base time; those above 0 lie ahead. A base time is one
            for which all exist.
        step: ``index`` counts the files' own time steps (monthly data), which must be evenly
            spaced; ``hours`` asks for the times that lie exactly so many hours from the base.
        stride: take every n-th base time.
        region: [lat_min, lat_max, lon_min, lon_max]; 350 .. 10 crosses Greenwich.
        period: first and last date, both within: ["1979-01", "2010-12"]. All steps of a record
            lie within it.
        mask: which pixels are bad.
        filter_by_keys: of GRIB only the messages with these keys: ``{typeOfLevel: surface}``.

    Errors:
        DataError: before training starts, for what is wrong with a file as a whole.
        BadRecord: from ``source[i]``, for what cannot be read, or fields without any value.
    """

    paths: str | list[str]
    variables: list[str] | dict[str, list[str]] = Field(min_length=1)
    modality: str = "climate"
    levels: list[float] = []
    units: dict[str, str] = {}
    steps: list[float] = Field(default=[-1, 0, 1], min_length=1)
    step: Literal["index", "hours"] = "index"
    stride: int = Field(default=1, ge=1)
    region: tuple[float, float, float, float] | None = None
    period: tuple[str, str] | None = None
    mask: GridMask | None = None
    filter_by_keys: dict[str, str | int | float] = {}

    @field_validator("steps")
    @classmethod
    def _rising(cls, steps: list[float]) -> list[float]:
        if sorted(set(steps)) != steps:
            raise ConfigError(f"steps must rise and not repeat, got {steps}")
        return steps

    @field_validator("region")
    @classmethod
    def _sane(
        cls, region: tuple[float, float, float, float] | None
    ) -> tuple[float, float, float, float] | None:
        if region is not None and not -90 <= region[0] < region[1] <= 90:
            raise ConfigError(
                f"region is [lat_min, lat_max, lon_min, lon_max] in degrees, got {list(region)}"
            )
        return region

    def by_modality(self) -> dict[str, list[str]]:
        if isinstance(self.variables, dict):
            return self.variables
        return {self.modality: self.variables}

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_climate.datasets import open_files

        if self.step == "index" and any(s != int(s) for s in self.steps):
            raise ConfigError(f"steps {self.steps} of step: index must be whole numbers")
        return open_files(self, registry)


class ClimateText(Dataset, kind="climate_text"):
    """Fields with texts, in the layout of the climate-text guide: ``index.json`` and ``.pt`` files.

    The index is a list of ``{"climate_file": ..., "text": ..., "target": ...}``; each file holds a
    tensor (time, channels, height, width). It says neither where nor when: the grid is laid over
    ``lat`` and ``lon``, the last step is the base time, and the season is unknown (day 0).

    Args:
        path: the folder.
        modality: of the fields.
        texts: modality -> field of the index.
        lat: northern and southern edge in degrees; rows run from the first to the second.
        lon: western and eastern edge in degrees.
        hours: between two steps.

    Errors:
        DataError: no index, or one that is malformed, or names files outside the folder.
        BadRecord: from ``source[i]``, for a file that is missing, damaged or of another shape.
    """

    path: str
    modality: str = "climate"
    texts: dict[str, str] = {"text": "text", "target": "target"}
    lat: tuple[float, float] = (90.0, -90.0)
    lon: tuple[float, float] = (0.0, 360.0)
    hours: float = Field(default=6.0, gt=0)

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_climate.text import open_text

        return open_text(self, registry)


class ClimateSamples(Dataset, kind="climate_samples"):
    """Monthly sea surface temperature of the tropics in K, 2006 to 2010 (see README).

    Args:
        split: ``train`` ends in September 2009, ``val`` is the year after.
        modality: of the run; it has one channel.
        steps: months around the base month.
        sectors: of longitude that the belt is cut into: a record is a base month in one of them.
    """

    split: Literal["train", "val"] = "train"
    modality: str = "sst"
    steps: list[float] = Field(default=[-1, 0, 1], min_length=1)
    sectors: int = Field(default=6, ge=1, le=12)

    def parts(self) -> dict[str, ClimateFiles]:
        """The same as ClimateFiles, one for each sector, by its western edge."""
        folder = Path(str(resources.files("lom_climate"))) / "samples"
        periods = {"train": ("2006-04", "2009-09"), "val": ("2009-10", "2010-09")}
        width = 360 / self.sectors
        return {
            f"{west:03.0f}E": ClimateFiles(
                paths=[str(folder / "tropical_sst.nc")],
                variables=["sst"],
                modality=self.modality,
                units={"sst": "K"},
                steps=self.steps,
                region=(-90, 90, west, west + width - 0.01),
                period=periods[self.split],
            )
            for west in (width * i for i in range(self.sectors))
        }

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import ConcatSource

        sources = {name: part.build(registry) for name, part in self.parts().items()}
        return ConcatSource(sources, dict.fromkeys(sources, 1))
