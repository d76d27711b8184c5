"""GRIB: a real message, files as archives have them, and damaged ones. Needs the extra ``grib``."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lom_climate import ClimateFiles, ClimateGrid

from lom_core import DataError, ModalityRegistry

pytest.importorskip("cfgrib")
ONE = ModalityRegistry([ClimateGrid(channels=("t",), patch_size=8)])
TWO = ModalityRegistry([ClimateGrid(channels=("t_850", "t_500"), patch_size=3)])
POLAR = Path(__file__).parent / "data" / "polar_stereo.grib2"
NUMBER = count()


def config(path: Path, **fields: Any) -> ClimateFiles:
    given = {"paths": [str(path)], "variables": ["t"], "steps": [0], **fields}
    return ClimateFiles.model_validate(given)


def write(path: Path, levels: tuple[int, ...] = (850, 500), surface: bool = False) -> np.ndarray:
    """Temperatures at four times (4, level, 9, 12) as ERA5 has them; a message a field."""
    import eccodes

    values = np.random.default_rng(0).normal(280, 9, (4, len(levels), 9, 12)).astype(np.float32)
    asked = [(t, "isobaricInhPa", p, values[t, i]) for t in range(4) for i, p in enumerate(levels)]
    if surface:
        asked += [(t, "heightAboveGround", 2, values[t, 0]) for t in range(4)]
        asked += [(t, "heightAboveGround", 10, values[t, 0]) for t in range(2)]
    with path.open("wb") as file:
        for t, kind, level, field in asked:
            message = eccodes.codes_grib_new_from_samples("regular_ll_pl_grib2")
            keys = {"Ni": 12, "Nj": 9, "dataDate": 20010101, "dataTime": 600 * t}
            keys |= {"typeOfLevel": kind, "level": level, "shortName": "t", "bitsPerValue": 24}
            for name, value in (
                *(("latitudeOfFirstGridPoint", 80), ("latitudeOfLastGridPoint", -80)),
                *(("longitudeOfFirstGridPoint", 0), ("longitudeOfLastGridPoint", 330)),
                *(("iDirectionIncrement", 30), ("jDirectionIncrement", 20)),
            ):
                keys[f"{name}InDegrees"] = value
            for key, value in keys.items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, field.ravel().astype(np.float64))
            eccodes.codes_write(message, file)
            eccodes.codes_release(message)
    return values


def test_a_real_message_of_the_canadian_centre() -> None:
    record = config(POLAR).build(ONE)[0]
    value = record["climate"]
    assert record["id"] == "2013-05-20T06:00" and value["values"].shape == (1, 1, 200, 247)
    assert value["lat"].shape == (200, 247) and 15 < value["lat"].min() < value["lat"].max() < 90
    assert np.isfinite(value["values"]).all()
    assert 230 < value["values"].min() < value["values"].max() < 320  # K
    tokens = ONE.get_config("climate").tokeniser.build().encode(value)
    assert len(tokens.content) == 25 * 31


def test_times_and_levels(tmp_path: Path) -> None:
    values = write(tmp_path / "a.grib2")
    source = config(tmp_path / "a.grib2", variables=["t_850", "t_500"], steps=[0, 1]).build(TWO)
    assert [source[i]["id"] for i in range(3)] == [f"2001-01-01T{6 * i:02}:00" for i in range(3)]
    assert np.allclose(source[1]["climate"]["values"], values[1:3], atol=1e-4)
    assert source[0]["climate"]["lat"][0] == 80 and source[0]["climate"]["lon"][-1] == 330


def test_messages_of_several_kinds_are_chosen(tmp_path: Path) -> None:
    values = write(tmp_path / "a.grib2", surface=True)
    with pytest.raises(DataError, match=r"a\.grib2: .*choose some by filter_by_keys, such as"):
        config(tmp_path / "a.grib2").build(ONE)
    keys = {"typeOfLevel": "heightAboveGround", "level": 2}
    source = config(tmp_path / "a.grib2", variables=["t2m"], filter_by_keys=keys).build(ONE)
    assert np.allclose(source[3]["climate"]["values"][0, 0], values[3, 0], atol=1e-4)
    with pytest.raises(DataError, match="no variable 't'; it has none"):
        config(tmp_path / "a.grib2", filter_by_keys={"level": 3}).build(ONE)


def test_truncated_and_other_files(tmp_path: Path) -> None:
    whole = POLAR.read_bytes()
    for content in (whole[:2000], whole[:-30], b"GRIB" + bytes(400), bytes(400), whole[200:]):
        path = tmp_path / f"{next(NUMBER)}.grib2"
        path.write_bytes(content)
        with pytest.raises(DataError, match=path.name):
            config(path).build(ONE)


@pytest.mark.parametrize(
    ("edits", "told"),
    [
        # The length of section 6: cfgrib logs it and goes on, with memory that ecCodes freed twice.
        ({160: 2}, "cfgrib: failed to set key"),
        # A size in the JPEG 2000 that kills its decoder.
        ({179: 14, 7969: 84}, "the process that tried it died, status"),
    ],
)
def test_messages_that_end_a_process(tmp_path: Path, edits: dict[int, int], told: str) -> None:
    content = bytearray(POLAR.read_bytes())
    for at, byte in edits.items():
        content[at] = byte
    (tmp_path / "a.grib2").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.grib2: damaged \({told}"):
        config(tmp_path / "a.grib2").build(ONE)


def test_a_message_cut_off_behind_whole_ones_is_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.grib2"
    write(path, levels=(850,))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"a\.grib2: damaged \(cfgrib: skipping corrupted"):
        config(path).build(ONE)
