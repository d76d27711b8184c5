"""Predicted fields are NetCDF files that xarray reads; a day ahead can be asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray

from lom_core import ConfigError, Dataset, ModalityConfig, ModalityRegistry

GRID = ModalityConfig.model_validate(
    {"kind": "climate_grid", "channels": ["t", "q"], "patch_size": 4, "unit": "K"}
)


def test_written_fields_are_read_back(tmp_path: Path) -> None:
    encoder = GRID.tokeniser.build()
    decoded = encoder.decode(encoder.encode(GRID.synth(np.random.default_rng(0))[0]))
    path = GRID.write(decoded, tmp_path / "fields-sample-0")
    with xarray.open_dataset(path) as data:
        assert set(data) == {"t", "q"} and data["t"].dims == ("lead_time", "lat", "lon")
        np.testing.assert_array_equal(data["q"], decoded["values"][:, 1])
        assert data["t"].attrs["units"] == "K" and "units" not in data["q"].attrs
        assert data["lead_time"].values.tolist() == [0, 6]
        assert data["lead_time"].attrs["units"] == "hours"
        hottest = data["t"].isel(lead_time=0).argmax(...)
        assert -90 <= float(data["lat"][hottest["lat"]]) <= 90


def test_a_curvilinear_grid_keeps_its_coordinates(tmp_path: Path) -> None:
    value = {
        "values": np.zeros((1, 2, 4, 4)),
        "lat": np.full((4, 4), 10.0),
        "lon": np.full((4, 4), 20.0),
        "time": [0.0],
    }
    with xarray.open_dataset(GRID.write(value, tmp_path / "x")) as data:
        assert data["lat"].dims == ("y", "x") and float(data["lon"][0, 0]) == 20


def test_a_day_ahead_is_where_the_next_day_would_stand() -> None:
    source = Dataset.model_validate({"kind": "climate_samples", "steps": [0]}).build(
        ModalityRegistry(
            [
                ModalityConfig.model_validate(
                    {"kind": "climate_grid", "name": "sst", "channels": ["sst"]}
                )
            ]
        )
    )
    value = source[0]["sst"]
    config = ModalityConfig.model_validate({"kind": "climate_grid", "channels": ["sst"]})
    encoder = config.tokeniser.build()
    tokens = encoder.encode(value)
    later = encoder.encode(
        {**value, "time": np.asarray(value["time"]) + 30.0, "base": value["time"][0]}
    )
    np.testing.assert_allclose(config.ahead(tokens, 30), later.positions, atol=1e-3)
    with pytest.raises(ConfigError, match="above 0"):
        config.ahead(tokens, 0)
