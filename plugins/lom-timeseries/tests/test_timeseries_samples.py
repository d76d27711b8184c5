"""The samples that ship: real, disjoint, drawn without a warning, and a run over them."""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lom_timeseries import ECG, ECGSamples, LightCurve, LightCurveSamples, Series

from lom_core import ConfigError, ModalityConfig, ModalityRegistry
from lom_core.config import RunConfig

BANDS = ("g", "r", "i", "z", "cyan", "orange")
CURVES = LightCurve(bands=BANDS)
LEAD = ECG(leads=("value",), patch_size=16, rate=360.0)


def records(dataset: Any, modality: ModalityConfig) -> list[Any]:
    source = dataset.build(ModalityRegistry([modality]))
    return [source[i] for i in range(len(source))]


def test_supernovae_are_other_objects() -> None:
    names, epochs = {}, 0
    for split, n in (("train", 69), ("val", 34)):
        found = records(LightCurveSamples(split=split), CURVES)
        assert len(found) == n
        names[split] = {r["id"].split("#")[1] for r in found}
        assert len(names[split]) == n
        for record in found:
            curve = record["light_curves"]
            tokens = CURVES.tokeniser.build().encode(curve)
            assert 60 <= len(tokens) <= 140 and (np.diff(curve["time"]) >= 0).all()
            assert 10 < curve["value"].min() < curve["value"].max() < 27
            assert (curve["error"] > 0).all() and len(set(curve["band"])) >= 3
            epochs += len(tokens)
    assert not names["train"] & names["val"] and epochs == 5987 + 3190


def test_kepler_is_another_time() -> None:
    modality = LightCurve(unit="e-/s")
    train, val = (
        records(LightCurveSamples(which="kepler", split=s), modality) for s in ("train", "val")
    )
    assert (len(train), len(val)) == (13, 7)
    last = max(r["light_curves"]["time"].max() for r in train)
    first = min(r["light_curves"]["time"].min() for r in val)
    assert last < first
    for record in train + val:
        assert len(modality.tokeniser.build().encode(record["light_curves"])) <= 200
        assert record["light_curves"]["value"].dtype == np.float64


def test_the_ecg_is_another_time() -> None:
    train, val = (records(ECGSamples(split=s), LEAD) for s in ("train", "val"))
    assert (len(train), len(val)) == (11, 2)
    ends = {
        s: [int(r["id"].split("-")[1]) for r in found] for s, found in (("t", train), ("v", val))
    }
    assert max(ends["t"]) + 128 <= 768 <= min(ends["v"]) and max(ends["v"]) + 128 <= 1024
    tokens = LEAD.tokeniser.build().encode(train[0]["ecg"])
    assert tokens.content.dtype == np.int16 and tokens.content.shape == (8, 16)


def test_the_samples_are_small_and_their_licences_ship() -> None:
    folder = resources.files("lom_timeseries") / "samples"
    assert sum(len(f.read_bytes()) for f in folder.iterdir()) < 1_000_000
    told = (Path(__file__).parent.parent / "DATA_LICENSES").read_text(encoding="utf8")
    for file in folder.iterdir():
        assert file.name in told
    for holder in ("Sebastian Gomez", "ekaterinailin", "The PyWavelets Developers"):
        assert holder in told
    assert told.count("THE SOFTWARE IS PROVIDED") == 3


def test_a_modality_that_the_run_lacks_is_an_error() -> None:
    for dataset in (LightCurveSamples(modality="stars"), ECGSamples(modality="stars")):
        with pytest.raises(ConfigError, match="stars"):
            dataset.build(ModalityRegistry([CURVES]))


LEADS_12 = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
PICTURES: list[tuple[ModalityConfig, Any]] = [
    (CURVES, records(LightCurveSamples(), CURVES)[0]["light_curves"]),
    (
        LightCurve(unit="e-/s"),
        records(LightCurveSamples(which="kepler"), LightCurve())[0]["light_curves"],
    ),
    (LightCurve(), {"time": [1.0, 2.0], "value": [np.nan, 3.0]}),
    (LightCurve(), {"time": [1.0], "value": [3.0]}),
    (LEAD, records(ECGSamples(), LEAD)[0]["ecg"]),
    (ECG(), LEADS_12),
    (ECG(), np.where(np.arange(12) == 3, LEADS_12, np.nan)),
    (Series(patch_size=3, unit=""), np.array([1.0, np.nan, 2.0, np.nan])),
]


@pytest.mark.parametrize(("modality", "value"), PICTURES)
def test_pictures_draw_without_warnings(modality: ModalityConfig, value: Any) -> None:
    from matplotlib.figure import Figure

    encoder = modality.tokeniser.build()
    truth = encoder.decode(encoder.encode(value))
    key = "value" if "value" in truth else "values"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = Figure(figsize=(7.5, 2.7), layout="constrained")
        modality.picture(figure, truth, {**truth, key: np.nan_to_num(truth[key] * 1.01)})
        figure.canvas.draw()
    labels = {axis.get_xlabel() for axis in figure.axes}
    assert ("time (days)" if key == "value" else "time (s)") in labels


def run(tmp_path: Path, modalities: Any, dataset: Any, val: Any, **more: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "modalities": modalities,
            "data": {"dataset": dataset, "eval": {"val": val}, "block_size": 160, "batch_size": 2},
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "train": {"max_iters": 2, "eval_iters": 2},
            "system": {
                "out_dir": str(tmp_path / "run"),
                "dtype": "float32",
                "device": "cpu",
                "num_threads": 1,
            },
            **more,
        }
    )


@pytest.mark.parametrize("objective", ["next_token", "astromer_masked"])
def test_light_curves_train_and_report(tmp_path: Path, objective: str) -> None:
    from lom_core.embed import embed_checkpoint, joined
    from lom_core.report import write_report
    from lom_core.train import train

    curves = {"light_curves": {"kind": "light_curve", "bands": BANDS}}
    samples = {"kind": "light_curve_samples"}
    result = train(
        run(tmp_path, curves, samples, {**samples, "split": "val"}, objective={"kind": objective})
    )
    values = result.metrics["val"]
    assert all(np.isfinite(v) for v in values.values() if isinstance(v, float))
    if objective == "next_token":
        assert "last_same_band/light_curves" in values
    page = write_report(tmp_path / "run", None, 2)
    assert "light_curves" in page.read_text(encoding="utf8")
    assert list(page.parent.glob("*.png"))
    table = joined(embed_checkpoint(tmp_path / "run", "val")[0])
    assert np.isfinite(table["embedding"]).all() and len(table["id"]) == len(set(table["id"]))
