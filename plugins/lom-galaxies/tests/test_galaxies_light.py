"""Light imports, the sample that ships, pictures, and a run from data to report."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lom_galaxies import GalaxyImages, GalaxySamples
from lom_galaxies.pictures import UNSEEN, draw_image
from matplotlib.figure import Figure

from lom_core import (
    ConfigError,
    Dataset,
    ModalityConfig,
    ModalityRegistry,
    RunConfig,
    installed_plugins,
)
from lom_core.data import Reader

REGISTRY = ModalityRegistry([GalaxyImages(patch_size=4)])
SIDE = 32
COUNTS = {"train": 468, "val": 59}

LIGHT = """
import sys
import lom_galaxies
from lom_core import Dataset, ModalityConfig
ModalityConfig.model_validate({"kind": "galaxy_images", "patch_size": 8, "spiral": True})
Dataset.model_validate({"kind": "galaxy_samples"})
Dataset.model_validate({"kind": "galaxy_files", "paths": "somewhere"})
heavy = ("torch", "astropy", "PIL", "matplotlib", "simplejpeg", "einops", "datasets", "scipy")
print(*[name for name in heavy if name in sys.modules])
"""


def test_configs_import_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_plugin_is_found() -> None:
    told = json.dumps([str(plugin) for plugin in installed_plugins()])
    assert "lom-galaxies" in told


def test_modality_fields_reach_the_tokeniser() -> None:
    config = ModalityConfig.model_validate(
        {"kind": "galaxy_images", "patch_size": 8, "patch_width": 4, "n_chan": 5, "spiral": True}
    )
    assert isinstance(config, GalaxyImages)
    assert (config.name, config.input_size, config.pos_input_size) == ("images", 160, 2)
    assert config.tokeniser.model_dump()["order"] == "spiral"
    assert config.position.kind == "fourier" and config.scale.kind == "arcsinh"
    assert ModalityConfig.model_validate(config.model_dump()) == config
    assert ModalityConfig.model_validate_json(config.model_dump_json()) == config
    guide = GalaxyImages(positions="index", grid_shape=(2, 8))
    assert guide.position.kind == "index" and guide.pos_input_size == 1
    assert guide.tokeniser.model_dump()["grid_shape"] == (2, 8)
    with pytest.raises(ValueError, match="patch_size"):
        GalaxyImages(patch_size=0)


@pytest.mark.parametrize("split", COUNTS)
def test_samples(split: str) -> None:
    config = GalaxySamples.model_validate({"split": split})
    assert Dataset.model_validate(config.model_dump()) == config
    source = pickle.loads(pickle.dumps(config.build(REGISTRY)))
    assert len(source) == COUNTS[split]
    records = [source[i] for i in range(len(source))]
    assert len({r["id"] for r in records}) == len(records)
    for record in records:
        tile = record["images"]
        assert tile.shape == (SIDE, SIDE, 3) and tile.dtype == np.uint8
        assert tile.std() > 2, f"{record['id']} is empty"
        assert tile[12:20, 12:20].max() >= 40, f"{record['id']} has nothing in its middle"
    assert len({r["images"].tobytes() for r in records}) == len(records)
    assert np.array_equal(source[-1]["images"], records[-1]["images"])
    with pytest.raises(IndexError):
        source[len(source)]


def test_splits_share_no_sky() -> None:
    places = {s: np.array(GalaxySamples(split=s).build(REGISTRY).catalogue) for s in COUNTS}
    for at in places.values():
        assert at.min() >= SIDE // 2
        assert (at < [1000 - SIDE // 2 + 1, 872 - SIDE // 2 + 1]).all()
    assert places["val"][:, 0].min() - places["train"][:, 0].max() >= SIDE
    shared = {split: float(_shared(at).max()) for split, at in places.items()}
    assert shared["train"] <= 0.4 and shared["val"] <= 0.1, shared


def _shared(at: np.ndarray) -> np.ndarray:
    """For each cutout at (n, 2), the largest share of its pixels that another one has too."""
    overlap = np.clip(SIDE - np.abs(at[:, None] - at), 0, None).prod(axis=-1) / SIDE**2
    np.fill_diagonal(overlap, 0)
    return np.asarray(overlap.max(axis=1))


def test_samples_of_another_modality() -> None:
    renamed = ModalityRegistry([GalaxyImages(name="hst")])
    assert "hst" in GalaxySamples(modality="hst").build(renamed)[0]
    with pytest.raises(ConfigError, match="unknown modality 'images'"):
        GalaxySamples().build(renamed)


def draw(truth: np.ndarray, predicted: np.ndarray, layout: str | None) -> tuple[Any, np.ndarray]:
    """The figure and its pixels; any warning is an error."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = Figure(figsize=(7.5, 2.7), layout=layout)
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_image(figure, truth, predicted)
        canvas.draw()
    return figure, np.asarray(canvas.buffer_rgba())


