"""Scale, position, objective, texts, samples, pictures, and a run from data to report."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lom_climate import ClimateGrid, ClimateText, Climatology, Forecast, SphereTime
from matplotlib.figure import Figure

from lom_core import (
    BadRecord,
    ConfigError,
    DataError,
    Dataset,
    ModalityConfig,
    ModalityRegistry,
    RunConfig,
)
from lom_core.builtin import Scalar
from lom_core.data import Reader

SST = ClimateGrid(name="sst", channels=("sst",), patch_size=6, unit="K")

LIGHT = """
import sys
import lom_climate
from lom_core import Dataset, ModalityConfig, Objective
ModalityConfig.model_validate({"kind": "climate_grid", "channels": ["a"]})
Dataset.model_validate({"kind": "climate_samples"})
Objective.model_validate({"kind": "forecast", "modalities": ["a"]})
heavy = ("torch", "xarray", "netCDF4", "cftime", "matplotlib", "einops", "pandas", "scipy")
print(*[name for name in heavy if name in sys.modules])
"""


def test_configs_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_config_round_trips() -> None:
    assert ModalityConfig.model_validate(SST.model_dump()) == SST
    assert ModalityConfig.model_validate_json(SST.model_dump_json()) == SST
    assert pickle.loads(pickle.dumps(SST)) == SST
    assert (SST.input_size, SST.pos_input_size, SST.tokeniser.n_channels) == (36, 5, 1)


def at(lat: Any, lon: Any, day: Any) -> np.ndarray:
    lat, lon, day = np.broadcast_arrays(lat, lon, day)
    zero = np.zeros_like(lat)
    return np.stack([lat, lon, zero, day, zero], axis=1).astype(np.float32)


def fitted() -> tuple[Any, np.ndarray, np.ndarray]:
    """A scale of two channels on two places and two months: mean 10 place + month, and 100 more."""
    rng = np.random.default_rng(0)
    place, month = rng.integers(0, 2, 400), rng.integers(0, 2, 400)
    mean = (10.0 * place + month)[:, None] + np.tile([0.0, 100.0], 4)
    content = (mean + (1 + place[:, None]) * rng.normal(0, 1, (400, 8))).astype(np.float32)
    positions = at(2.0 + 50 * place, 359.0, np.where(month, 31.0, 30.9))
    scale = Climatology().build(8, 2)
    scale.fit(content, np.ones((400, 1), np.float32), positions)
    return scale, content, positions


def test_climatology_knows_place_month_and_channel() -> None:
    scale, content, positions = fitted()
    y = scale(torch.from_numpy(content), torch.from_numpy(positions))
    for lat in (2.0, 52.0):
        for day in (30.9, 31.0):
            here = np.isclose(positions[:, 0], lat) & np.isclose(positions[:, 3], day)
            part = y[torch.from_numpy(here)]
            assert part.mean().abs() < 1e-4 and abs(float(part.std()) - 1) < 0.06
    back = scale.inverse(y, torch.from_numpy(positions)).numpy()
    assert np.allclose(back, content, atol=1e-4)
    assert scale.mean_name == "climatology" and not scale.mean.any()


def test_climatology_falls_back() -> None:
    scale, content, _ = fitted()
    # Another month of a place that was seen: its mean; another place: the channel's.
    zero = scale.inverse(torch.zeros(2, 8), torch.from_numpy(at([2.0, -80.0], 359.0, 200.0)))
    assert np.allclose(zero[0, ::2], 0.5, atol=0.3)
    assert np.allclose(zero[1, ::2], content[:, ::2].mean(), atol=0.01)
    assert np.allclose(zero[1, 1::2], content[:, 1::2].mean(), atol=0.01)
    with pytest.raises(DataError, match="no observed value"):
        scale.fit(content, np.zeros((400, 1)), at(np.zeros(400), 0.0, 0.0))


def test_climatology_ignores_what_was_not_observed_and_is_kept() -> None:
    scale, content, positions = fitted()
    weights = np.ones_like(content)
    weights[::3, 2] = 0
    clean, spoilt = Climatology().build(8, 2), Climatology().build(8, 2)
    clean.fit(content, weights, positions)
    spoilt.fit(np.where(weights > 0, content, 1e9), weights, positions)
    assert torch.equal(clean.climatology, spoilt.climatology)
    again = Climatology().build(8, 2)
    again.load_state_dict(scale.state_dict())
    x, p = torch.from_numpy(content), torch.from_numpy(positions)
    assert torch.equal(again(x, p), scale(x, p)) and not torch.equal(clean(x, p), scale(x, p))


def test_positions_meet_at_greenwich_and_differ_elsewhere() -> None:
    torch.manual_seed(0)
    place = SphereTime().build(32, 5)
    same = place(torch.from_numpy(at(10.0, [0.0, 360.0], 50.0)))
    assert torch.allclose(same[0], same[1], atol=1e-5)
    different = place(torch.from_numpy(at([10.0, 11, 10, 10], [0.0, 0, 1, 0], [50.0, 50, 50, 80])))
    assert torch.cdist(different, different).fill_diagonal_(1).min() > 1e-2
    with pytest.raises(ConfigError, match="5 coordinates"):
        SphereTime().build(32, 2)
    assert "latitude" in SphereTime().check(at(np.array([91.0]), 0.0, 0.0))


REGISTRY = ModalityRegistry([SST, Scalar(name="index")])


def test_forecast_asks_for_what_lies_ahead_and_shows_the_rest() -> None:
    from lom_core.batch import pack_row
    from lom_core.model import layouts

    source = Dataset.model_validate("climate_samples").build(REGISTRY)
    records = [{**source[i], "index": 1.0} for i in range(2)]
    from lom_core.sources import ListSource

    reader = Reader(ListSource(records), REGISTRY, 1000)
    rows = [pack_row([reader.read(i, None) for i in range(2)], 600, REGISTRY.names())]
    batch = Forecast(modalities=("sst",)).prepare(rows, layouts(REGISTRY))
    span, other = batch.spans["sst"], batch.spans["index"]
    ahead = span.positions[:, 2] > 0
    assert ahead.any() and torch.equal(span.asked, ahead.nonzero().flatten())
    assert torch.equal(span.shown, (~ahead).nonzero().flatten())
    assert torch.equal(span.ask_slots, span.slots[span.asked])
    assert len(other.shown) == 2 and not len(other.asked)
    assert torch.equal(batch.given, batch.starts.diff().to(torch.int32))
    for wrong in ({"modalities": ("sea",)}, {"modalities": ("sst",), "coordinate": 7}):
        with pytest.raises(ConfigError, match="objective forecast"):
            Forecast.model_validate(wrong).prepare(rows, layouts(REGISTRY))


@pytest.mark.parametrize(("split", "months"), [("train", 40), ("val", 10)])
def test_samples(split: str, months: int) -> None:
    config = Dataset.model_validate({"kind": "climate_samples", "split": split})
    source = pickle.loads(pickle.dumps(config.build(REGISTRY)))
    assert len(source) == 6 * months
    ids = [source[i]["id"] for i in range(len(source))]
    assert len(set(ids)) == len(ids)
    dates = sorted(i.split("/")[1] for i in ids)
    assert (dates[0] >= "2009-10") if split == "val" else (dates[-1] < "2009-09")
    value = source[7]["sst"]
    assert value["values"].shape == (3, 1, 18, 36)
    assert 285 < np.nanmin(value["values"]) < np.nanmax(value["values"]) < 306


def test_pictures_draw(tmp_path: Path) -> None:
    value = Dataset.model_validate({"kind": "climate_samples", "sectors": 1}).build(REGISTRY)[3][
        "sst"
    ]
    coder = SST.tokeniser.build()
    truth = coder.decode(coder.encode(value))
    other = ClimateGrid(channels=("sst",), patch_size=6)
    square = {**value, "values": value["values"][..., :18], "lon": value["lon"][:18]}
    y, x = np.mgrid[:18, :18]
    bent = {**square, "lat": 40 + y + 0.2 * x, "lon": x - 0.2 * y}
    for config, given in ((SST, truth), (SST, square), (other, bent)):
        shown = given if given is truth else coder.decode(coder.encode(given))
        guess = {**shown, "values": shown["values"] + 0.3}
        figure = Figure(figsize=(7.5, 2.7), layout="constrained")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            config.picture(figure, shown, guess)
            figure.savefig(tmp_path / "a.png")
        assert len(figure.axes) == 3 and "sst" in figure.axes[0].get_title(loc="left")


# ------------------------------------------------------------------------------- climate_text

WORDS = ModalityRegistry(
    [ClimateGrid(channels=("a", "b"), patch_size=2), Scalar(name="text"), Scalar(name="target")]
)


def folder(path: Path, **entry: Any) -> Path:
    torch.save(torch.arange(2 * 2 * 4 * 8.0).reshape(2, 2, 4, 8), path / "climate_00001.pt")
    whole = {"climate_file": "climate_00001.pt", "text": "Where?", "target": "There.", **entry}
    (path / "index.json").write_text(json.dumps([whole]))
    return path


def test_climate_text(tmp_path: Path) -> None:
    source = ClimateText(path=str(folder(tmp_path)), lat=(40, 0), lon=(350, 390)).build(WORDS)
    record = pickle.loads(pickle.dumps(source))[0]
    assert (record["text"], record["target"], record["id"]) == (
        "Where?",
        "There.",
        "climate_00001.pt",
    )
    tokens = WORDS.get_config("climate").tokeniser.build().encode(record["climate"])
    assert tokens.positions[0].tolist() == [30, 355, -6, 0, 0] and len(tokens) == 2 * 8
    assert tokens.content[0].tolist() == [0, 32, 1, 33, 8, 40, 9, 41]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "expected a list"),
        ("[]", "expected a list"),
        ("[3]", "entry 0 is a int"),
        ('[{"climate_file": "a.pt", "text": "x"}]', "'target' is missing"),
        ('[{"climate_file": "a.pt", "text": 3, "target": "x"}]', "'text' is a int"),
        ('[{"climate_file": "../a.pt", "text": "x", "target": "x"}]', "leaves the folder"),
        ('[{"climate_file": "/a.pt", "text": "x", "target": "x"}]', "leaves the folder"),
        ('[{"climate_file": "C:\\\\a.pt", "text": "x", "target": "x"}]', "leaves the folder"),
    ],
)
def test_a_malformed_index(tmp_path: Path, index: str, told: str) -> None:
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(DataError, match=told):
        ClimateText(path=str(tmp_path)).build(WORDS)
    with pytest.raises(DataError, match="no such file"):
        ClimateText(path=str(tmp_path / "away")).build(WORDS)


class Harm:
    def __reduce__(self) -> Any:
        return print, ("unpickled",)


def test_bad_tensors(tmp_path: Path, capsys: Any) -> None:
    source = ClimateText(path=str(folder(tmp_path))).build(WORDS)
    path = tmp_path / "climate_00001.pt"
    whole = path.read_bytes()
    for content, reason in (
        (torch.zeros(2, 3, 4, 8), "wrong shape"),
        (torch.zeros(2, 4), "wrong shape"),
        (torch.full((2, 2, 4, 8), torch.nan), "no observed value"),
        ([1, 2], "no tensor"),
        (torch.zeros(2, 2, 4, 8, dtype=torch.complex64), "no dense tensor"),
        (Harm(), "cannot be read"),
    ):
        torch.save(content, path)
        with pytest.raises(BadRecord, match=reason):
            source[0]
    for data, reason in ((b"", "empty"), (whole[:300], "cannot be read"), (b"x" * 99, "cannot be")):
        path.write_bytes(data)
        with pytest.raises(BadRecord, match=reason):
            source[0]
    path.unlink()
    with pytest.raises(BadRecord, match=r"climate_00001.pt: no such file"):
        source[0]
    path.symlink_to("/etc/hostname")
    with pytest.raises(BadRecord, match="leaves the folder"):
        source[0]
    assert "unpickled" not in capsys.readouterr().out


def test_from_samples_to_a_report(tmp_path: Path) -> None:
    from lom_core.embed import embed_checkpoint, joined
    from lom_core.report import write_report
    from lom_core.train import train

    samples = {"kind": "climate_samples", "sectors": 12}
    run = f"""
    modalities: {{sst: {{kind: climate_grid, channels: [sst], patch_size: 6, unit: K}}}}
    data:
      dataset: {json.dumps({**samples, "split": "train"})}
      eval: {{val: {json.dumps({**samples, "split": "val"})}}}
      block_size: 60
      batch_size: 2
      fit_records: 20
    objective: {{kind: forecast, modalities: [sst]}}
    model: {{n_layer: 1, n_head: 1, n_embd: 16}}
    train: {{max_iters: 2, eval_interval: 2, eval_iters: 1}}
    system: {{device: cpu, dtype: float32, num_threads: 1, out_dir: {tmp_path / "run"}}}
    """
    result = train(RunConfig.model_validate(yaml.safe_load(run)))
    assert result.step == 2 and all(np.isfinite(v) for v in result.metrics["val"].values())
    assert {"climatology/sst", "persistence/sst"} <= set(result.metrics["val"])
    report = write_report(tmp_path / "run", n_objects=1)
    assert (report.parent / "val_sst_0.png").read_bytes().startswith(b"\x89PNG")
    table = joined(embed_checkpoint(tmp_path / "run", "val")[0])
    assert len(table["id"]) > 10 and np.isfinite(table["embedding"]).all()
