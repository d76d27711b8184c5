"""Whole numbers in FITS tables that stand for nothing (TNULL) are not observed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from lom_timeseries import LightCurve, LightCurveFiles

from lom_core import ModalityRegistry


def test_an_epoch_whose_value_is_null_weighs_nothing(tmp_path: Path) -> None:
    columns = [
        fits.Column("MJD", "D", array=np.array([1.0, 2.0, 3.0])),
        fits.Column("FLUX", "J", array=np.array([200, -999, 210]), null=-999),
        fits.Column("FLUXERR", "D", array=np.array([0.1, 0.1, 0.1])),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    registry = ModalityRegistry([LightCurve()])
    source = LightCurveFiles(paths=[str(tmp_path / "a.fits")]).build(registry)
    curve = source[0]["light_curves"]
    np.testing.assert_array_equal(curve["value"], [200, np.nan, 210])
    tokens = LightCurve().tokeniser.build().encode(curve)
    assert tokens.observed[:, 0].tolist() == [True, False, True]
