"""Redshifts of a split from every subset of what was observed, and whether intervals hold.

    python examples/redshift/evaluate.py logs/redshift --split examples/redshift/test.yaml --fit val

Writes predictions.csv, table.json and a figure into the run's folder. Quantiles are corrected by
``lom calibrate``'s correction, fitted here on ``--fit`` for each subset (``--fit ''``: raw).
"""

from __future__ import annotations

import argparse
import csv
import json
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lom_core
from lom_core.conformal import Correction
from lom_core.named import open_named
from lom_core.runfile import make_importable

Array = NDArray[Any]
GIVEN = ("light_curves", "spectra")
SUBSETS = tuple(chain.from_iterable(combinations(GIVEN, n) for n in range(3)))
LEVELS = (0.5, 0.9)
ASKED = (0.05, 0.25, 0.5, 0.75, 0.95)


def ask(model: Any, records: list[dict[str, Any]], given: tuple[str, ...]) -> dict[str, Any]:
    """Arrays with an entry for each record that holds what is given."""
    chosen = [r for r in records if all(name in r for name in given)]
    plain = [{k: r[k] for k in ("id", "redshift", *given)} for r in chosen]
    answers = model.predict(plain, target="redshift", given=given, quantiles=ASKED)
    nats = model.log_likelihood(plain, given=given, target="redshift")
    return {
        "id": np.array([r["id"] for r in chosen]),
        "truth": np.array([r["redshift"] for r in chosen]),
        "quantiles": np.array([[a.quantiles[q] for q in ASKED] for a in answers], float),
        "nats": np.array([sum(n.values()) for n in nats]),
    }


def corrections(found: dict[str, Any]) -> Correction:
    """Of intervals in ln z, in which the model's scale is even."""
    return Correction.fit(np.stack([score(found, level) for level in LEVELS]), LEVELS)


def score(found: dict[str, Any], level: float) -> Array:
    """(n,) distance of ln z from the median in half-widths of its side of the interval."""
    low, median, high, truth = *ends(found, level), np.log(found["truth"])
    return np.maximum((truth - median) / (high - median), (median - truth) / (median - low))


def ends(found: dict[str, Any], level: float, factor: float = 1.0) -> tuple[Array, Array, Array]:
    q = np.log(found["quantiles"])
    low, high = (ASKED.index(x) for x in (round((1 - level) / 2, 3), round((1 + level) / 2, 3)))
    middle = q[:, 2]
    return middle + factor * (q[:, low] - middle), middle, middle + factor * (q[:, high] - middle)


def bootstrap(values: dict[str, Array], measure: Any, seed: int = 0) -> tuple[float, float, float]:
    """The measure, and its 95% interval over 2000 draws of objects."""
    rng, n = np.random.default_rng(seed), len(next(iter(values.values())))
    draws = []
    for _ in range(2000):
        pick = rng.integers(0, n, n)
        draws.append(measure({k: v[pick] for k, v in values.items()}))
    return (measure(values), *np.percentile(draws, [2.5, 97.5]))


MEASURES: dict[str, Any] = {
    "rmse": lambda v: float(np.sqrt(np.mean((v["z"] - v["truth"]) ** 2))),
    "rmse_of_ln": lambda v: float(np.sqrt(np.mean(np.log(v["z"] / v["truth"]) ** 2))),
    "median_error": lambda v: float(np.median(np.abs(v["z"] - v["truth"]) / (1 + v["truth"]))),
}


