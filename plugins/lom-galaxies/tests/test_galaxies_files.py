"""Readers: what is stored comes back, what is damaged is one BadRecord with file and reason."""

from __future__ import annotations

import gzip
import pickle
import re
import struct
import warnings
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lom_galaxies import GalaxyFiles, GalaxyImages, GalaxySamples, ImagePatches
from PIL import Image

from lom_core import BadRecord, ConfigError, DataError, Dataset, ModalityRegistry, Source
from lom_core.data import Reader

REGISTRY = ModalityRegistry([GalaxyImages(patch_size=4)])
RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)
GREY = RNG.integers(0, 65536, (20, 24), dtype=np.uint16)
FLUX = RNG.normal(0, 1, (20, 24)).astype(np.float32)


def source(paths: Any, **fields: Any) -> Source:
    given = [str(p) for p in paths] if isinstance(paths, list) else str(paths)
    return GalaxyFiles(paths=given, **fields).build(REGISTRY)


def read(path: Path, **fields: Any) -> Any:
    record = source([path], **fields)[0]
    assert record["id"] == path.name
    return record["images"]


def write_fits(path: Path, *hdus: Any) -> Path:
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    fits.HDUList([*first, *hdus]).writeto(path)
    return path


def bad(path: Path, reason: str, named: Path | None = None, **fields: Any) -> BadRecord:
    """The one BadRecord of reading a file, which names file and reason."""
    with pytest.raises(BadRecord, match=reason) as caught:
        source([path], **fields)[0]
    assert str(caught.value).startswith(f"{named or path}: ")
    assert "\n" not in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    return caught.value


def test_the_galaxy_that_ships_one_file_a_band() -> None:
    path = Path(str(resources.files("lom_galaxies") / "samples" / "one_galaxy_{band}.fits"))
    rows = source([path], bands=["red", "green", "blue"])
    image = rows[0]["images"]
    assert image.dtype == np.uint8
    assert np.array_equal(image, GalaxySamples(split="val").build(REGISTRY)[0]["images"])
    assert Reader(rows, REGISTRY, 100).read(0, None).tokens["images"].content.shape == (64, 48)


@pytest.mark.parametrize("dtype", ["u1", ">i2", ">i4", ">f4", ">f8"])
def test_fits_keeps_values_and_width(tmp_path: Path, dtype: str) -> None:
    image = (FLUX * 100).astype(dtype) if dtype != "u1" else RGB[..., 0]
    got = read(write_fits(tmp_path / "a.fits", fits.ImageHDU(image)))  # not in the first HDU
    assert got.shape == (20, 24) and got.dtype.kind == image.dtype.kind
    assert got.dtype.itemsize == image.dtype.itemsize
    assert np.array_equal(got, image)


def test_fits_scaling_and_blank(tmp_path: Path) -> None:
    scaled = fits.ImageHDU(FLUX.copy())  # scale() works in place
    scaled.scale("int16", bscale=0.01, bzero=3.0)
    path = write_fits(tmp_path / "scaled.fits", scaled)
    assert np.abs(read(path) - FLUX).max() <= 0.005 + 1e-6
    path = write_fits(tmp_path / "unsigned.fits", fits.PrimaryHDU(GREY))  # BZERO 32768
    assert read(path).dtype == np.uint16 and np.array_equal(read(path), GREY)
    blank = fits.PrimaryHDU(np.arange(480, dtype=np.int16).reshape(20, 24))
    blank.header["BLANK"] = 7
    got = read(write_fits(tmp_path / "blank.fits", blank))
    assert np.argwhere(np.isnan(got)).tolist() == [[0, 7]]


def test_fits_compressed(tmp_path: Path) -> None:
    tiles = fits.CompImageHDU(GREY.astype(np.int32), compression_type="RICE_1")
    path = write_fits(tmp_path / "tiles.fits.fz", tiles)  # as fpack names them
    assert np.array_equal(read(path), GREY)
    assert len(source(path)) == 1 and source(tmp_path)[0]["id"] == "tiles.fits.fz"
    write_fits(tmp_path / "a.fits", fits.PrimaryHDU(FLUX))
    path = tmp_path / "b.fits.gz"
    path.write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    assert np.array_equal(read(path), FLUX)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    bad(path, "damaged FITS file")
    path.write_bytes(whole[:900] + bytes([whole[900] ^ 1]) + whole[901:])  # the checksum tells
    bad(path, "damaged FITS file")
    path.write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()[:4000]))
    bad(path, "damaged FITS file")


