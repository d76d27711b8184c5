"""examples/redshift: what a record holds does not tell the redshift but by what was observed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lom_core import ConfigError, ModalityConfig, ModalityRegistry

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "redshift"))
supernovae: Any = pytest.importorskip("supernovae", reason="runs from a checkout")

REGISTRY = ModalityRegistry([ModalityConfig(name="redshift", input_size=1)])
HEAD = "MJD Mag Raw MagErr Telescope Instrument Filter UL System Ignore Source\n"


def catalogue(folder: Path, redshift: float, derived: str, n: int = 12) -> str:
    """A folder laid out as slsne's: n objects of one redshift."""
    lines = ["Name Redshift Method"]
    for i in range(n):
        name, rng = f"sn{i}", np.random.default_rng(i)
        place = folder / "ref_data" / "supernovae" / name
        place.mkdir(parents=True, exist_ok=True)
        rows = [
            f"{57000 + 3 * t + 0.1} {18 + rng.normal():.3f} nan 0.05 P48 -- {band} {limit} AB False X"
            for t, band, limit in zip(range(6), "grgrgr", ["False"] * 5 + ["True"], strict=True)
        ]
        (place / f"{name}.txt").write_text(HEAD + "\n".join(rows))
        flux = 1e-16 * (2 + np.sin(np.arange(4000, 9000, 5) / 100))
        pairs = zip(np.arange(4000, 9000, 5), flux, strict=True)
        text = "".join(f"{w} {f:.4e}\n" for w, f in pairs)
        (place / f"{name}_2015.0101.txt").write_text("# Wavelength Flux\n# MJD = 1\n" + text)
        for kind in ("rest", "model", "bol", "params"):
            (place / f"{name}_{kind}.txt").write_text(derived)
        lines.append(f"{name} {redshift} {'Photo-z' if i == 0 else 'Host_lines'}")
    (folder / "ref_data" / "sne_data.txt").write_text("\n".join(lines))
    return str(folder)


def records(folder: str, split: str = "train+val+test", **how: Any) -> list[dict[str, Any]]:
    source = supernovae.Supernovae(REGISTRY, folder, split, **how)
    return [source[i] for i in range(len(source))]


def test_inputs_are_the_same_whatever_the_redshift(tmp_path: Path) -> None:
    """All but the answer: were the catalogue wrong, a model would be given the same."""
    near = records(catalogue(tmp_path / "near", 0.1, "0 0 0"))
    far = records(catalogue(tmp_path / "far", 0.9, "1 2 3"))
    assert len(near) == len(far) == 11  # not the photometric one
    for a, b in zip(near, far, strict=True):
        assert (a.pop("redshift"), b.pop("redshift")) == (0.1, 0.9)
        np.testing.assert_equal(a, b)
        assert len(a["light_curves"]["time"]) == 5 and a["light_curves"]["time"][0] == 0
        assert np.nanmedian(a["spectra"]["flux"]) == pytest.approx(1)


def test_an_object_is_in_one_split_whatever_its_copies(tmp_path: Path) -> None:
    folder = catalogue(tmp_path, 0.3, "", n=40)
    found = {
        split: {r["id"] for r in records(folder, split, copies=3, jitter=0.1, thin=0.5)}
        for split in ("train", "val", "test")
    }
    assert all(found.values())
    assert sum(map(len, found.values())) == len(set().union(*found.values())) == 39


def test_a_copy_is_the_object_at_another_redshift(tmp_path: Path) -> None:
    """Days and lines are stretched by the ratio of 1 + z, and what is further away is fainter."""
    folder = catalogue(tmp_path, 0.3, "", n=3)
    (plain, *_), (moved, *_) = records(folder), records(folder, jitter=0.1)
    stretch = (1 + moved["redshift"]) / 1.3
    assert abs(stretch - 1) > 1e-3
    time, value = (moved["light_curves"][k] for k in ("time", "value"))
    assert time == pytest.approx(plain["light_curves"]["time"] * stretch)
    assert ((value - plain["light_curves"]["value"]) * np.sign(stretch - 1) > 0).all()
    first = {
        k: np.flatnonzero(np.isfinite(r["spectra"]["flux"]))[0]
        for k, r in (("plain", plain), ("moved", moved))
    }
    assert supernovae.GRID[first["moved"]] == pytest.approx(
        supernovae.GRID[first["plain"]] * stretch, abs=15
    )


def test_a_missing_catalogue_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install --no-deps slsne"):
        supernovae.Supernovae(REGISTRY, str(tmp_path))
