"""The plugin is found, and importing it imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from lom_spectra import Spectra

from lom_core.component import KINDS


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, lom_spectra; lom_spectra.Spectra(); "
        "print(sorted({'torch', 'astropy', 'matplotlib', 'scipy', 'sndata'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "role, kind",
    [
        ("modality", "spectra"),
        ("tokeniser", "spectrum_windows"),
        ("dataset", "spectrum_files"),
        ("dataset", "spectrum_samples"),
        ("dataset", "sndata_spectra"),
    ],
)
def test_its_kinds_are_registered_by_it(role: str, kind: str) -> None:
    assert (role, kind, "lom-spectra") in KINDS.items()


@pytest.mark.parametrize("case", ["whole", "gaps", "nothing observed", "constant", "one pixel"])
def test_a_picture_shows_what_was_observed(case: str) -> None:
    from matplotlib.figure import Figure

    n = 1 if case == "one pixel" else 640
    wavelength = 0.36 + 0.001 * np.arange(n)
    flux = np.ones(n) if case == "constant" else 5 + np.sin(40 * wavelength)
    if case == "gaps":
        flux[100:200] = np.nan
        wavelength[400:] += 0.1  # no pixel at all there
    if case == "nothing observed":
        flux[:] = np.nan
    truth = {"flux": flux, "wavelength": wavelength}
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    Spectra().picture(figure, truth, {**truth, "flux": np.full(n, 5.0)})
    figure.canvas.draw()
    top, bottom = figure.axes
    assert "µm" in bottom.get_xlabel() and "erg" in top.get_ylabel()
    shown, predicted = (top.lines[i].get_ydata() for i in (0, 2))
    if case == "gaps":
        assert len(shown) == n + 1 and np.isnan(shown[100:200]).all() and np.isnan(shown[400])
        np.testing.assert_array_equal(np.isnan(shown), np.isnan(predicted))
    if case == "whole":
        np.testing.assert_array_equal(shown, flux)
        np.testing.assert_allclose(bottom.lines[1].get_ydata(), flux - 5)


def test_a_picture_is_in_micron_whatever_the_spectra_are_in() -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    truth = {"flux": np.ones(64), "wavelength": 4000.0 + np.arange(64)}
    Spectra(wavelength_unit="angstrom").picture(figure, truth, truth)
    assert figure.axes[0].lines[0].get_xdata()[0] == pytest.approx(0.4)
