"""Windows and back: exact flux, wavelengths within the stated bound, weights, refusals."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_spectra import Spectra, SpectrumWindows

from lom_core import BadRecord, ModalityConfig, Tokeniser, Tokens


def spectrum(n: int, seed: int = 0, step: float = 1e-4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"flux": rng.normal(size=n).astype(np.float32), "wavelength": 0.38 + step * np.arange(n)}


def encode(value: Any, **fields: Any) -> Tokens:
    return SpectrumWindows(**fields).build().encode(value)


def decoded(value: Any, **fields: Any) -> Any:
    encoder = SpectrumWindows(**fields).build()
    return encoder.decode(encoder.encode(value))


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 300), size=st.integers(1, 40), per_pixel=st.booleans(), seed=st.integers(0, 99)
)
def test_flux_is_exact_and_wavelengths_stay_between_the_neighbours(
    n: int, size: int, per_pixel: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    value = {
        "flux": rng.normal(size=n).astype(np.float32),
        "wavelength": 0.3 + np.cumsum(rng.uniform(1e-5, 3e-3, n)),  # as uneven as it gets
    }
    encoder = SpectrumWindows(patch_size=size, pos_input_size=size if per_pixel else 1).build()
    tokens = encoder.encode(value)
    windows = -(-n // size)
    assert tokens.content.shape == tokens.weights.shape == (windows, size)
    assert tokens.content.dtype == tokens.positions.dtype == tokens.weights.dtype == np.float32
    assert tokens.positions.shape == (windows, size if per_pixel else 1)
    back = encoder.decode(tokens)
    np.testing.assert_array_equal(back["flux"][:n], value["flux"])
    assert np.isnan(back["flux"][n:]).all()
    if per_pixel:
        np.testing.assert_allclose(back["wavelength"][:n], value["wavelength"], rtol=6e-8)
    elif windows > 1:
        at = np.arange(n) // size
        # From the first pixel of the window before to the last of the window after.
        first = value["wavelength"][np.maximum(at - 1, 0) * size]
        last = np.append(
            value["wavelength"], value["wavelength"][-1] + 3e-3 * np.arange(1, 2 * size)
        )
        extent = last[(np.minimum(at + 1, windows - 1) + 1) * size - 1] - first
        assert (np.abs(back["wavelength"][:n] - value["wavelength"]) <= extent).all()


@pytest.mark.parametrize("n", [64, 65, 3000, 3001])
def test_an_even_grid_comes_back_to_float32(n: int) -> None:
    value = spectrum(n)
    back = decoded(value)
    np.testing.assert_allclose(back["wavelength"][:n], value["wavelength"], atol=1.5e-7)


def test_a_log_grid_comes_back_within_the_stated_bound() -> None:
    step = 1e-4 * np.log(10)  # of ln(wavelength), as SDSS
    wavelength = 0.38 * np.exp(step * np.arange(3841))
    back = decoded({"flux": np.ones(3841), "wavelength": wavelength})["wavelength"][:3841]
    bound = wavelength * (32 * step) ** 2 / 3
    assert (np.abs(back - wavelength) <= bound + 1e-7).all()
    assert np.abs(back - wavelength).max() > 1e-7  # the bound bounds something


def test_windows_beside_a_gap_are_not_stretched_into_it() -> None:
    wavelength = np.concatenate([0.5 + 1e-4 * np.arange(64), 0.8 + 1e-4 * np.arange(64)])
    back = decoded({"flux": np.ones(128), "wavelength": wavelength})
    np.testing.assert_allclose(back["wavelength"], wavelength, atol=1.5e-7)


def test_7780_wavelengths_stay_distinct() -> None:
    value = spectrum(7780, step=0.8e-4)  # DESI; bfloat16 would leave 185 of them
    tokens = encode(value, pos_input_size=32)
    assert len(np.unique(tokens.positions)) == tokens.positions.size >= 7780
    assert (np.diff(tokens.positions.ravel()) > 0).all()


def test_weights_of_what_was_not_observed_are_0_and_the_others_have_mean_1() -> None:
    value = spectrum(10)
    value["flux"][[0, 1]] = np.nan, np.inf
    value["mask"] = np.arange(10) == 2
    value["ivar"] = np.array([1, 1, 1, 0, -1, np.nan, np.inf, 2.0, 4.0, 6.0])
    tokens = encode(value, patch_size=4)
    weights = tokens.weights.ravel()
    assert (weights[:7] == 0).all() and (weights[10:] == 0).all()
    np.testing.assert_allclose(weights[7:10], [0.5, 1.0, 1.5])
    np.testing.assert_array_equal(tokens.observed.ravel(), weights > 0)


def test_without_ivar_every_observed_pixel_weighs_1() -> None:
    np.testing.assert_array_equal(encode(spectrum(64)).weights, 1)


def test_ivar_is_clipped_at_a_multiple_of_its_median() -> None:
    value = {**spectrum(101), "ivar": np.r_[np.ones(100), 1e6]}
    clipped, raw = (encode(value, patch_size=101, ivar_clip=c).weights[0] for c in (5, 0))
    assert clipped[-1] / clipped[0] == pytest.approx(5)
    assert raw[-1] / raw[0] == pytest.approx(1e6)
    assert clipped.mean() == pytest.approx(1) and raw.mean() == pytest.approx(1)


def test_a_tiny_ivar_is_still_observed() -> None:
    weights = encode({**spectrum(4), "ivar": np.array([1e-60, 1, 1, 1])}, patch_size=4).weights
    assert (weights > 0).all()


def test_tokens_are_native_and_float32_whatever_the_file_holds() -> None:
    value = spectrum(64)
    swapped = {"flux": value["flux"].astype(">f8"), "wavelength": value["wavelength"].astype(">f4")}
    tokens = encode(swapped)
    assert tokens.content.dtype.isnative and tokens.content.dtype == np.float32
    np.testing.assert_array_equal(tokens.content.ravel(), value["flux"])


def test_the_position_is_the_mean_of_the_window_in_micron() -> None:
    value = spectrum(48)
    positions = encode(value).positions
    assert positions[0, 0] == pytest.approx(value["wavelength"][:32].mean(), abs=1e-7)
    # The padded window's position is that of the full window that it would be.
    assert positions[1, 0] == pytest.approx(positions[0, 0] + 32e-4, abs=1e-7)


@pytest.mark.parametrize("unit, factor", [("angstrom", 1e4), ("nm", 1e3), ("micron", 1)])
def test_wavelength_unit(unit: str, factor: float) -> None:
    value = spectrum(64)
    given = {**value, "wavelength": value["wavelength"] * factor}
    encoder = SpectrumWindows(wavelength_unit=unit).build()
    tokens = encoder.encode(given)
    np.testing.assert_allclose(tokens.positions, encode(value).positions, rtol=1e-7)
    np.testing.assert_allclose(encoder.decode(tokens)["wavelength"], given["wavelength"], rtol=1e-6)


def test_wavelength_unit_of_logarithms() -> None:
    value = spectrum(64)
    given = {**value, "wavelength": np.log10(value["wavelength"] * 1e4)}
    encoder = SpectrumWindows(wavelength_unit="log10_angstrom").build()
    back = encoder.decode(encoder.encode(given))
    np.testing.assert_allclose(back["wavelength"], given["wavelength"], rtol=1e-7)


def test_masked_arrays_and_missing_entries_are_not_observed() -> None:
    flux = np.ma.masked_array([1, 2, 3, 4], mask=[0, 1, 0, 0])
    tokens = encode({"flux": flux, "wavelength": [0.4, 0.5, 0.6, 0.7]}, patch_size=4)
    np.testing.assert_array_equal(tokens.weights[0], [1, 0, 1, 1])
    tokens = encode({"flux": [1.0, None], "wavelength": [0.4, 0.5]}, patch_size=2)
    np.testing.assert_array_equal(tokens.weights[0], [1, 0])


def test_unobserved_pixels_without_a_wavelength_are_left_out() -> None:
    value = spectrum(8)
    value["flux"][3], value["wavelength"][3] = np.nan, np.nan
    np.testing.assert_array_equal(encode(value, patch_size=7).weights, 1)


NAN, WAVE = float("nan"), [0.4, 0.5, 0.6]


@pytest.mark.parametrize(
    "value, reason, detail",
    [
        (
            {"flux": [1, 2], "wavelength": WAVE},
            "flux and wavelength differ in length",
            "2 values, wavelength 3",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": WAVE, "ivar": [1]},
            "flux and ivar differ in length",
            "ivar 1",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": WAVE, "mask": [1]},
            "flux and mask differ in length",
            "mask 1",
        ),
        ({"flux": [NAN] * 3, "wavelength": WAVE}, "no observed flux", "3 pixels"),
        (
            {"flux": [1, 2, 3], "wavelength": WAVE, "mask": [True] * 3},
            "no observed flux",
            "3 pixels",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": WAVE, "ivar": [0, 0, 0]},
            "no observed flux",
            "3 pixels",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": [0.4, 0.6, 0.5]},
            "wavelengths not ascending",
            "0.6 is followed by 0.5",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": [0.4, 0.4, 0.5]},
            "wavelengths not ascending",
            "at pixel 1",
        ),
        ({"flux": [1, 2, 3], "wavelength": WAVE[::-1]}, "wavelengths not ascending", "at pixel 1"),
        ({"flux": [1, 2, 3], "wavelength": [-1, 0.4, 0.5]}, "wavelengths not positive", "-1"),
        (
            {"flux": [1, 2, 3], "wavelength": [0.4, NAN, 0.5]},
            "an observed pixel without a wavelength",
            "",
        ),
        (
            {"flux": [1, 2, 3], "wavelength": [3600, 3601, 3602]},
            "wavelengths beyond 1000 micron",
            "wavelength_unit",
        ),
        ({"flux": [], "wavelength": []}, "no pixel", ""),
        ({"flux": ["a"], "wavelength": [0.4]}, "flux is not numeric", "a"),
        ({"flux": [1, 2, 3]}, "no wavelength", "flux"),
        (np.ones(3), "not a mapping of flux and wavelength", "ndarray"),
    ],
)
def test_bad_records(value: Any, reason: str, detail: str) -> None:
    with pytest.raises(BadRecord) as caught:
        encode(value)
    assert caught.value.reason == reason
    assert detail in caught.value.detail


def test_configs_survive_json_and_pickle() -> None:
    for config in (
        SpectrumWindows(patch_size=16, pos_input_size=16, ivar_clip=0, wavelength_unit="nm"),
        Spectra(name="optical", patch_size=8, loss_weight=0.5),
        Spectra(patch_size=16, pos_input_size=16),
    ):
        role = Tokeniser if isinstance(config, Tokeniser) else ModalityConfig
        assert role.model_validate(config.model_dump()) == config
        assert role.model_validate_json(config.model_dump_json()) == config
        assert pickle.loads(pickle.dumps(config)) == config


def test_the_preset_fits_its_positions() -> None:
    per_window, per_pixel = Spectra(), Spectra(patch_size=16, pos_input_size=16)
    assert (per_window.position.kind, per_window.input_size, per_window.pos_input_size) == (
        "fourier",
        32,
        1,
    )
    assert (per_pixel.position.kind, per_pixel.input_size, per_pixel.pos_input_size) == (
        "mlp",
        16,
        16,
    )
    given = Spectra(tokeniser={"kind": "spectrum_windows", "patch_size": 4, "pos_input_size": 4})
    assert given.position.kind == "mlp" and given.input_size == 4


def test_impossible_pos_input_size_names_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"pos_input_size=7 must be 1 .* or patch_size=32"):
        SpectrumWindows(pos_input_size=7)
