"""Redshifts without a transformer, from the same records: the training mean, ridge, a forest.

    python examples/redshift/baselines.py [--split val|test] [--folder SLSNE] [--out baselines.csv]

Features of a light curve are simple: of each common band the number of epochs, the brightest, mean
and faintest magnitude, the days to the brightest and from it to half a magnitude below; the length
of the curve, and colours at the brightest. Those of a spectrum are its fluxes in bins of 100 Å.
Missing ones are medians of the training set. ``--copies`` shows a model such changed copies of
training objects as the transformer saw. Answers are fitted in ln z.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from supernovae import Supernovae

from lom_core import ModalityConfig, ModalityRegistry

Array = NDArray[Any]
BANDS = ("g", "r", "i", "z", "cyan", "orange")
SUBSETS = (("light_curves",), ("spectra",), ("light_curves", "spectra"))


def features(record: dict[str, Any], given: tuple[str, ...]) -> Array:
    """(f,) numbers, NaN where they were not observed."""
    parts = []
    if "light_curves" in given:
        parts.append(of_curve(record.get("light_curves")))
    if "spectra" in given:
        parts.append(of_spectrum(record.get("spectra")))
    return np.concatenate(parts)


def of_curve(curve: dict[str, Array] | None) -> Array:
    found = np.full((len(BANDS), 6), np.nan)
    if curve is None:
        return np.append(found, [np.nan, np.nan])
    for row, band in zip(found, BANDS, strict=True):
        chosen = curve["band"] == band
        row[0] = chosen.sum()
        if chosen.any():
            time, mag = curve["time"][chosen], curve["value"][chosen]
            best = mag.argmin()
            later = time[best:][mag[best:] > mag[best] + 0.5]
            fall = later[0] - time[best] if len(later) else np.nan
            row[1:] = mag[best], mag.mean(), mag.max(), time[best] - curve["time"][0], fall
    return np.append(found, [np.ptp(curve["time"]), found[0, 1] - found[1, 1]])


def of_spectrum(spectrum: dict[str, Array] | None) -> Array:
    if spectrum is None:
        return np.full(60, np.nan)
    flux = np.clip(spectrum["flux"].reshape(60, 10), -5, 20)
    seen = np.isfinite(flux)
    total = np.where(seen, flux, 0).sum(1)
    return np.where(seen.any(1), total / np.maximum(seen.sum(1), 1), np.nan)


def models(seed: int) -> dict[str, Pipeline]:
    """Ridge chooses its penalty by leave-one-out on the training set."""
    ridge = RidgeCV(alphas=np.geomspace(0.1, 1e4, 16))
    forest = RandomForestRegressor(500, min_samples_leaf=3, max_features=0.33, random_state=seed)
    fill = SimpleImputer(strategy="median", add_indicator=True)
    return {
        "ridge": make_pipeline(fill, StandardScaler(), ridge),
        "random forest": make_pipeline(fill, forest),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="val")
    parser.add_argument("--folder", default="")
    parser.add_argument("--copies", type=int, default=0)
    parser.add_argument("--out", default="logs/redshift/baselines.csv")
    told = parser.parse_args()
    registry = ModalityRegistry([ModalityConfig(name="redshift", input_size=1)])
    augmented = {"copies": told.copies, "jitter": 0.2, "thin": 0.5} if told.copies else {}
    train = Supernovae(registry, told.folder, "train", **augmented)  # type: ignore[arg-type]
    held = Supernovae(registry, told.folder, told.split)
    seen, asked = ([s[i] for i in range(len(s))] for s in (train, held))
    logs = np.log([record["redshift"] for record in seen])
    rows = [
        ("training mean", "nothing", r["id"], np.exp(logs).mean(), r["redshift"]) for r in asked
    ]
    for given in SUBSETS:
        has = [i for i, r in enumerate(seen) if any(name in r for name in given)]
        x = np.stack([features(seen[i], given) for i in has])
        new = np.stack([features(record, given) for record in asked])
        for name, model in models(0).items():
            answers = np.exp(model.fit(x, logs[has]).predict(new))
            rows += [
                (name, "+".join(given), r["id"], z, r["redshift"])
                for r, z in zip(asked, answers, strict=True)
                if all(part in r for part in given)
            ]
    with open(told.out, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "given", "id", "predicted", "redshift"])
        writer.writerows(rows)
    for key in dict.fromkeys(row[:2] for row in rows):
        z, true = np.array([row[3:] for row in rows if row[:2] == key]).T
        print(
            f"{key[0]:14s} {key[1]:22s} {len(z):3d}  rmse {rmse(z, true):.3f}  "
            f"mad {np.median(np.abs(z - true) / (1 + true)):.3f}"
        )


def rmse(z: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((z - truth) ** 2)))


if __name__ == "__main__":
    main()
