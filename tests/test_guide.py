"""The AstroPT guide's own code and calls, as a reader of the guide would type them in."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

from lom_core.runfile import load_run
from lom_core.train import train

HERE = Path(__file__).parent
GUIDE = HERE.parent.parent / "shared" / "reference" / "astropt-training.rst"
IMPORTS = """
import einops
import numpy as np
import torch
import torch.nn.functional as F
from astropy.io import fits
from torch.utils.data import Dataset
"""


def class_of_the_guide() -> str:
    """`class StellarSpectraDataset(Dataset)`, letter by letter."""
    lines = GUIDE.read_text(encoding="utf8").splitlines()
    start = next(
        i for i, line in enumerate(lines) if "class StellarSpectraDataset(Dataset)" in line
    )
    indent = len(lines[start]) - len(lines[start].lstrip())
    kept = [lines[start]]
    for line in lines[start + 1 :]:
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        kept.append(line)
    return textwrap.dedent("\n".join(kept))


@pytest.fixture
def spectra(tmp_path: Path) -> Path:
    """A path list of FITS files as the guide has them: HDU 1 with columns Flux and Wave (Å).

    The spectra are the real ones that lom-spectra ships, resampled to 2,000 pixels.
    """
    np = pytest.importorskip("numpy")
    fits = pytest.importorskip("astropy.io.fits")
    samples = HERE.parent / "plugins/lom-spectra/src/lom_spectra/samples/supernovae_val.fits"
    lines = []
    with fits.open(samples, memmap=False) as hdus:
        wave, flux = hdus["WAVELENGTH"].data, hdus["FLUX"].data
        grid = np.linspace(4300, 8300, 2000)
        for i, row in enumerate(flux):
            good = np.isfinite(row)
            columns = [
                fits.Column("Wave", "E", array=grid),
                fits.Column("Flux", "E", array=np.interp(grid, wave[good], row[good])),
            ]
            path = tmp_path / f"spectrum{i}.fits"
            fits.BinTableHDU.from_columns(columns).writeto(path)
            lines.append(str(path))
    broken = tmp_path / "broken.fits"
    broken.write_bytes(Path(lines[0]).read_bytes()[:4000])
    (tmp_path / "spectra_matched.txt").write_text("\n".join([*lines, str(broken)]) + "\n")
    return tmp_path


@pytest.mark.skipif(not GUIDE.is_file(), reason="the guide does not lie beside this checkout")
def test_the_guides_dataset_trains_with_only_its_imports_changed(
    spectra: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (spectra / "my_module.py").write_text(IMPORTS + "\n\n" + class_of_the_guide())
    (spectra / "run.yaml").write_text(
        f"""
modalities:
  - {{name: spectra, input_size: 256, patch_size: 256, pos_input_size: 256, loss_weight: 0.5, embed_pos: false}}
data:
  dataset: {{kind: "my_module:StellarSpectraDataset", paths: {{spectra: {spectra}/spectra_matched.txt}}, transform: {{}}}}
  block_size: 27
  batch_size: 4
  max_bad_fraction: 0.1
model: {{n_layer: 1, n_head: 2, n_embd: 32}}
train: {{max_iters: 12, eval_interval: 12, log_interval: 4}}
optimizer: {{warmup_iters: 2, learning_rate: 3.0e-3}}
system: {{out_dir: {spectra}/run, device: cpu, dtype: float32}}
"""
    )
    monkeypatch.delitem(sys.modules, "my_module", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    result = train(load_run(spectra / "run.yaml"))
    assert result.step == 12
    assert result.metrics["val"]["loss/spectra"] < result.metrics["val"]["training_mean/spectra"]
    # The file that is cut short was skipped, counted and told; nothing took its place.
    assert result.tally.n_bad >= 1
    assert "row 30" in str(result.tally.examples) or "broken" in str(result.tally.examples)
    sys.modules.pop("my_module")


def test_every_option_of_the_guide_has_its_name_here() -> None:
    """The names that the guide lists, less those that AstroPT's two scripts needed."""
    from lom_core.config import (
        DataConfig,
        LoggingConfig,
        ModelConfig,
        OptimizerConfig,
        SystemConfig,
        TrainConfig,
    )

    sections = (DataConfig, LoggingConfig, ModelConfig, OptimizerConfig, SystemConfig, TrainConfig)
    ours = {name for section in sections for name in section.model_fields}
    named = [
        "n_layer",
        "n_head",
        "n_embd",
        "block_size",
        "dropout",
        "bias",
        "gradient_accumulation_steps",
        "batch_size",
        "learning_rate",
        "weight_decay",
        "beta1",
        "beta2",
        "grad_clip",
        "decay_lr",
        "warmup_iters",
        "lr_decay_iters",
        "min_lr",
        "max_iters",
        "eval_interval",
        "log_interval",
        "eval_iters",
        "checkpoint_interval",
        "eval_only",
        "always_save_checkpoint",
        "init_from",
        "device",
        "dtype",
        "compile",
        "out_dir",
        "log_via_wandb",
    ]
    assert set(named) <= ours
    if GUIDE.is_file():  # and the guide does list them
        listed = set(re.findall(r"^- ``(\w+)``:", GUIDE.read_text(), re.MULTILINE))
        assert set(named) <= listed
        elsewhere = {"n_chan", "spiral", "image_size"}  # fields of galaxy_images and galaxy_files
        later = {"attn_type", "use_hf", "stream_hf_dataset", "backend", "log_emissions"}
        assert listed - set(named) == elsewhere | later
