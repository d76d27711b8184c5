"""The supernovae that ship, and the spectra of the package sndata."""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from lom_spectra import SndataSpectra, Spectra, SpectrumFiles, SpectrumSamples
from lom_spectra.datasets import ZipSource, split_of

from lom_core import BadRecord, ConfigError, ModalityRegistry

REGISTRY = ModalityRegistry([Spectra()])
SAMPLES = resources.files("lom_spectra") / "samples"


def catalogue(split: str) -> Any:
    with fits.open(str(SAMPLES / f"supernovae_{split}.fits")) as hdus:
        return np.array(hdus["CATALOGUE"].data)


def test_no_object_is_in_both_splits() -> None:
    train, val = (set(catalogue(split)["OBJECT"]) for split in ("train", "val"))
    assert (len(train), len(val)) == (119, 30) and not train & val


@pytest.mark.parametrize("split, n", [("train", 119), ("val", 30)])
def test_every_sample_encodes(split: str, n: int) -> None:
    source = SpectrumSamples(split=split).build(REGISTRY)
    encoder = REGISTRY.get_config("spectra").tokeniser.build()
    assert len(source) == n == len({source[i]["id"] for i in range(n)})
    medians = []
    for record in (source[i] for i in range(n)):
        tokens = encoder.encode(record["spectra"])
        assert len(tokens) == 18 and 0.35 < tokens.positions.min() < tokens.positions.max() < 0.95
        assert tokens.observed.mean() > 0.75  # 560 of 576 pixels at most
        medians.append(np.median(tokens.content[tokens.observed]))
    assert 0.1 < min(medians) < 1 and 10 < max(medians) < 1000  # brightness is kept, by decades


def test_the_samples_are_what_the_reader_reads() -> None:
    source = SpectrumSamples(split="val").build(REGISTRY)
    stack = SpectrumFiles(paths=[str(SAMPLES / "supernovae_val.fits")], row="all").build(REGISTRY)
    assert len(stack) == len(source)
    one, other = source[7]["spectra"], stack[7]["spectra"]
    np.testing.assert_array_equal(one["flux"], other["flux"])
    np.testing.assert_allclose(one["wavelength"], other["wavelength"])


def test_samples_go_to_loader_workers_and_end_where_they_end() -> None:
    source = pickle.loads(pickle.dumps(SpectrumSamples().build(REGISTRY)))
    assert source[118]["id"]
    with pytest.raises(IndexError):
        source[119]


def test_every_supernova_has_its_redshift_as_a_label() -> None:
    for split in ("train", "val"):
        source = SpectrumSamples(split=split).build(REGISTRY)
        found = [source[i].get("redshift") for i in range(len(source))]
        known = [z for z in found if z is not None]
        assert len(known) == len(found) and min(known) > 0 and max(known) < 2


def test_a_modality_that_the_run_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="stars"):
        SpectrumSamples(modality="stars").build(REGISTRY)


# --------------------------------------------------------------------------------------- sndata


def lines(wavelength: Any, flux: Any) -> str:
    return "".join(f"{w:.5f}  {f:.6E}\n" for w, f in zip(wavelength, flux, strict=True))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A zip as the package holds it: `Spectra_txt/sn14481-1091.txt`, two columns."""
    wave, flux = np.linspace(4000, 9000, 200), np.linspace(1, 2, 200) * 1e-17
    flux[:10] = 0
    members = {
        "gal1-1": lines(wave, flux),
        "sn1-2": lines(wave[::-1], flux[::-1]),
        "sn3-4": lines(wave, flux * 1e15),
        "sn5-6": lines(np.arange(1, 201), flux),
        "sn7-8": "4000 what\n",
        **{f"sn{i}-9": lines(wave, flux) for i in range(100, 160)},
    }
    with zipfile.ZipFile(tmp_path / "Spectra_txt.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.mkdir("Spectra_txt")
        for name, text in members.items():
            file.writestr(f"Spectra_txt/{name}.txt", text)
    return tmp_path / "Spectra_txt.zip"


def test_sndata_layout(archive: Path) -> None:
    source = ZipSource(archive, "all", "spectra")
    assert len(source) == 65
    found = {name.split("/")[1]: i for i, name in enumerate(source.names)}
    for name in ("gal1-1.txt", "sn1-2.txt"):  # the second runs from red to blue
        record = source[found[name]]
        value = record["spectra"]
        assert record["id"] == name.removesuffix(".txt")
        assert record["class"] == ("galaxy" if name.startswith("gal") else "supernova")
        assert record["object_id"] == "1", "one object, whatever was extracted"
        np.testing.assert_allclose(value["wavelength"], np.linspace(0.4, 0.9, 200))
        np.testing.assert_allclose(value["flux"][10:], np.linspace(1, 2, 200)[10:], rtol=1e-5)
        np.testing.assert_array_equal(value["mask"], np.arange(200) < 10)
    for name, reason in (
        ("sn3-4.txt", "not calibrated in flux"),
        ("sn5-6.txt", "not calibrated in wavelength"),
        ("sn7-8.txt", "cannot be read"),
    ):
        with pytest.raises(BadRecord, match=name) as caught:
            source[found[name]]
        assert caught.value.reason == reason


def test_sndata_splits_by_object(archive: Path) -> None:
    parts = {
        split: ZipSource(archive, split, "spectra").names for split in ("train", "val", "test")
    }
    assert sum(len(names) for names in parts.values()) == 65 and min(map(len, parts.values())) > 0
    for i in range(50):
        assert split_of(f"Spectra_txt/gal{i}-12.txt") == split_of(f"Spectra_txt/sn{i}-7.txt")
    objects = [
        {n.split("/")[1].split("-")[0].lstrip("galsn") for n in names} for names in parts.values()
    ]
    assert not (objects[0] & objects[1] or objects[0] & objects[2] or objects[1] & objects[2])


def test_sndata_goes_to_loader_workers(archive: Path) -> None:
    source = ZipSource(archive, "all", "spectra")
    source[0]  # opens it
    again = pickle.loads(pickle.dumps(source))
    assert again[0]["id"] == source[0]["id"]


def test_sndata_is_asked_for_when_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install lom-spectra\[sndata\]"):
        SndataSpectra().build(REGISTRY)


@pytest.mark.skipif(importlib.util.find_spec("sndata") is None, reason="sndata is not installed")
def test_sndata_as_installed() -> None:
    sources = [SndataSpectra(split=s).build(REGISTRY) for s in ("train", "val", "test", "all")]
    assert [len(s) for s in sources] == [1243, 168, 155, 1566]
    assert (
        len(REGISTRY.get_config("spectra").tokeniser.build().encode(sources[1][0]["spectra"])) > 20
    )