@pytest.mark.parametrize("layout", ["constrained", None])
@pytest.mark.parametrize("case", ["rgb", "one", "five", "nans", "all nan", "flat", "perfect"])
def test_pictures(case: str, layout: str | None) -> None:
    rng = np.random.default_rng(0)
    channels = {"one": 1, "five": 5}.get(case, 3)
    truth = rng.normal(10, 3, (16, 24, channels)).astype(np.float32)
    predicted = truth if case == "perfect" else truth + rng.normal(0, 1, truth.shape)
    if case == "nans":
        truth[4:8] = np.nan
        truth[0, 0, 1] = np.nan
    elif case == "all nan":
        truth[:] = np.nan
    elif case == "flat":
        truth[:] = 7
    figure, pixels = draw(truth, predicted, layout)
    panels = figure.axes[:3]
    assert [a.get_title().split(",")[0] for a in panels] == ["input", "prediction", "residual"]
    sizes = [a.get_window_extent().size for a in panels]
    assert np.allclose(sizes, sizes[0], atol=1)
    bar = panels[2].child_axes[0].get_window_extent()
    assert bar.x0 > panels[2].get_window_extent().x1
    slate = np.abs(pixels[..., :3] / 255 - UNSEEN).max(axis=-1) < 0.01
    assert slate.any() == (case in ("nans", "all nan"))


def test_a_picture_of_a_sample_through_the_modality() -> None:
    config = REGISTRY.get_config("images")
    source = GalaxySamples(split="val").build(REGISTRY)
    tokens = Reader(source, REGISTRY, 100).read(0, None).tokens["images"]
    truth = config.tokeniser.build().decode(tokens)
    assert np.array_equal(truth, source[0]["images"])
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    config.picture(figure, truth, truth.astype(np.float32) + 5)
    residual = figure.axes[2].images[0].get_array()
    assert np.allclose(residual, -5)


@pytest.mark.parametrize("positions", ["grid", "index"])
def test_from_samples_to_a_report(tmp_path: Path, positions: str) -> None:
    from lom_core.report import write_report
    from lom_core.train import train

    out_dir = tmp_path / "run"
    samples = {"kind": "galaxy_samples"}
    config = RunConfig.model_validate(
        {
            "modalities": {
                "images": {
                    "kind": "galaxy_images",
                    "patch_size": 16,
                    "positions": positions,
                    "spiral": True,
                }
            },
            "data": {
                "dataset": {**samples, "split": "train"},
                "eval": {"val": {**samples, "split": "val"}},
                "block_size": 10,
                "batch_size": 2,
                "fit_records": 20,
            },
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "train": {"max_iters": 2, "eval_interval": 2, "eval_iters": 1},
            "system": {
                "device": "cpu",
                "dtype": "float32",
                "num_threads": 1,
                "out_dir": str(out_dir),
            },
        }
    )
    result = train(config)
    assert result.step == 2
    assert all(np.isfinite(v) for v in result.metrics["val"].values()), result.metrics
    report = write_report(out_dir, n_objects=1)
    assert report.name == "report.html" and "val_images_0" in "".join(
        path.name for path in report.parent.iterdir()
    )
    for name in ("val_images_0.png", "loss_images.png"):
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in report.read_text(encoding="utf8")


def test_run_files_of_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf8")
    found = re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    whole = [block for block in found if block.startswith("modalities:")]
    assert (len(found), len(whole)) == (4, 2)
    for block in whole:
        config = RunConfig.model_validate(yaml.safe_load(block))
        assert isinstance(config.registry.get_config("images"), GalaxyImages)
    for name, size in re.findall(r"`samples/(\S+)` \|.*\| ([\d,]+) \|$", text, re.MULTILINE):
        file = resources.files("lom_galaxies") / "samples" / name
        assert len(file.read_bytes()) == int(size.replace(",", "")), name