def test_fits_hdus_by_number_and_name(tmp_path: Path) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("z", "E", array=[1.0])], name="CAT")
    path = write_fits(
        tmp_path / "a.fits",
        table,
        fits.ImageHDU(FLUX, name="SCI"),
        fits.ImageHDU(FLUX + 1, name="ERR"),
        fits.ImageHDU(FLUX[0], name="ROW"),
    )
    assert np.array_equal(read(path), FLUX)
    assert np.array_equal(read(path, hdu=3), FLUX + 1)
    assert np.array_equal(read(path, hdu="err"), FLUX + 1)
    listed = re.escape("it has 0 PRIMARY (no image), 1 CAT (no image), 2 SCI (image), 3 ERR")
    bad(path, f"no HDU 9 .*{listed}", hdu=9)
    bad(path, f"no HDU RAW .*{listed}", hdu="RAW")
    bad(path, f"HDU CAT is no image .*{listed}", hdu="CAT")
    bad(path, "HDU 0 is no image", hdu=0)
    bad(path, "an image needs 2 or 3 axes", hdu="ROW")
    bad(path, "no HDU BPM", mask_hdu="BPM")
    empty = write_fits(tmp_path / "b.fits", table)
    bad(empty, "no HDU with an image .*1 CAT")


def test_cubes_and_masks(tmp_path: Path) -> None:
    cube = RNG.normal(0, 1, (3, 20, 24)).astype(np.float32)
    flags = np.zeros((20, 24), np.int16)
    flags[2, 3] = 4
    flags3 = np.zeros((3, 20, 24), np.int16)
    flags3[1, 2, 3] = 1
    path = write_fits(
        tmp_path / "a.fits",
        fits.PrimaryHDU(cube),
        fits.ImageHDU(flags, name="BPM"),
        fits.ImageHDU(flags3, name="BPM3"),
        fits.ImageHDU(flags[1:], name="SHORT"),
    )
    image = np.moveaxis(cube, 0, -1)
    assert np.array_equal(read(path), image)
    coder = REGISTRY.get_config("images").tokeniser.build()
    for name, where in (("BPM", [[2, 3, 0], [2, 3, 1], [2, 3, 2]]), ("BPM3", [[2, 3, 1]])):
        value = read(path, mask_hdu=name)
        back = coder.decode(coder.encode(value))
        assert np.argwhere(np.isnan(back)).tolist() == where
        assert np.array_equal(back[~np.isnan(back)], image[~np.isnan(back)])
    bad(path, r"mask of another shape \(\(19, 24\) for \(20, 24, 3\)", mask_hdu="SHORT")
    cropped = read(path, mask_hdu="BPM3", image_size=18)
    assert np.array_equal(cropped["image"], image[1:19, 3:21])
    assert np.argwhere(cropped["mask"]).tolist() == [[1, 0, 1]]
    bad(path, r"image smaller than image_size \(20 x 24, 21 asked", image_size=21)


def test_weights_of_an_hdu(tmp_path: Path) -> None:
    ivar = np.full((20, 24), 2e38)  # of 1e-19 erg/s/cm2: its mean overflows float32
    ivar[0, 0], ivar[0, 1], ivar[0, 2] = 0, np.nan, 6e38
    hdus = [fits.ImageHDU(ivar, name="IVAR"), fits.ImageHDU(ivar[1:], name="SHORT")]
    for band in "gr":
        write_fits(tmp_path / f"a_{band}.fits", fits.PrimaryHDU(FLUX), *hdus)
    path = tmp_path / "a_g.fits"
    value = read(path, weight_hdu="IVAR", image_size=20)
    assert np.array_equal(value["weight"], ivar[:, 2:22]) and set(value) == {"image", "weight"}
    value = read(tmp_path / "a_{band}.fits", bands=["g", "r"], weight_hdu="IVAR")
    weights = ImagePatches(patch_size=4, n_chan=2).build().encode(value).weights
    assert (weights == 0).sum() == 2 * 2
    assert weights[0, 4] == weights[0, 5] == pytest.approx(3 * weights[-1, -1])
    assert weights[weights > 0].mean() == pytest.approx(1)
    bad(path, "weight of another shape", weight_hdu="SHORT")
    bad(path, "no HDU 7", weight_hdu=7)
    picture = tmp_path / "a.png"
    Image.fromarray(RGB).save(picture)
    for name in ("mask_hdu", "weight_hdu"):  # never read as if all of it were good
        bad(picture, "a picture has no HDU", **{name: 1})


