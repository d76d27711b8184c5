"""Images <-> patches: exact, whatever the shape, dtype, order and positions."""

from __future__ import annotations

import io
import pickle
import warnings

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from lom_galaxies import ImagePatches
from lom_galaxies.tokeniser import patch_order
from PIL import Image

from lom_core import BadRecord, ConfigError, Tokeniser
from lom_core.roles import Encoder

# stored dtype -> dtype of the tokens
DTYPES = {
    "u1": "u1",
    "i2": "i2",
    "u2": "i4",
    "f4": "f4",
    "f8": "f4",
    ">f4": "f4",
    ">i2": "i2",
    ">u2": "i4",
    "i4": "i4",
    "u4": "i8",
    "i8": "i8",
    "f2": "f4",
    "?": "u1",
}


def image_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        # Values that float32 holds, so that float64 images must come back unchanged as well.
        return rng.normal(0, 100, shape).astype("f2" if kind.itemsize == 2 else "f4").astype(kind)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    info = np.iinfo(kind)
    return rng.integers(
        info.min, info.max, shape, endpoint=True, dtype=kind.newbyteorder("=")
    ).astype(kind)


def encoder(**fields: object) -> Encoder:
    return ImagePatches.model_validate(fields).build()


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    high=st.integers(1, 5),
    wide=st.integers(1, 5),
    cut=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    channels=st.integers(1, 5),
    dtype=st.sampled_from(sorted(DTYPES)),
    order=st.sampled_from(["raster", "spiral"]),
    positions=st.sampled_from(["grid", "index"]),
    seed=st.integers(0, 99),
)
def test_decode_inverts_encode(
    rows, columns, high, wide, cut, channels, dtype, order, positions, seed
) -> None:
    # The last row and column of patches may be incomplete, but the image holds a patch.
    height = rows * high - (min(cut[0], high - 1) if rows > 1 else 0)
    width = columns * wide - (min(cut[1], wide - 1) if columns > 1 else 0)
    image = image_of((height, width, channels), dtype, seed)
    patches = ImagePatches(
        patch_size=high,
        patch_width=wide,
        n_chan=channels,
        order=order,
        positions=positions,
        grid_shape=(rows, columns),
    )
    coder = patches.build()
    tokens = coder.encode(image)
    assert tokens.content.shape == (rows * columns, patches.width)
    assert tokens.content.dtype == np.dtype(DTYPES[dtype])
    assert tokens.positions.shape == (rows * columns, patches.pos_width)
    assert tokens.positions.dtype == np.float32
    back = coder.decode(tokens)
    assert back.shape == (rows * high, columns * wide, channels)
    assert np.array_equal(back[:height, :width], image.astype(DTYPES[dtype]))
    padded = (height, width) != back.shape[:2]
    assert (tokens.weights is not None) == padded
    if padded:
        assert np.isnan(back[height:]).all() and np.isnan(back[:, width:]).all()
        assert tokens.weights.sum() == image.size
    else:
        assert back.dtype == np.dtype(DTYPES[dtype])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12))
def test_the_spiral_visits_neighbours_from_the_centre(rows: int, columns: int) -> None:
    order = patch_order(rows, columns, "spiral")
    assert sorted(order) == list(range(rows * columns))
    at = np.stack(np.divmod(order, columns), axis=1)
    assert (np.abs(np.diff(at, axis=0)).sum(axis=1) == 1).all()
    rim = np.minimum.reduce([at[:, 0], at[:, 1], rows - 1 - at[:, 0], columns - 1 - at[:, 1]])
    assert (np.diff(rim) <= 0).all(), "each ring lies around the one before"
    assert rim[0] == (min(rows, columns) - 1) // 2
    if rows == columns:
        assert (np.abs(at[0] - (rows - 1) / 2) <= 0.5).all()


def test_a_known_spiral_and_raster() -> None:
    assert patch_order(3, 3, "spiral").tolist() == [4, 3, 6, 7, 8, 5, 2, 1, 0]
    assert patch_order(2, 3, "raster").tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="read-only"):  # the cache is shared
        patch_order(3, 3, "spiral")[0] = 1


def test_values_of_a_patch_are_row_column_channel() -> None:
    image = np.arange(4 * 6 * 2, dtype=np.int16).reshape(4, 6, 2)
    tokens = encoder(patch_size=2, patch_width=3, n_chan=2).encode(image)
    assert tokens.positions.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert tokens.content[1].tolist() == image[:2, 3:].ravel().tolist()
    spiral = encoder(patch_size=2, n_chan=2, order="spiral", positions="index")
    assert spiral.encode(image[:, :4]).positions.tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
