"""Text of two and three columns; air and vacuum; noise instead of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_spectra import Spectra, SpectrumFiles
from lom_spectra.wavelengths import air_to_vacuum, to_micron

from lom_core import BadRecord, ModalityRegistry

REGISTRY = ModalityRegistry([Spectra()])


def read(path: Path) -> Any:
    return SpectrumFiles(paths=[str(path)]).build(REGISTRY)[0]["spectra"]


def refused(path: Path) -> BadRecord:
    with pytest.raises(BadRecord) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    "text",
    [
        "4000 1.5\n4001 2.5\n",
        "# wavelength flux\n4000\t1.5  # first\n\n4001\t2.5\n",
        "wavelength,flux\n4000,1.5\n4001,2.5\n",
        "flux wave extra more\n1.5 4000 0 0\n2.5 4001 0 0\n",
        "loglam flux\n3.602059991 1.5\n3.602168562 2.5\n",
    ],
)
def test_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    value = read(tmp_path / "a.txt")
    np.testing.assert_allclose(value["wavelength"], [0.4, 0.4001], rtol=1e-7)
    np.testing.assert_array_equal(value["flux"], np.float32([1.5, 2.5]))
    assert set(value) == {"flux", "wavelength"}


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("micron", "0.4 1.5\n0.4001 2.5\n"),
        ("nm", "400 1.5\n400.1 2.5\n"),
        ("log10_angstrom", "3.602059991 1.5\n3.602168562 2.5\n"),
    ],
)
def test_wavelengths_without_a_unit_are_not_taken_for_angstrom(
    tmp_path: Path, unit: Any, text: str
) -> None:
    (tmp_path / "a.txt").write_text(text)
    error = refused(tmp_path / "a.txt")
    assert error.reason == "wavelengths without a unit that are hardly Å"
    assert f"from {text.split()[0][:4]}" in error.detail and unit in error.detail
    value = SpectrumFiles(paths=[str(tmp_path / "a.txt")], unit=unit).build(REGISTRY)[0]["spectra"]
    np.testing.assert_allclose(value["wavelength"], [0.4, 0.4001], rtol=1e-7)


@pytest.mark.parametrize(
    ("unit", "begin"), [("log(nm)", 2.6), ("dex(Angstrom)", 3.6), ("log10 um", -0.4)]
)
def test_logarithms_of_a_stated_unit(tmp_path: Path, unit: str, begin: float) -> None:
    columns = [
        fits.Column("loglam", "D", unit=unit, array=begin + np.arange(9) * 1e-4),
        fits.Column("flux", "E", array=np.ones(9)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    assert read(tmp_path / "a.fits")["wavelength"][0] == pytest.approx(10**-0.4)


def test_text_with_errors(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_text("4000 1 0.5\n4001 2 0\n4002 nan 1\n")
    value = read(tmp_path / "a.dat")
    np.testing.assert_array_equal(value["ivar"], [4, 0, 1])
    weights = Spectra(patch_size=3).tokeniser.build().encode(value).weights
    np.testing.assert_array_equal(weights > 0, [[True, False, False]])


@pytest.mark.parametrize(
    "text, reason, row",
    [
        ("4000\n4001\n", "a line with another number of columns", 1),
        ("4000 1\n4001\n", "a line with another number of columns", 2),
        ("4000 1\n4001 oops\n", "a line that is no number", 2),
        ("some words\nmore words\n4000 1\n", "a line that is no number", 2),
        ("# nothing\n", "no line of numbers", None),
        ("4000 1 2 3\n", "no names of columns", None),
        ("wave sky\n4000 1\n", "no flux column", None),
        ("", "empty file", None),
    ],
)
def test_text_garbage(tmp_path: Path, text: str, reason: str, row: Any) -> None:
    (tmp_path / "a.txt").write_text(text)
    error = refused(tmp_path / "a.txt")
    assert (error.reason, error.row) == (reason, row)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(min_size=1, max_size=400), ending=st.sampled_from([".txt", ".fits"]))
def test_noise_is_refused_or_read_but_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ending: str
) -> None:
    path = tmp_path_factory.mktemp("noise") / f"a{ending}"
    path.write_bytes(data)
    try:
        value = read(path)
    except BadRecord as error:
        assert str(path) in str(error)
    else:
        assert ending == ".txt" and set(value) >= {"flux", "wavelength"}


def test_air_to_vacuum_known_lines() -> None:
    # Air and vacuum wavelengths of H beta, [O III], Na D, H alpha, as SDSS lists them, and 5000 Å.
    air = np.array([4861.325, 5006.843, 5889.950, 6562.801, 5000.0])
    vacuum = np.array([4862.683, 5008.240, 5891.583, 6564.614, 5001.394])
    np.testing.assert_allclose(air_to_vacuum(air * 1e-4) * 1e4, vacuum, atol=0.003)


def test_air_to_vacuum_inverts_ciddor_1996() -> None:
    vacuum = np.linspace(0.21, 2.5, 500)
    s2 = vacuum**-2
    n = 1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2)  # Ciddor (1996), eq. 1
    there = air_to_vacuum(vacuum / n)
    np.testing.assert_allclose(there, vacuum, rtol=1e-7)
    np.testing.assert_allclose(there[vacuum > 0.3], vacuum[vacuum > 0.3], rtol=1e-8)
    assert air_to_vacuum(np.array([0.15]))[0] == 0.15


def test_micron_of_logarithms() -> None:
    np.testing.assert_allclose(to_micron(np.array([3.6, 4.0]), "log10_angstrom"), [0.39810717, 1.0])