def test_one_file_a_band(tmp_path: Path) -> None:
    for i, band in enumerate("grz"):
        mask = fits.ImageHDU((i < FLUX).astype(np.uint8), name="BPM")
        write_fits(tmp_path / f"a_{band}.fits", fits.PrimaryHDU(FLUX + i), mask)
    path = tmp_path / "a_{band}.fits"
    bands = list("grz")
    got = read(path, bands=bands)
    assert source([path], bands=bands).ids() == ["a"]
    assert got.shape == (20, 24, 3)
    assert np.array_equal(got, np.stack([FLUX, FLUX + 1, FLUX + 2], axis=-1))
    masked = read(path, bands=bands, mask_hdu="BPM")
    assert np.array_equal(masked["mask"], np.stack([FLUX > 0, FLUX > 1, FLUX > 2], axis=-1))
    assert read(path, bands=["z"], image_size=4).shape == (4, 4, 1)

    bad(path, "no such file", named=tmp_path / "a_y.fits", bands=[*bands, "y"])
    write_fits(tmp_path / "a_u.fits", fits.PrimaryHDU(FLUX[1:]))
    told = re.escape("bands of different shapes (u (19, 24), g (20, 24))")
    bad(path, told, bands=["u", "g"])
    half = (tmp_path / "a_g.fits").read_bytes()[:4000]
    (tmp_path / "a_i.fits").write_bytes(half)
    bad(path, "damaged FITS file", named=tmp_path / "a_i.fits", bands=["g", "i"])
    write_fits(tmp_path / "a_c.fits", fits.PrimaryHDU(np.zeros((2, 20, 24))))
    bad(path, "a band needs one channel", bands=["c", "c"])
    with pytest.raises(ConfigError, match=r"each path must hold \{band\}"):
        source([tmp_path / "a_g.fits"], bands=bands)


def test_bands_as_pictures(tmp_path: Path) -> None:
    Image.fromarray(RGB[..., 0]).save(tmp_path / "r.png")
    Image.fromarray(RGB[..., 1]).save(tmp_path / "g.png")
    assert np.array_equal(read(tmp_path / "{band}.png", bands=["r", "g"]), RGB[..., :2])