def test_nan_and_masked_pixels_have_no_weight_and_decode_to_nan(dtype: str) -> None:
    values = image_of((8, 8, 3), dtype)
    values[1, 2, 0], values[3, 3, 1] = np.nan, np.inf
    bad = np.zeros(values.shape, bool)
    bad[5, :, 2] = True
    coder = encoder(patch_size=4)
    tokens = coder.encode(np.ma.masked_array(values, bad))
    lost = bad | ~np.isfinite(values)
    assert tokens.weights.dtype == np.float32
    assert (tokens.weights == 0).sum() == lost.sum() == 10
    assert (tokens.weights[tokens.weights > 0] == 1).all()
    back = coder.decode(tokens)
    assert np.array_equal(np.isnan(back), lost)
    assert np.array_equal(back[~lost], values[~lost].astype("f4"))


def test_masks_and_weights_of_every_layout() -> None:
    image = image_of((4, 6, 3), "u1")
    coder = encoder(patch_size=2)
    bad = np.zeros((4, 6), bool)
    bad[0, 1] = True
    spread = np.repeat(bad[..., None], 3, axis=2)
    first = {"image": np.moveaxis(image, -1, 0), "mask": np.moveaxis(spread, -1, 0)}
    for value in (
        {"image": image, "mask": bad},
        {"image": image, "mask": spread},
        {"image": image, "mask": bad[..., None].astype("u1") * 7},
        first,
    ):
        back = coder.decode(coder.encode(value))
        assert np.array_equal(np.isnan(back), spread)
        assert np.array_equal(back[~spread], image[~spread])
    weight = np.full((4, 6), 3.0)
    weight[0, 0], weight[0, 1], weight[1, 1], weight[2, 2] = 0, -2, np.nan, 9
    weights = coder.encode({"image": image, "weight": weight, "mask": bad}).weights
    assert (weights == 0).sum() == 3 * 3
    assert weights[weights > 0].mean() == pytest.approx(1)
    assert weights.max() / weights[weights > 0].min() == pytest.approx(3)


@pytest.mark.parametrize("unit", [1e-300, 1e-46, 1.0, 1e38, 1e60])
def test_weights_in_any_unit(unit: float) -> None:
    weight = np.array([[0.0, 1.0], [2.0, np.inf]]) * unit
    weight[0, 0] = -unit
    coder = encoder(patch_size=2, n_chan=1)
    weights = coder.encode({"image": np.ones((2, 2)), "weight": weight}).weights
    assert weights[0] == pytest.approx([0, 2 / 3, 4 / 3, 0])


def test_large_whole_numbers_survive_beside_unobserved_ones() -> None:
    image = np.full((2, 2, 1), 2**24 + 1, np.int32)
    coder = encoder(patch_size=2, n_chan=1)
    back = coder.decode(coder.encode({"image": image, "mask": [[1, 0], [0, 0]]}))
    assert np.isnan(back[0, 0, 0]) and back[1, 1, 0] == 2**24 + 1


def test_what_float32_cannot_hold_is_not_observed() -> None:
    image = np.ones((2, 2))
    image[0, 0] = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = encoder(patch_size=2, n_chan=1).encode(image)
    assert tokens.weights.tolist() == [[0, 1, 1, 1]]


