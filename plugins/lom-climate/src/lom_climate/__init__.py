"""Weather and climate grids: a modality, patches on the sphere, and readers of their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lom_climate.configs import ClimateFiles, ClimateSamples, ClimateText, GridMask
from lom_core import (
    Component,
    ConfigError,
    ModalityConfig,
    Objective,
    Position,
    Scale,
    Tokeniser,
    Tokens,
    hookimpl,
)
from lom_core.roles import Array, Encoder

if TYPE_CHECKING:
    from torch import nn

    from lom_core.batch import Batch, Layout, Row

LAT, LON, HOURS, DAY, HOUR = range(5)  # coordinates of a position


class GridPatches(Tokeniser, kind="grid_patches"):
    """Square patches of fields on a grid of latitudes and longitudes.

    A value is a mapping: ``values`` (t, c, y, x) or (c, y, x), NaN where not observed; ``lat`` and
    ``lon`` in degrees, (y,) and (x,), or both (y, x) on curvilinear grids; ``time`` (t,), hours
    since 1970-01-01 in ``calendar`` (CF name, "standard" when left out); ``base``, the last known
    time, the first step when left out; ``mask``, True = bad, any shape that spreads over values.

    Content is (n, p * p * c) float32, "(ph pw c)"; positions are (n, 5): latitude and longitude
    (0 .. 360) of the patch's centre in degrees, hours since the base time, day of the year (0 ..
    366: months have the lengths of a leap year, so that a month has the same days in every year
    and calendar), hour of the day. Tokens are ordered by time, then north to south, then west to
    east. Weights are cos(latitude), at least 0.01, with mean 1 over the observed values; patches
    without an observed value are left out.

    ``decode(encode(value))`` has the observed values exactly, north first, west to east. Times are
    hours since the base (``calendar: relative``, the year is lost). Coordinates of regular grids
    come back within float32; of other separable grids patch centres do, with equal steps around
    them. Of a curvilinear grid only the centres are known: it decodes to a strip of patches.

    Args:
        patch_size: pixels a side.
        channels: names of the variables, in the order of ``values``.
    """

    patch_size: int = Field(default=4, ge=1)
    channels: tuple[str, ...] = Field(default=("value",), min_length=1)

    @property
    def width(self) -> int:
        return self.patch_size**2 * len(self.channels)

    @property
    def pos_width(self) -> int:
        return 5

    @property
    def n_channels(self) -> int:
        return len(self.channels)

    def build(self) -> Encoder:
        from lom_climate.tokeniser import GridEncoder

        return GridEncoder(self)


class SphereTime(Position, kind="sphere_time"):
    """Place on the sphere, season, time of day and time since the base, as Fourier features.

    The unit vector of the place through sines at wavelengths 4, 2, 1 ... sphere radii; day of the
    year in 4 harmonics, hour of the day in 2, hours since the base at log-spaced periods; then a
    linear map. Positions are those of ``grid_patches``.

    Args:
        n_sphere: wavelengths; the last one is 4 / 2^(n_sphere - 1) radii.
        n_hours: periods from ``min_hours`` to ``max_hours`` (6 hours .. 30 years).
    """

    n_sphere: int = Field(default=6, ge=1, le=16)
    n_hours: int = Field(default=12, ge=1)
    min_hours: float = Field(default=6.0, gt=0)
    max_hours: float = Field(default=30 * 8766.0, gt=0)

    def check(self, positions: Array) -> str:
        if positions.shape[1] != 5:
            return "positions that are not latitude, longitude, hours, day of year, hour of day"
        if len(positions) and np.abs(positions[:, LAT]).max() > 90:
            return "a latitude beyond 90 degrees"
        return ""

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_climate.positions import SphereTimePosition

        if pos_width != 5:
            raise ConfigError(
                f"position 'sphere_time' needs the 5 coordinates of grid_patches, not {pos_width}"
            )
        return SphereTimePosition(n_embd, self)


class Climatology(Scale, kind="climatology"):
    """(x - climatology of the place and month) / spread of the anomalies there.

    Places are bins of latitude and longitude, taken from the patch's centre. A (place, month) that
    was not seen falls back to the place's mean, and a place to the channel's.

    Args:
        degrees: side of a bin.
        months: bins of the year, which divide 12: 12 months, 4 seasons, 1 none.
    """

    degrees: float = Field(default=5.0, gt=0, le=180)
    months: Literal[1, 2, 3, 4, 6, 12] = 12

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_climate.scaling import ClimatologyScale

        return ClimatologyScale(width, n_channels, self.degrees, self.months)


class ClimateGrid(ModalityConfig, kind="climate_grid"):
    """Fields on a grid, as anomalies from their climatology, predicted with a Gaussian.

    Args:
        channels: names of the variables.
        patch_size: pixels a side.
        unit: of the first channel, for pictures.
    """

    example: ClassVar[dict[str, Any]] = {"channels": ("temperature",)}

    name: str = "climate"
    channels: tuple[str, ...] = Field(min_length=1)
    patch_size: int = Field(default=4, ge=1)
    unit: str = ""

    def defaults(self) -> dict[str, Any]:
        return {
            "tokeniser": {
                "kind": "grid_patches",
                "patch_size": self.patch_size,
                "channels": self.channels,
            },
            "scale": "climatology",
            "position": "sphere_time",
            "head": "gaussian",
        }

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        """Persistence: the same patch at the time before, or at the base time for later times."""
        from lom_climate.tokeniser import persistence

        return {"persistence": persistence(tokens)}

    def synth(self, rng: np.random.Generator) -> tuple[dict[str, Any], float]:
        """A warm spot on a globe that is cold at the poles, at two times; its strength in K."""
        from lom_climate.tokeniser import made_up

        return made_up(rng, 4 * self.patch_size, 8 * self.patch_size, len(self.channels))

    def ahead(self, tokens: Tokens, amount: float) -> Array:
        """The places of the last time, ``amount`` hours later."""
        from lom_climate.writing import hours_ahead

        return hours_ahead(tokens, amount)

    def write(self, value: Any, path: Path) -> Path:
        """``PATH.nc``: a variable a channel over lead_time, lat and lon."""
        from lom_climate.writing import write_fields

        return write_fields(value, path, self.channels, self.unit)

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        from lom_climate.pictures import draw_maps

        draw_maps(figure, truth, predicted, self.channels[0], self.unit)


class Forecast(Objective, kind="forecast"):
    """All tokens after the base time are hidden and asked for at once; everybody sees everybody.

    Args:
        modalities: those that are asked for. Tokens of others are shown, never asked.
        coordinate: of their positions, which is above 0 for what lies ahead (hours of
            ``grid_patches``).
    """

    in_turn: ClassVar[bool] = False

    modalities: tuple[str, ...] = Field(min_length=1)
    coordinate: int = Field(default=HOURS, ge=0)

    def asks_for(self, name: str) -> bool:
        return name in self.modalities

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_climate.objectives import forecast

        for name in self.modalities:
            if name not in layouts:
                raise ConfigError(
                    f"objective forecast: unknown modality '{name}'; this run has: "
                    f"{', '.join(layouts)}"
                )
            if self.coordinate >= layouts[name].pos_width:
                raise ConfigError(
                    f"objective forecast: positions of '{name}' have {layouts[name].pos_width} "
                    f"coordinates, coordinate={self.coordinate} is none of them"
                )
        return forecast(rows, layouts, self.modalities, self.coordinate)


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (
        *(ClimateGrid, GridPatches, SphereTime, Climatology, Forecast),
        *(ClimateFiles, ClimateText, ClimateSamples),
    ):
        register(cls)


__all__ = [
    "ClimateFiles",
    "ClimateGrid",
    "ClimateSamples",
    "ClimateText",
    "Climatology",
    "Forecast",
    "GridMask",
    "GridPatches",
    "SphereTime",
]