def test_png_of_every_mode(tmp_path: Path) -> None:
    colour = Image.fromarray(RGB)
    palette = colour.quantize(16)
    alpha = colour.copy()
    alpha.putalpha(128)
    cases: dict[str, tuple[Image.Image, np.ndarray]] = {
        "rgb": (colour, RGB),
        "grey8": (Image.fromarray(RGB[..., 0]), RGB[..., 0]),
        "grey16": (Image.fromarray(GREY), GREY),
        "palette": (palette, np.asarray(palette.convert("RGB"))),
        "rgba": (alpha, RGB),
        "la": (Image.fromarray(RGB[..., 0]).convert("LA"), RGB[..., 0]),
        "bits": (Image.fromarray(RGB[..., 0] > 128), RGB[..., 0] > 128),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        got = read(tmp_path / f"{name}.png")
        assert got.shape == expected.shape, name
        assert np.array_equal(got, expected), name
        assert got.dtype.itemsize >= expected.dtype.itemsize, name


def test_png_with_16_bits_a_colour_is_not_cut_to_8(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    rows = b"".join(b"\0" + GREY[i, :12].astype(">u2").tobytes() for i in range(4))  # 4 x 4 x 3
    path = tmp_path / "deep.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)
    bad(path, "16 bits a colour")


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(40), np.arange(48)).astype(np.uint8)
    stacked = np.stack([smooth, smooth + 20, smooth + 40], axis=-1)
    for name, image in (("rgb.jpg", stacked), ("grey.JPEG", smooth)):
        path = tmp_path / name
        Image.fromarray(image).save(path, "jpeg", quality=98)
        got = read(path)
        assert got.shape == image.shape and got.dtype == np.uint8
        assert np.abs(got.astype(int) - image).max() <= 6
        whole = path.read_bytes()
        path.write_bytes(whole + b"\0\0")  # what cameras and archives append does no harm
        assert np.array_equal(read(path), got)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.fits"])
def test_damaged_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    bad(path, "no such file")
    path.write_bytes(b"")
    bad(path, "empty file")
    path.write_bytes(b"galaxies\n" * 400)
    bad(path, "damaged")
    path.unlink()
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if name.endswith("fits"):
        write_fits(path, fits.PrimaryHDU(noise))
    else:
        Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    assert read(path).size == noise.size
    ends = [len(whole) - n for n in (1, 2, 8, 12, 13, 16, 20)]  # PNG: inside its last chunks
    for end in (len(whole) // 2, len(whole) - 3000, 700, 100, 20, 3, *ends):
        path.write_bytes(whole[:end])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the verdict counts, not astropy's asides
            bad(path, "damaged")


def test_fits_cut_in_its_header_or_its_second_image(tmp_path: Path) -> None:
    path = write_fits(
        tmp_path / "a.fits", fits.PrimaryHDU(FLUX), fits.ImageHDU(FLUX, name="SECOND")
    )
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    bad(path, "damaged FITS file", hdu=0)
    path.write_bytes(whole[: 2880 + 1000])
    bad(path, "damaged FITS file")
    second = 2880 + 2880  # header and data of the first
    path.write_bytes(whole[: second + 1000])  # not "no HDU SECOND": there was one
    bad(path, "damaged FITS file", hdu="SECOND")
    path.write_bytes(whole[: second + 2880 + 200])
    bad(path, "damaged FITS file", hdu="SECOND")
    path.write_bytes(whole[:-100])  # all pixels are there, but the copy was not finished
    bad(path, "damaged FITS file .*truncated", hdu="SECOND")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_and_cut_files_give_an_image_or_a_bad_record(tmp_path: Path, data: Any) -> None:
    kind = data.draw(st.sampled_from(["png", "jpg", "fits"]))
    path = tmp_path / f"whole.{kind}"
    if not path.exists():
        if kind == "fits":
            write_fits(path, fits.PrimaryHDU(FLUX))
        else:
            Image.fromarray(RGB).save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    broken = tmp_path / f"broken.{kind}"
    broken.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read(broken)
        except BadRecord as error:
            assert str(broken) in str(error)
        else:
            assert image.ndim in (2, 3)


def test_an_image_smaller_than_a_patch_names_its_file(tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    Image.fromarray(RGB[:3]).save(path)
    reader = Reader(source([path]), REGISTRY, 100)
    told = r"small.png: images: image smaller than a patch \(3 x 24 pixels, a patch is 4 x 4\)"
    with pytest.raises(BadRecord, match=told):
        reader.read(0, None)


def test_folder_list_and_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(RGB).save(folder / "b.png")
    Image.fromarray(RGB).save(folder / "deep" / "a.JPG", "jpeg")
    write_fits(folder / "c.fits", fits.PrimaryHDU(FLUX))
    (folder / "notes.md").write_text("no image")
    found = source(folder)
    assert [found[i]["id"] for i in range(len(found))] == ["b.png", "c.fits", "a.JPG"]
    listed = tmp_path / "list.txt"
    listed.write_text("images/c.fits\n-\n\nimages/gone.png\nimages/b.png\n")
    for here in (tmp_path, tmp_path.parent):  # beside the list, or below the current folder
        monkeypatch.chdir(here)
        rows = source("list.txt" if here == tmp_path else listed)
        assert len(rows) == 5
        assert rows[1] == rows[2] == {}, "crossmatched: not observed"
        assert np.array_equal(rows[0]["images"], FLUX)
        with pytest.raises(BadRecord, match=r"gone\.png: no such file"):
            rows[3]
        assert np.array_equal(rows[4]["images"], RGB)
    with pytest.raises(DataError, match=r"no \.fits or .*file below"):
        source(_empty(tmp_path))


def _empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_bands_listed_beside_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for band in "gr":
        write_fits(tmp_path / f"a_{band}.fits", fits.PrimaryHDU(FLUX))
    (tmp_path / "list.txt").write_text("a_{band}.fits\n-\n")
    elsewhere = _empty(tmp_path)
    for here, name in ((tmp_path, "list.txt"), (elsewhere, "../list.txt")):
        monkeypatch.chdir(here)
        rows = source(name, bands=["g", "r"])
        assert rows[0]["images"].shape == (20, 24, 2) and rows[1] == {}


def test_config_round_trip_and_pickle(tmp_path: Path) -> None:
    flags = fits.ImageHDU((FLUX > 1).astype(np.uint8))
    path = write_fits(tmp_path / "a.fits", fits.ImageHDU(FLUX, name="SCI"), flags)
    config = GalaxyFiles(paths=[str(path)], hdu="SCI", mask_hdu=2, image_size=8)
    assert config.model_dump()["kind"] == "galaxy_files"
    assert Dataset.model_validate(config.model_dump()) == config
    assert Dataset.model_validate_json(config.model_dump_json()) == config
    sent = pickle.loads(pickle.dumps(config.build(REGISTRY)))
    assert np.array_equal(sent[0]["images"]["image"], FLUX[6:14, 8:16])
    assert np.array_equal(sent[0]["images"]["mask"], FLUX[6:14, 8:16] > 1)
    with pytest.raises(ConfigError, match="unknown modality 'pictures'"):
        GalaxyFiles(paths=[str(path)], modality="pictures").build(REGISTRY)