def test_channels_first_only_where_it_cannot_be_mistaken() -> None:
    coder = encoder(patch_size=2)
    image = image_of((4, 6, 3), "u1")
    assert np.array_equal(coder.decode(coder.encode(np.moveaxis(image, -1, 0))), image)
    both = image_of((3, 4, 3), "u1")  # either way 3 channels: read as (H, W, C)
    assert np.array_equal(coder.decode(coder.encode(both))[:3], both)
    with pytest.raises(BadRecord, match=r"another number of channels \(\(4, 3, 6\)"):
        coder.encode(image_of((4, 3, 6), "u1"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.zeros((3, 9, 3)), "smaller than a patch.*3 x 9 pixels, a patch is 4 x 4"),
        (np.zeros((9, 9, 4)), "another number of channels"),
        (np.zeros((9, 9)), "another number of channels"),
        (np.full((9, 9, 3), np.nan), "no observed pixel"),
        ({"image": np.zeros((9, 9, 3)), "mask": np.ones((9, 9))}, "no observed pixel"),
        ({"image": np.zeros((9, 9, 3)), "mask": np.ones((9, 8))}, "mask of another shape"),
        ({"image": np.zeros((9, 9, 3)), "weight": np.ones(9)}, "weight of another shape"),
        ({"image": None}, "no image"),
        ({"bytes": None, "path": "x.png"}, "no image"),
        ([[1, 2], [3]], "no image"),
        (np.array([["a"]]), "no image"),
        (np.zeros((9, 9, 3), complex), "no image"),
        (np.full((9, 9, 3), 2**63, np.uint64), "whole numbers beyond int64"),
        (b"not a picture", "damaged image"),
    ],
)
def test_what_is_no_image_is_a_bad_record(value: object, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        encoder(patch_size=4).encode(value)


def test_index_positions_that_would_decode_wrongly_are_refused() -> None:
    image = image_of((4, 16, 1), "u1")  # 16 patches, which are no 4 x 4
    with pytest.raises(BadRecord, match=r"set grid_shape=\[2, 8\]"):
        encoder(patch_size=2, n_chan=1, positions="index").encode(image)
    with pytest.raises(BadRecord, match=r"set grid_shape=\[2, 8\]"):
        encoder(patch_size=2, n_chan=1, positions="index", grid_shape=(8, 2)).encode(image)
    square = encoder(patch_size=2, n_chan=1, positions="index")
    tokens = square.encode(image_of((8, 8, 1), "u1"))
    with pytest.raises(ConfigError, match="15 index positions are no square"):
        square.decode(tokens[:15])


@pytest.mark.parametrize("positions", ["grid", "index"])
def test_missing_tokens_decode_to_nan_in_place(positions: str) -> None:
    image = image_of((6, 8, 2), "i2")
    shape = {"patch_size": 2, "n_chan": 2, "grid_shape": (3, 4)}
    coder = encoder(**shape, positions=positions, order="spiral")
    tokens = coder.encode(image)
    back = coder.decode(tokens[3:])
    gone = np.isnan(back)
    assert gone.sum() == 3 * 2 * 2 * 2
    assert np.array_equal(back[~gone], image[~gone])
    shuffled = np.random.default_rng(0).permutation(len(tokens))
    assert np.array_equal(coder.decode(tokens[shuffled]), image)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def test_hugging_face_values() -> None:
    image = image_of((8, 8, 3), "u1")
    coder = encoder(patch_size=4)
    picture = Image.fromarray(image)
    data = png(picture)
    for value in (
        picture,
        Image.open(io.BytesIO(data)),
        {"bytes": data, "path": None},
        data,
        image.tolist(),
        {"image": picture, "mask": np.zeros((8, 8))},
        {"image": {"bytes": data}},
    ):
        back = coder.decode(coder.encode(value))
        assert np.array_equal(back, image)
    palette = picture.quantize(8)
    assert np.array_equal(coder.decode(coder.encode(palette)), np.asarray(palette.convert("RGB")))
    masked = {
        "image": picture,
        "mask": Image.fromarray(np.eye(8, dtype="u1")),
    }
    assert np.isnan(coder.decode(coder.encode(masked))).sum() == 8 * 3


@pytest.mark.parametrize("dtype", [">i2", "u2", ">f4"])
def test_fits_in_memory_is_never_read_by_pillow(dtype: str) -> None:
    """Pillow flips FITS, and knows neither signs nor BZERO nor cubes."""
    cube = image_of((3, 4, 6), dtype)
    buffer = io.BytesIO()
    fits.PrimaryHDU(cube).writeto(buffer)
    coder = encoder(patch_size=2)
    back = coder.decode(coder.encode({"bytes": buffer.getvalue()}))
    assert np.array_equal(back, np.moveaxis(cube, 0, -1))
    with pytest.raises(BadRecord, match="damaged FITS file"):
        coder.encode({"bytes": buffer.getvalue()[:3000]})
    with pytest.raises(BadRecord, match="FITS opened by Pillow"):
        coder.encode(Image.open(buffer))


def test_16_bits_in_either_byte_order() -> None:
    image = image_of((4, 6), "u2")
    coder = encoder(patch_size=2, n_chan=1)
    for mode, stored in (("I;16", "<u2"), ("I;16B", ">u2")):
        picture = Image.frombytes(mode, (6, 4), image.astype(stored).tobytes())
        assert np.array_equal(coder.decode(coder.encode(picture))[..., 0], image)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_cut_in_half_are_bad_records(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image_of((64, 64, 3), "u1")).save(buffer, kind)
    half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
    late = Image.open(io.BytesIO(half))  # opens: Pillow has read the header only
    for value in (half, {"bytes": half}, late):
        with pytest.raises(BadRecord, match="damaged image"):
            encoder(patch_size=4).encode(value)


def test_config_round_trip() -> None:
    config = ImagePatches(patch_size=4, patch_width=2, n_chan=5, order="spiral", grid_shape=(2, 3))
    assert Tokeniser.model_validate(config.model_dump()) == config
    assert Tokeniser.model_validate_json(config.model_dump_json()) == config
    again = pickle.loads(pickle.dumps(config.build()))
    image = image_of((8, 6, 5), "u2")
    assert np.array_equal(again.decode(again.encode(image)), image)
    assert (config.width, config.pos_width, config.n_channels, config.vocab_size) == (40, 2, 5, 0)
