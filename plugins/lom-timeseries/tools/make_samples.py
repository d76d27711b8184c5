"""Make the samples that ship, from three packages of the Python Package Index (DATA_LICENSES).

    python tools/make_samples.py SLSNE ALTAIPONY PYWAVELETS

The arguments are the folders into which the wheels slsne 0.3, altaipony 2.1.2 and pywavelets
1.9.0 were unpacked.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from astropy.io import fits

OUT = Path(__file__).parent.parent / "src" / "lom_timeseries" / "samples"
BANDS = ("g", "r", "i", "z", "cyan", "orange")
KEPLER = "kplr010002792-2009259160929_llc.fits"
COLUMNS = ("TIME", "SAP_FLUX", "SAP_FLUX_ERR", "PDCSAP_FLUX", "PDCSAP_FLUX_ERR", "SAP_QUALITY")


def supernovae(folder: Path) -> None:
    """Every third of the objects that fit, in the order of their names, is held out."""
    curves = {}
    for path in sorted((folder / "slsne/ref_data/supernovae").iterdir()):
        table = path / f"{path.name}.txt"
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
        kept = [
            (float(r[0]), float(r[1]), float(r[3]), r[6])
            for r in rows
            if r[7] == r[9] == "False" and r[8] == "AB" and r[6] in BANDS and float(r[3]) > 0
        ]
        if 60 <= len(kept) <= 140 and len({band for *_, band in kept}) >= 3:
            curves[path.name] = sorted(kept)
    for split in ("train", "val"):
        chosen = [n for i, n in enumerate(curves) if (i % 3 == 2) == (split == "val")]
        with (OUT / f"supernovae_{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["object", "mjd", "mag", "magerr", "band"])
            for name in chosen:
                writer.writerows([name, *row] for row in curves[name])
        print(split, len(chosen), sum(len(curves[n]) for n in chosen))


def kepler(folder: Path) -> None:
    """The first two thirds of the quarter are train, the rest val."""
    with fits.open(folder / "altaipony/examples" / KEPLER) as hdus:
        data, header, primary = hdus[1].data, hdus[1].header, hdus[0].header
        border = len(data) * 2 // 3
        for split, part in (("train", slice(0, border)), ("val", slice(border, None))):
            columns = [
                fits.Column(c, hdus[1].columns[c].format, array=data[c][part]) for c in COLUMNS
            ]
            table = fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")
            first = fits.PrimaryHDU()
            for key in ("TELESCOP", "INSTRUME", "OBJECT", "KEPLERID", "QUARTER", "OBSMODE"):
                first.header[key] = primary[key]
            for key in ("TIMEUNIT", "BJDREFI", "BJDREFF"):
                table.header[key] = header[key]
            fits.HDUList([first, table]).writeto(OUT / f"kepler_{split}.fits", overwrite=True)


def ecg(folder: Path) -> None:
    values = np.load(folder / "pywt/data/ecg.npz", allow_pickle=False)["data"]
    assert values.shape == (1024,) and np.abs(values).max() < 2**15
    (OUT / "ecg.csv").write_text("\n".join(["ecg", *map(str, values)]) + "\n")


if __name__ == "__main__":
    slsne, altaipony, pywavelets = map(Path, sys.argv[1:])
    supernovae(slsne)
    kepler(altaipony)
    ecg(pywavelets)
