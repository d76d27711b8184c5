"""Predicted curves and series are files of the field; what lies ahead of them can be asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.table import Table

from lom_core import ConfigError, Dataset, ModalityConfig, ModalityRegistry, Tokens

CURVE = ModalityConfig.model_validate({"kind": "light_curve", "bands": ["g", "r"]})
SERIES = ModalityConfig.model_validate(
    {"kind": "series", "leads": ["I", "II"], "rate": 50, "patch_size": 10}
)


def synth(config: ModalityConfig) -> Tokens:
    return config.tokeniser.build().encode(config.synth(np.random.default_rng(0))[0])


def test_a_written_light_curve_is_read_back(tmp_path: Path) -> None:
    decoded = CURVE.tokeniser.build().decode(synth(CURVE))
    path = CURVE.write(decoded, tmp_path / "curve-q0.5")
    table = Table.read(path)
    assert table["time"].unit == units.d and table["value"].unit == units.mag
    assert table["band"].tolist() == decoded["band"].tolist()
    np.testing.assert_allclose(table["value"], decoded["value"])
    dataset = Dataset.model_validate({"kind": "light_curve_files", "paths": [str(path)]})
    again = dataset.build(ModalityRegistry([CURVE]))[0]["light_curves"]
    np.testing.assert_allclose(again["value"], decoded["value"])


def test_a_written_series_is_read_back(tmp_path: Path) -> None:
    decoded = SERIES.tokeniser.build().decode(synth(SERIES))
    path = SERIES.write(decoded, tmp_path / "series-point")
    columns = {"kind": "ecg_files", "paths": [str(path)], "modality": "series", "rate": 50}
    again = Dataset.model_validate(columns).build(ModalityRegistry([SERIES]))[0]["series"]
    np.testing.assert_allclose(
        SERIES.tokeniser.build().encode(again).content, synth(SERIES).content, rtol=1e-5
    )


def test_the_next_month_of_a_light_curve() -> None:
    tokens = synth(CURVE)
    found = CURVE.ahead(tokens, 30)
    last = tokens.positions[:, 0].max()
    assert found.shape[1] == tokens.positions.shape[1]
    assert found[:, 0].min() > last and found[:, 0].max() <= last + 30 + 1e-3
    assert set(found[:, 1]) == {0, 1} and (np.diff(found[:, 0]) >= 0).all()
    with pytest.raises(ConfigError, match="days apart; ask for more"):
        CURVE.ahead(tokens, 0.5)


def test_the_next_second_of_a_series_goes_on_where_it_ends() -> None:
    tokens = synth(SERIES)
    found = SERIES.ahead(tokens, 1.0)  # five patches of 0.2 s, two leads
    value = {"values": np.zeros((len(tokens) // 2 * 10 + 50, 2), np.float32), "rate": 50}
    whole = SERIES.tokeniser.build().encode(value)
    np.testing.assert_allclose(found, whole.positions[len(tokens) :], rtol=1e-6)
