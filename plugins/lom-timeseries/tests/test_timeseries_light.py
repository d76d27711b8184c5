"""The plugin is found, imports nothing heavy, and its configs travel."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lom_timeseries import ECG, LightCurve, Series

from lom_core import Dataset, Head, ModalityConfig, Objective, Position, Tokeniser, Tokens
from lom_core.component import KINDS, Component
from lom_core.config import RunConfig

HEAVY = ("torch", "astropy", "matplotlib", "scipy", "pandas", "pyarrow", "wfdb", "typer")
COMPONENTS: list[tuple[type[Component], dict[str, Any]]] = [
    (
        ModalityConfig,
        {"kind": "light_curve", "name": "a", "bands": ["g", "r"], "normalise": "minmax"},
    ),
    (ModalityConfig, {"kind": "series", "name": "b", "leads": ["x", "y"], "across": True}),
    (ModalityConfig, {"kind": "ecg", "name": "c", "rate": 500}),
    (Tokeniser, {"kind": "light_curve_epochs", "weight_clip": 3}),
    (Tokeniser, {"kind": "series_patches", "patch_size": 7}),
    (Position, {"kind": "time_and_band", "n_bands": 3}),
    (Position, {"kind": "astromer_time", "n_bands": 1}),
    (Objective, {"kind": "astromer_masked", "probed": 0.3}),
    (
        Dataset,
        {"kind": "light_curve_files", "paths": "x", "where": {"a": ["b"]}, "targets": {"k": "c"}},
    ),
    (Dataset, {"kind": "kepler_files", "paths": ["x"], "flux": "sap", "window": 9}),
    (Dataset, {"kind": "astromer_records", "root": "x", "label_modality": "k"}),
    (Dataset, {"kind": "light_curve_samples", "which": "kepler"}),
    (Dataset, {"kind": "ecg_files", "paths": "x", "baseline_window": 0.5}),
    (Dataset, {"kind": "ptbxl", "root": "x", "targets": {"k": "scp:NORM"}}),
    (Dataset, {"kind": "ucr_files", "paths": "x"}),
    (Dataset, {"kind": "ucr", "name": "GunPoint", "split": "val", "seed": 2}),
    (Dataset, {"kind": "augmented_series", "of": {"kind": "ecg_samples"}, "seed": 4}),
    (Dataset, {"kind": "ecg_samples", "split": "val"}),
]


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, lom_timeseries as t; t.LightCurve(); t.ECG(); "
        f"print(sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(("role", "fields"), COMPONENTS, ids=lambda x: str(x)[:40])
def test_configs_travel(role: type[Component], fields: dict[str, Any]) -> None:
    config = role.model_validate(fields)
    assert (role.role, fields["kind"], "lom-timeseries") in KINDS.items()
    assert role.model_validate(json.loads(config.model_dump_json())) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.model_dump()["kind"] == fields["kind"]


def test_every_kind_of_the_plugin_is_tried_above() -> None:
    ours = {(role, kind) for role, kind, owner in KINDS.items() if owner == "lom-timeseries"}
    assert ours == {(role.role, fields["kind"]) for role, fields in COMPONENTS}


def test_presets() -> None:
    curve = LightCurve(bands=("g", "r"), normalise="robust")
    assert (curve.input_size, curve.pos_input_size) == (1, 4)
    assert curve.tokeniser.bound > 0 == LightCurve().tokeniser.bound
    assert isinstance(curve.head, Head) and curve.head.kind == "gaussian"
    ecg = ECG()
    assert (ecg.input_size, ecg.pos_input_size, ecg.tokeniser.n_channels) == (20, 2, 1)
    across = ECG(across=True)
    assert (across.input_size, across.pos_input_size, across.tokeniser.n_channels) == (240, 1, 12)
    period = ecg.position.model_dump()
    assert (period["min_period"], period["n_bands"]) == (pytest.approx(0.4), 12)


def test_the_latest_value_of_the_same_band_is_a_predictor() -> None:
    content = np.array([[10.0], [20], [11], [99], [21], [12]], np.float32)
    band = np.array([0, 1, 0, 0, 1, 0])
    positions = np.stack([np.arange(6), band], axis=1).astype(np.float32)
    weights = np.array([[1], [1], [1], [0], [1], [1]], np.float32)
    guess = LightCurve(bands=("g", "r")).predictors(Tokens(content, positions, weights))
    assert list(guess) == ["last_same_band"]
    expected = [np.nan, np.nan, 10, 11, 20, 11]  # what was not observed (99) is never a guess
    np.testing.assert_array_equal(guess["last_same_band"][:, 0], expected)
    alone = LightCurve().predictors(Tokens(content[:3], positions[:3, :1]))["last_same_band"]
    np.testing.assert_array_equal(alone[:, 0], [np.nan, 10, 20])


def test_the_last_value_of_a_lead_is_a_predictor() -> None:
    values = np.array([[1, 10], [2, 20], [3, 30], [4, np.nan], [5, 50], [6, 60]], np.float32)
    per_lead = Series(patch_size=2, leads=("a", "b"))
    guess = per_lead.predictors(per_lead.tokeniser.build().encode(values))["last_value"]
    nan = np.nan
    expected = [[nan, nan], [nan, nan], [2, 2], [20, 20], [4, 4], [30, 30]]
    np.testing.assert_array_equal(guess, expected)
    across = Series(patch_size=2, leads=("a", "b"), across=True)
    guess = across.predictors(across.tokeniser.build().encode(values))["last_value"]
    np.testing.assert_array_equal(guess, [[nan] * 4, [2, 20, 2, 20], [4, 30, 4, 30]])


@pytest.mark.parametrize("config", [LightCurve(bands=("g", "r")), Series(), ECG(across=True)])
def test_made_up_observations_hold_their_number(config: ModalityConfig) -> None:
    one, number = config.synth(np.random.default_rng(1))
    again, same = config.synth(np.random.default_rng(1))
    assert number == same
    tokens = config.tokeniser.build().encode(one)
    np.testing.assert_array_equal(tokens.content, config.tokeniser.build().encode(again).content)
    brightest = tokens.content.min() if config.kind == "light_curve" else tokens.content.max()
    assert abs(brightest - number) < 0.6


def test_the_run_files_of_the_readme_are_valid() -> None:
    page = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf8")
    blocks = re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    for block in blocks:
        RunConfig.model_validate(yaml.safe_load(block))


def test_the_readme_names_every_kind() -> None:
    page = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf8")
    for _, fields in COMPONENTS:
        assert f"`{fields['kind']}`" in page
