"""Predicted spectra are FITS tables that astropy, and this plugin itself, read back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.table import Table

from lom_core import Dataset, ModalityConfig, ModalityRegistry


@pytest.mark.parametrize(("unit", "read"), [("micron", units.um), ("angstrom", units.AA)])
def test_a_written_spectrum_is_read_back(unit: str, read: units.Unit, tmp_path: Path) -> None:
    config = ModalityConfig.model_validate({"kind": "spectra", "wavelength_unit": unit})
    value, _ = config.synth(np.random.default_rng(0))
    decoded = config.tokeniser.build().decode(config.tokeniser.build().encode(value))
    path = config.write(decoded, tmp_path / "spectra-point")
    table = Table.read(path)
    assert table["WAVELENGTH"].unit == read
    np.testing.assert_array_equal(table["FLUX"], decoded["flux"])
    assert table["FLUX"].unit.is_equivalent("erg / (s cm2 Angstrom)")
    assert table["FLUX"].unit.to("erg / (s cm2 Angstrom)") == pytest.approx(1e-17)

    config = ModalityConfig.model_validate({"kind": "spectra"})
    dataset = Dataset.model_validate({"kind": "spectrum_files", "paths": [str(path)]})
    again = dataset.build(ModalityRegistry([config]))[0]["spectra"]
    np.testing.assert_array_equal(again["flux"], decoded["flux"])
    assert again["wavelength"][0] == pytest.approx(0.4, abs=0.01), "micron, whatever was written"