def measured(values: dict[str, Array]) -> dict[str, list[float]]:
    measures = {**MEASURES}
    for key in ("nats", "inside", "corrected"):
        if key in values:
            measures[key] = lambda v, key=key: float(v[key].mean())
    return {name: [round(x, 4) for x in bootstrap(values, m)] for name, m in measures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--fit", default="")
    parser.add_argument("--baselines", type=Path, help="baselines.csv of the same split")
    told = parser.parse_args()
    make_importable(told.run)
    model = lom_core.load(told.run, calibrated=False)
    held = {s: list_of(open_named(model.config, s)) for s in {told.split, told.fit} - {""}}
    rows, answers = [], []
    for given in SUBSETS:
        found = ask(model, held[told.split], given)
        fitted = corrections(ask(model, held[told.fit], given)) if told.fit else None
        values = {"z": found["quantiles"][:, 2], "truth": found["truth"], "nats": found["nats"]}
        values["inside"] = score(found, 0.9) <= 1
        if fitted is not None:
            values["corrected"] = score(found, 0.9) <= fitted.at(0.9)
        low, _, high = np.exp(ends(found, 0.9, fitted.at(0.9) if fitted else 1.0))
        name = "+".join(given) or "nothing"
        rows.append({"model": "lom", "given": name, "n": len(low), **measured(values)})
        columns = (found["id"], values["z"], found["truth"], low, high)
        answers += [("lom", name, *row) for row in zip(*columns, strict=True)]
    if told.baselines:
        rows += compare(told.baselines)
    out = told.run / f"redshift_{Path(told.split).stem}"
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "given", "id", "predicted", "redshift", "low", "high"])
        writer.writerows(answers)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1))
    if told.baselines:
        draw(rows, answers, out.with_suffix(".png"))
    for row in rows:
        told_of = [f"{k} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for k, v in list(row.items())[3:]]
        print(f"{row['model']:14s} {row['given']:22s} {row['n']:3d}  " + "  ".join(told_of))


def compare(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for key in dict.fromkeys((row["model"], row["given"]) for row in found):
        chosen = [row for row in found if (row["model"], row["given"]) == key]
        values = {
            "z": np.array([float(row["predicted"]) for row in chosen]),
            "truth": np.array([float(row["redshift"]) for row in chosen]),
        }
        rows.append({"model": key[0], "given": key[1], "n": len(chosen), **measured(values)})
    return rows


def draw(rows: list[dict[str, Any]], answers: list[tuple[Any, ...]], path: Path) -> None:
    """Predicted against catalogued redshifts for each subset, and errors beside baselines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from lom_core.pictures import BLUE, INK, RED

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, 4, width_ratios=[1, 1, 1, 1.15])
    shown = ["light_curves", "spectra", "light_curves+spectra"]
    titles = ["light curve", "spectrum", "light curve + spectrum"]
    ends, ticks = (0.02, 4.0), [0.03, 0.1, 0.3, 1, 3]
    for ax, given, title in zip(axes, shown, titles, strict=False):
        z, truth, low, high = np.array([row[3:] for row in answers if row[1] == given], float).T
        inside = (truth >= low) & (truth <= high)
        ax.plot(ends, ends, color="#8b949e", lw=0.8, ls=":")
        for chosen, colour in ((inside, BLUE), (~inside, RED)):
            bars = np.abs(np.stack([low, high]) - z)[:, chosen]
            marks = {"fmt": "o", "ms": 3.5, "lw": 0.7, "color": colour}
            ax.errorbar(truth[chosen], z[chosen], bars, alpha=0.75, **marks)
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="catalogued redshift")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_ticks(ticks, [f"{t:g}" for t in ticks])
            axis.set_minor_formatter(NullFormatter())
        ax.set_title(f"given {title}", fontsize=10)
        ax.text(
            0.04,
            0.94,
            f"{inside.sum()} of {len(z)} in 90% intervals",
            color=INK,
            fontsize=8.5,
            transform=ax.transAxes,
            va="top",
        )
    axes[0].set_ylabel("predicted redshift")
    _bars(axes[3], rows, shown, titles)
    figure.savefig(path, dpi=110)


def _bars(ax: Any, rows: list[dict[str, Any]], shown: list[str], titles: list[str]) -> None:
    from lom_core.pictures import BLUE

    colours = {"lom": BLUE, "random forest": "#57606a", "ridge": "#afb8c1"}
    for i, (model, colour) in enumerate(colours.items()):
        found = {row["given"]: row["rmse"] for row in rows if row["model"] == model}
        value, low, high = np.array([found[given] for given in shown]).T
        at = np.arange(len(shown)) + 0.26 * (i - 1)
        bars = ([value - low, high - value], at)
        ax.bar(at, value, 0.24, color=colour, label=model)
        ax.errorbar(bars[1], value, bars[0], fmt="none", color="#1b1f24", lw=0.9)
    mean = next(row["rmse"][0] for row in rows if row["model"] == "training mean")
    ax.axhline(mean, color="#8b949e", lw=0.9, ls=":")
    ax.text(2.42, mean, "training mean", fontsize=8, ha="right", va="bottom", color="#57606a")
    ax.set_xticks(range(len(shown)), [t.replace(" + ", "\n+ ") for t in titles], fontsize=8.5)
    ax.set_title("RMSE of redshift (95% intervals)", fontsize=10)
    ax.set_ylim(0, 1.15 * max(row["rmse"][2] for row in rows if row["given"] in shown))
    ax.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", columnspacing=1)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def list_of(source: Any) -> list[dict[str, Any]]:
    return [source[i] for i in range(len(source))]


if __name__ == "__main__":
    main()
