"""Every layout that is read, written here as the surveys write it, and every way to be damaged."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from lom_spectra import Spectra, SpectrumFiles
from lom_spectra.wavelengths import air_to_vacuum

from lom_core import BadRecord, Dataset, ModalityRegistry

REGISTRY = ModalityRegistry([Spectra()])
DESI = Path(__file__).parent.parent / "src" / "lom_spectra" / "samples" / "desi-coadd.fits"
FLUX = np.linspace(1, 2, 100).astype(np.float32)
WAVE = np.linspace(4000, 4099, 100)  # Å


def read(path: Path, index: int = 0, **fields: Any) -> Any:
    return SpectrumFiles(paths=[str(path)], **fields).build(REGISTRY)[index]["spectra"]


def refused(path: Path, **fields: Any) -> BadRecord:
    """The error of reading the file, or else of encoding what was read; it names the file."""
    with pytest.raises(BadRecord) as caught:
        value = read(path, **fields)
        try:
            Spectra().tokeniser.build().encode(value)
        except BadRecord as error:  # the core adds the file to those
            raise BadRecord(error.reason, file=path, detail=error.detail) from error
    assert str(path) in str(caught.value)
    return caught.value


def table(path: Path, name: str = "", **columns: Any) -> Path:
    formats = {"f": "D", "i": "J", "u": "J"}
    made = [
        fits.Column(key, formats[np.asarray(v).dtype.kind], array=np.asarray(v))
        for key, v in columns.items()
    ]
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns(made, name=name)])
    hdus.writeto(path)
    return path


def image(path: Path, flux: Any = FLUX, **header: Any) -> Path:
    hdu = fits.PrimaryHDU(np.asarray(flux))
    for key, value in header.items():
        hdu.header[key.replace("_", "-") if key == "DC_FLAG" else key] = value
    hdu.writeto(path)
    return path


# -------------------------------------------------------------------------------------- tables


def test_sdss_spec(tmp_path: Path) -> None:
    """HDU 1 COADD of a `spec-PLATE-MJD-FIBER.fits`, beside its tables of other things."""
    loglam = 3.58 + 1e-4 * np.arange(100)
    ivar, mask = np.r_[0.0, np.full(99, 4.0)], np.r_[np.zeros(99, int), 1 << 23]
    columns = {"flux": FLUX, "loglam": loglam, "ivar": ivar, "and_mask": mask, "or_mask": mask + 1}
    names = ("COADD", "SPALL", "SPZLINE")
    hdus = [fits.PrimaryHDU()]
    for name in names:
        one = columns if name == "COADD" else {"Z": np.zeros(1)}
        formats = {"loglam": "E", "and_mask": "J", "or_mask": "J"}
        made = [fits.Column(k, formats.get(k, "E"), array=v) for k, v in one.items()]
        hdus.append(fits.BinTableHDU.from_columns(made, name=name))
    path = tmp_path / "spec-0266-51602-0001.fits"
    fits.HDUList(hdus).writeto(path)
    value = read(path)
    np.testing.assert_array_equal(value["flux"], FLUX)
    np.testing.assert_allclose(
        value["wavelength"], 10**loglam * 1e-4, rtol=2e-6
    )  # loglam is float32
    np.testing.assert_array_equal(value["ivar"], ivar)
    np.testing.assert_array_equal(value["mask"], mask > 0)  # and_mask, not or_mask
    weights = Spectra().tokeniser.build().encode(value).weights.ravel()
    assert weights[0] == 0 and weights[99] == 0 and (weights[1:99] == 1).all()


@pytest.mark.parametrize(
    "flux, wave",
    [
        ("Flux", "Wave"),
        ("FLUX", "WAVELENGTH"),
        ("flux", "lambda"),
        ("flux", "LAMBDA"),
        ("flam", "wl"),
    ],
)
def test_names_in_the_wild(tmp_path: Path, flux: str, wave: str) -> None:
    value = read(table(tmp_path / "a.fits", **{flux: FLUX, wave: WAVE}))
    np.testing.assert_array_equal(value["flux"], FLUX)
    np.testing.assert_allclose(value["wavelength"], WAVE * 1e-4)
    assert set(value) == {"flux", "wavelength"}


def test_names_by_config_and_errors_as_ivar(tmp_path: Path) -> None:
    error = np.r_[0.0, np.nan, -1.0, np.full(97, 0.5)]
    path = table(tmp_path / "a.fits", F=FLUX, L=WAVE / 10, E=error, flux=FLUX * 0)
    value = read(path, flux="f", wavelength="L", error="E", unit="nm")
    np.testing.assert_array_equal(value["flux"], FLUX)
    np.testing.assert_allclose(value["wavelength"], WAVE * 1e-4)
    np.testing.assert_array_equal(value["ivar"], np.r_[0, 0, 0, np.full(97, 4.0)])


def test_wavelength_is_preferred_to_loglam_unless_asked(tmp_path: Path) -> None:
    path = table(tmp_path / "a.fits", flux=FLUX, wave=WAVE, loglam=np.log10(2 * WAVE))
    np.testing.assert_allclose(read(path)["wavelength"], WAVE * 1e-4)
    np.testing.assert_allclose(read(path, loglam="loglam")["wavelength"], 2 * WAVE * 1e-4)


@pytest.mark.parametrize("unit, factor", [("um", 1e-4), ("nm", 0.1), ("Angstrom", 1), ("m", 1e-10)])
def test_the_unit_that_the_file_states(tmp_path: Path, unit: str, factor: float) -> None:
    columns = [
        fits.Column("flux", "E", array=FLUX),
        fits.Column("wave", "D", unit=unit, array=WAVE * factor),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    np.testing.assert_allclose(read(tmp_path / "a.fits")["wavelength"], WAVE * 1e-4)


def test_a_unit_that_is_none_of_length(tmp_path: Path) -> None:
    columns = [
        fits.Column("flux", "E", array=FLUX),
        fits.Column("wave", "D", unit="Hz", array=WAVE),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    error = refused(tmp_path / "a.fits")
    assert error.reason == "the unit of wavelength is none of length" and "'Hz'" in error.detail
    np.testing.assert_allclose(
        read(tmp_path / "a.fits", unit="angstrom")["wavelength"], WAVE * 1e-4
    )


def test_a_spectrum_a_row(tmp_path: Path) -> None:
    flux = np.stack([FLUX, FLUX + 1, FLUX + 2])
    columns = [
        fits.Column("FLUX", "100E", array=flux),
        fits.Column("WAVE", "100D", array=np.stack([WAVE] * 3)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    source = SpectrumFiles(paths=[str(tmp_path / "a.fits")], row="all").build(REGISTRY)
    assert len(source) == 3 and source[2]["id"] == "a.fits#2"
    np.testing.assert_array_equal(source[2]["spectra"]["flux"], FLUX + 2)
    np.testing.assert_array_equal(read(tmp_path / "a.fits", row=1)["flux"], FLUX + 1)
    assert "3; set row: all" in refused(tmp_path / "a.fits").detail, "two would be lost unseen"


def test_a_spectrum_a_row_of_any_length(tmp_path: Path) -> None:
    columns = [
        fits.Column("flux", "PE()", array=np.array([FLUX, FLUX[:7]], dtype=object)),
        fits.Column("wave", "PD()", array=np.array([WAVE, WAVE[:7]], dtype=object)),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "a.fits")
    source = SpectrumFiles(paths=[str(tmp_path / "a.fits")], row="all").build(REGISTRY)
    assert len(source) == 2
    np.testing.assert_array_equal(source[1]["spectra"]["flux"], FLUX[:7])
    np.testing.assert_allclose(source[0]["spectra"]["wavelength"], WAVE * 1e-4)


def test_red_to_blue_is_turned_round(tmp_path: Path) -> None:
    value = read(table(tmp_path / "a.fits", flux=FLUX[::-1], wave=WAVE[::-1], ivar=FLUX[::-1]))
    np.testing.assert_array_equal(value["flux"], FLUX)
    np.testing.assert_array_equal(value["ivar"], FLUX)
    np.testing.assert_allclose(value["wavelength"], WAVE * 1e-4)


def test_wavelength_range(tmp_path: Path) -> None:
    path = table(tmp_path / "a.fits", flux=FLUX, wave=WAVE)
    value = read(path, wavelength_range=(0.401, 0.402))
    np.testing.assert_allclose(value["wavelength"], WAVE[10:21] * 1e-4)
    np.testing.assert_array_equal(value["flux"], FLUX[10:21])
    error = refused(path, wavelength_range=(1, 2))
    assert error.reason == "no pixel in wavelength_range" and "0.4 to 0.4099" in error.detail
    with pytest.raises(ValueError, match="wavelength_range"):
        SpectrumFiles(paths=[], wavelength_range=(2, 1))


# ---------------------------------------------------------------------------------------- DESI


def test_desi_rows_are_real_and_their_arms_join() -> None:
    source = SpectrumFiles(paths=[str(DESI)], row="all").build(REGISTRY)
    assert len(source) == 2
    with fits.open(DESI) as hdus:
        parts = {h.name: np.array(h.data) for h in hdus[2:]}
    for row in (0, 1):
        value = source[row]["spectra"]
        at = value["wavelength"]
        assert (np.diff(at) > 1e-5).all() and len(at) == 551 + 700 + 300 - 51
        for arm, inside in (("B", at < 0.5759), ("R", (at > 0.5801) & (at < 0.7)), ("Z", at > 0.7)):
            alone = (
                (parts[f"{arm}_WAVELENGTH"] < 5759)
                if arm == "B"
                else parts[f"{arm}_WAVELENGTH"] > 5801
            )
            ivar = parts[f"{arm}_IVAR"][row][alone] * (parts[f"{arm}_MASK"][row][alone] == 0)
            seen = ivar > 0
            np.testing.assert_allclose(value["ivar"][inside], ivar, rtol=1e-6)
            np.testing.assert_allclose(
                value["flux"][inside][seen], parts[f"{arm}_FLUX"][row][alone][seen], rtol=1e-6
            )
            assert np.isnan(value["flux"][inside][~seen]).all() and seen.mean() > 0.95
            assert np.std(parts[f"{arm}_FLUX"][row]) > 0


def test_desi_arms_are_averaged_by_inverse_variance_where_they_overlap() -> None:
    value = read(DESI, row=0)
    with fits.open(DESI) as hdus:
        b, r = hdus["B_FLUX"].data[0, -1], hdus["R_FLUX"].data[0, 50]
        wb, wr = hdus["B_IVAR"].data[0, -1], hdus["R_IVAR"].data[0, 50]
        assert hdus["B_WAVELENGTH"].data[-1] == pytest.approx(hdus["R_WAVELENGTH"].data[50])
    at = int(np.argmin(np.abs(value["wavelength"] - 0.58)))
    assert value["ivar"][at] == pytest.approx(wb + wr)
    assert value["flux"][at] == pytest.approx((wb * b + wr * r) / (wb + wr), rel=1e-5)


def test_desi_masks_and_pixels_of_one_arm_between_those_of_another(tmp_path: Path) -> None:
    arms = {"B": ([4000.0, 4002.0, 4004.0], [1, 2, 3]), "R": ([4003.0, 4004.0, 4005.0], [4, 5, 6])}
    hdus = [fits.PrimaryHDU()]
    for arm, (wave, flux) in arms.items():
        hdus.append(fits.ImageHDU(np.array(wave), name=f"{arm}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(np.array([flux], np.float32), name=f"{arm}_FLUX"))
        hdus.append(fits.ImageHDU(np.array([[0, 8, 0]]), name=f"{arm}_MASK"))
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    value = read(tmp_path / "a.fits")
    np.testing.assert_allclose(value["wavelength"], [0.4, 0.4002, 0.4003, 0.4004, 0.4005])
    np.testing.assert_array_equal(value["flux"], [1, np.nan, 4, 3, 6])
    np.testing.assert_array_equal(value["ivar"], [1, 0, 1, 1, 1])


def test_desi_arms_can_be_chosen() -> None:
    z = read(DESI, row=0, arms=["z"])
    np.testing.assert_allclose(z["wavelength"][[0, -1]], [0.752, 0.77592])
    assert len(read(DESI, row=0, arms=["R", "B"])["flux"]) == 551 + 700 - 51
    assert refused(DESI, arms=["B", "X"]).detail == "X asked, it has B, R, Z"


def test_desi_rows_beyond_the_end_and_other_layouts_are_refused(tmp_path: Path) -> None:
    assert "it has 2" in refused(DESI, row=2).detail
    error = refused(table(tmp_path / "a.fits", flux=FLUX, wave=WAVE), format="desi")
    assert error.reason.startswith("no HDUs [ARM_]WAVELENGTH") and "PRIMARY" in error.detail


# -------------------------------------------------------------------------------------- images


@pytest.mark.parametrize(
    "header, unit",
    [
        ({"CRVAL1": 4000.0, "CDELT1": 1.0}, "no CUNIT1: Å"),
        ({"CRVAL1": 4000.0, "CD1_1": 1.0, "CUNIT1": "Angstrom", "CTYPE1": "LINEAR"}, "IRAF"),
        ({"CRVAL1": 4000.0, "CD1_1": 1.0, "CDELT1": 7.0, "CTYPE1": "WAVE"}, "CD wins"),
        ({"CRVAL1": 4050.0, "CDELT1": 1.0, "CRPIX1": 51.0, "CTYPE1": "WAVE"}, "CRPIX1"),
        ({"CRVAL1": 400.0, "CDELT1": 0.1, "CUNIT1": "nm", "CTYPE1": "WAVE"}, "nm"),
        ({"CRVAL1": 4e-7, "CDELT1": 1e-10, "CUNIT1": "m", "CTYPE1": "WAVE"}, "m"),
    ],
)
def test_linear_wcs(tmp_path: Path, header: dict[str, Any], unit: str) -> None:
    value = read(image(tmp_path / "a.fits", **header))
    np.testing.assert_allclose(value["wavelength"], WAVE * 1e-4, err_msg=unit)
    np.testing.assert_array_equal(value["flux"], FLUX)


@pytest.mark.parametrize(
    "header",
    [{"DC_FLAG": 1, "CTYPE1": "LINEAR"}, {"CTYPE1": "LOGLAM"}, {"CUNIT1": "log(Angstrom)"}],
)
def test_decimal_logarithms(tmp_path: Path, header: dict[str, Any]) -> None:
    value = read(image(tmp_path / "a.fits", CRVAL1=3.6, CDELT1=1e-4, CRPIX1=1.0, **header))
    np.testing.assert_allclose(value["wavelength"], 10 ** (3.6 + 1e-4 * np.arange(100)) * 1e-4)


def test_natural_logarithms_agree_with_wcslib(tmp_path: Path) -> None:
    from astropy.wcs import WCS

    header = {"CRVAL1": 4e-7, "CDELT1": 1e-10, "CRPIX1": 3.0, "CUNIT1": "m", "CTYPE1": "WAVE-LOG"}
    value = read(image(tmp_path / "a.fits", **header))
    expected = WCS(fits.getheader(tmp_path / "a.fits")).all_pix2world(np.arange(100), 0)[0]
    np.testing.assert_allclose(value["wavelength"], expected * 1e6, rtol=1e-9)


def test_images_of_ivar_and_mask(tmp_path: Path) -> None:
    hdus = [
        fits.PrimaryHDU(FLUX),
        fits.ImageHDU(FLUX * 2, name="IV"),
        fits.ImageHDU(np.arange(100) % 2, name="BAD"),
    ]
    hdus[0].header.update(CRVAL1=4000.0, CDELT1=1.0)
    fits.HDUList(hdus).writeto(tmp_path / "a.fits")
    value = read(tmp_path / "a.fits", ivar="IV", mask="BAD")
    np.testing.assert_array_equal(value["ivar"], FLUX * 2)
    np.testing.assert_array_equal(value["mask"], np.arange(100) % 2 == 1)


@pytest.mark.parametrize(
    "header, reason",
    [
        ({}, "no wavelength scale"),
        ({"CRVAL1": 4000.0}, "no wavelength scale"),
        ({"CRVAL1": 4000.0, "CDELT1": 1.0, "CTYPE1": "FREQ"}, "the axis is no wavelength"),
        ({"CRVAL1": 4000.0, "CDELT1": 1.0, "CTYPE1": "WAVE-TAB"}, "the axis is no wavelength"),
        ({"CRVAL1": 4000.0, "CDELT1": 1.0, "CTYPE1": "AWAV"}, "wavelengths in air"),
    ],
)
def test_images_without_wavelengths(tmp_path: Path, header: dict[str, Any], reason: str) -> None:
    assert refused(image(tmp_path / "a.fits", **header)).reason == reason


def test_an_image_of_two_axes_is_no_spectrum(tmp_path: Path) -> None:
    path = image(tmp_path / "a.fits", np.ones((5, 5)), CRVAL1=4000.0, CDELT1=1.0)
    assert refused(path).reason == "no spectrum"
    assert refused(path, format="image").reason == "no 1-D image"
    assert refused(path, format="table").reason == "no table"


# ---------------------------------------------------------------------------------- air, vacuum


def test_air_is_converted_where_it_is_stated(tmp_path: Path) -> None:
    path = table(tmp_path / "a.fits", flux=FLUX, wave=WAVE)
    np.testing.assert_allclose(read(path, medium="air")["wavelength"], air_to_vacuum(WAVE * 1e-4))
    axis = image(tmp_path / "b.fits", CRVAL1=4000.0, CDELT1=1.0, CTYPE1="AWAV")
    np.testing.assert_allclose(read(axis, medium="air")["wavelength"], air_to_vacuum(WAVE * 1e-4))


# --------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, packed: bool) -> None:
    whole = table(tmp_path / "whole.fits", flux=np.arange(2000.0), wave=4000 + np.arange(2000.0))
    data = gzip.compress(whole.read_bytes()) if packed else whole.read_bytes()
    path = tmp_path / ("cut.fits.gz" if packed else "cut.fits")
    path.write_bytes(data)
    assert len(read(path)["flux"]) == 2000
    end = len(data) - (64 if packed else 1)  # gzip ends with a checksum, FITS with blanks
    for length in (*range(1, end, len(data) // 23), end):
        path.write_bytes(data[:length])
        assert refused(path).reason in ("damaged FITS file", "no spectrum"), length


@pytest.mark.parametrize("row", [0, "all"])
def test_a_stack_cut_short_is_refused(tmp_path: Path, row: Any) -> None:
    path = tmp_path / "cut.fits"
    path.write_bytes(DESI.read_bytes()[:60_000])
    assert refused(path, row=row).reason == "damaged FITS file"


@pytest.mark.parametrize("row", [0, "all"])
def test_missing_and_empty_files(tmp_path: Path, row: Any) -> None:
    assert refused(tmp_path / "none.fits", row=row).reason == "no such file"
    (tmp_path / "empty.fits").touch()
    assert refused(tmp_path / "empty.fits", row=row).reason == "empty file"


def test_wrong_hdus_and_columns_list_what_there_is(tmp_path: Path) -> None:
    path = table(tmp_path / "a.fits", name="COADD", flux=FLUX, wave=WAVE)
    assert (refused(path, hdu=7).reason, refused(path, hdu=7).detail) == (
        "no HDU 7",
        "HDUs: 0 PRIMARY, 1 COADD",
    )
    assert refused(path, hdu="SPECTRUM").reason == "no HDU SPECTRUM"
    assert refused(path, hdu=0).reason == "no spectrum in HDU 0"
    assert len(read(path, hdu="COADD")["flux"]) == len(read(path, hdu=1)["flux"]) == 100
    error = refused(path, ivar="IVAR")
    assert (error.reason, error.detail) == ("no column IVAR", "the columns are flux, wave")
    assert refused(path, flux="FLX").reason == "no column FLX"
    other = table(tmp_path / "b.fits", counts=FLUX, wave=WAVE)
    assert refused(other).reason == "no flux column" and "counts, wave" in refused(other).detail
    assert refused(table(tmp_path / "c.fits", flux=FLUX, y=WAVE)).reason == "no wavelength column"


def test_spectra_that_cannot_be_used(tmp_path: Path) -> None:
    lengths = {"B_WAVELENGTH": WAVE, "B_FLUX": FLUX[None, :50]}
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(v, name=k) for k, v in lengths.items())]
    fits.HDUList(hdus).writeto(tmp_path / "l.fits")
    assert refused(tmp_path / "l.fits").reason == "flux and wavelength differ in length"
    nan = table(tmp_path / "n.fits", flux=FLUX * np.nan, wave=WAVE)
    assert refused(nan).reason == "no observed flux"
    mixed = table(tmp_path / "m.fits", flux=FLUX, wave=np.random.default_rng(0).permutation(WAVE))
    assert refused(mixed).reason == "wavelengths not ascending"


def test_configs_survive_json_and_pickle() -> None:
    config = SpectrumFiles(
        paths=["a.fits"], row="all", arms=["B"], hdu="X", wavelength_range=(0.4, 0.9)
    )
    assert Dataset.model_validate(config.model_dump()) == config
    assert Dataset.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="row"):
        SpectrumFiles(paths=[], row=-1)
