"""Time series: irregular light curves, and regular series such as ECGs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lom_core import Component, hookimpl
from lom_timeseries.curve_sets import (
    AstromerRecords,
    KeplerFiles,
    LightCurveFiles,
    LightCurveSamples,
)
from lom_timeseries.light_curve_kinds import (
    AstromerMasked,
    AstromerTime,
    LightCurve,
    LightCurveEpochs,
    TimeAndBand,
)
from lom_timeseries.series_kinds import (
    ECG,
    LEADS,
    PTBXL,
    UCR,
    AugmentedSeries,
    ECGFiles,
    ECGSamples,
    Series,
    SeriesPatches,
    UCRFiles,
)

if TYPE_CHECKING:
    import typer


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (
        *(LightCurve, LightCurveEpochs, TimeAndBand, AstromerTime, AstromerMasked),
        *(LightCurveFiles, KeplerFiles, AstromerRecords, LightCurveSamples),
        *(Series, ECG, SeriesPatches),
        *(ECGFiles, PTBXL, UCR, UCRFiles, AugmentedSeries, ECGSamples),
    ):
        register(cls)


@hookimpl
def lom_commands(cli: typer.Typer) -> None:
    from lom_timeseries.cli import prepare_light_curves

    data = next(g.typer_instance for g in cli.registered_groups if g.name == "data")
    assert data is not None, "lom has a group of commands named data"
    data.command("prepare")(prepare_light_curves)


__all__ = [
    "ECG",
    "LEADS",
    "PTBXL",
    "UCR",
    "AstromerMasked",
    "AstromerRecords",
    "AstromerTime",
    "AugmentedSeries",
    "ECGFiles",
    "ECGSamples",
    "KeplerFiles",
    "LightCurve",
    "LightCurveEpochs",
    "LightCurveFiles",
    "LightCurveSamples",
    "Series",
    "SeriesPatches",
    "TimeAndBand",
    "UCRFiles",
]
