"""Next month's sea surface temperature: prepare jcm's anomalies, then score forecasts of them.

python sst.py prepare FOLDER_OF_JCM OUT.nc            # then: lom train run.yaml
python sst.py score OUT.nc val RUN ...                # of several runs also their mean
python sst.py score OUT.nc test RUN sst_forecast.png
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

Array = np.ndarray
LAST = {"train": 2001, "val": 2006, "test": 2013}  # years, each set begins after the one before
BASE = "damped, r of the place"
LINEAR = "linear, leading patterns"
EDGE = 60.0  # degrees: beyond it the file's anomalies are those of sea ice


def prepare(folder: Path, out: Path) -> None:
    """``ssta``: anomalies from the climatology of the training years, in K, NaN on land.

    ``surprise``: what damped persistence leaves of it, ssta(t) - r ssta(t - 1). The damping r of
    each place is the least squares of the training years.
    """
    t30 = next(folder.rglob("sea_surface_temperature_anomaly.nc")).parent.parent
    given = xr.load_dataset(t30 / "anom/sea_surface_temperature_anomaly.nc")["ssta"].drop_vars(
        "lev"
    )
    land = xr.load_dataset(t30 / "clim/surface.nc")["lsm"].drop_vars("time") > 0.5
    train = given.sel(time=slice(None, str(LAST["train"])))
    climatology = train.groupby("time.month").mean("time")
    ssta = (given.groupby("time.month") - climatology).drop_vars("month").where(~land)
    known = ssta.sel(time=slice(None, str(LAST["train"]))).values
    damping = (known[1:] * known[:-1]).sum(0) / np.maximum((known[:-1] ** 2).sum(0), 1e-9)
    surprise = ssta - damping * ssta.shift(time=1)
    found = xr.Dataset(
        {
            "ssta": ssta.astype("float32"),
            "surprise": surprise.astype("float32"),
            "damping": (("lat", "lon"), damping.astype("float32")),
        }
    )
    for name in ("ssta", "surprise"):
        found[name].attrs = {"units": "K"}
    out.parent.mkdir(parents=True, exist_ok=True)
    found.transpose("time", "lat", "lon").to_netcdf(out)
    print(found.sizes)


# -------------------------------------------------------------------------------------- scores


def months_of(part: str) -> slice:
    """The months that a set forecasts."""
    years = list(LAST)
    first = 1979 if part == "train" else LAST[years[years.index(part) - 1]] + 1
    return slice(str(first), str(LAST[part]))


def by_model(run: str, months: slice) -> Array:
    """(t, y, x): what is answered to ``surprise`` in these months, in the run's region.

    Two months are given, the third one's values are left out: only its places are asked for.
    """
    import lom_core

    model = lom_core.load(run)
    first = np.datetime64(f"{months.start}-01", "M") - 2
    period = (str(first), f"{months.stop}-12")
    config = model.config.data.dataset.model_copy(update={"period": period})
    source, answers = config.build(model.modalities), []
    for i in range(len(source)):
        record = source[i]
        known = int((model.reader.tokens(record)["sst"].positions[:, 2] <= 0).sum())
        said = model.generate(record, target="sst", prompt=known, temperature=0)[0].samples[0]
        answers.append(said["values"][-1, 1, : record["sst"]["values"].shape[2]])
    return np.stack(answers)


def linear(data: xr.Dataset, k: int, ridge: float) -> Array:
    """(t, y, x): surprises from the k leading patterns of the month before, of the training years.

    Patterns are those of the anomalies weighted by area (EOFs); ridge is in their mean variance.
    """
    sea = np.isfinite(data["ssta"].values[0])
    root = np.sqrt(np.cos(np.deg2rad(data["lat"].values))[:, None] * np.ones(sea.shape))[sea]
    fields, rest = data["ssta"].values[:, sea] * root, data["surprise"].values[:, sea] * root
    n = len(data["ssta"].sel(time=months_of("train")))
    patterns = np.linalg.svd(fields[:n], full_matrices=False)[2][:k]
    known = fields @ patterns.T
    x, y = known[: n - 1], rest[1:n]
    shrink = ridge * (x**2).sum() / k * np.eye(k)
    answer = np.full(data["ssta"].shape, np.nan)
    answer[1:, sea] = known[:-1] @ np.linalg.solve(x.T @ x + shrink, x.T @ y) / root
    return answer


def chosen_linear(data: xr.Dataset) -> Array:
    """The best on the validation years."""
    time = data["time"].values.astype("datetime64[Y]").astype(int) + 1970
    val = (time > LAST["train"]) & (time <= LAST["val"])
    area = np.cos(np.deg2rad(data["lat"].values))[:, None]
    best: tuple[float, str, Array] | None = None
    for k, ridge in product((5, 10, 20, 40), (0.01, 0.1, 1.0, 10.0)):
        answer = linear(data, k, ridge)
        left = float(np.nansum((answer - data["surprise"].values)[val] ** 2 * area))
        if best is None or left < best[0]:
            best = left, f"{k} patterns, ridge {ridge:g}", answer
    assert best is not None
    print(f"chosen on val: {best[1]}")
    return best[2]


def score(file: str, part: str, *runs: str) -> dict[str, Any]:
    """Squared errors of each month, averaged over the sea by area, and the forecasts themselves."""
    data = xr.load_dataset(file)
    data = data.sel(lat=slice(EDGE, -EDGE))
    before = data["ssta"].shift(time=1)
    months = months_of(part)
    truth, before = (found.sel(time=months).values for found in (data["ssta"], before))
    train = data["ssta"].sel(time=months_of("train")).values
    weight = np.cos(np.deg2rad(data["lat"].values))[:, None]
    r = float(np.nansum(train[1:] * train[:-1] * weight) / np.nansum(train[:-1] ** 2 * weight))
    kept = np.isin(data["time"].values, data["time"].sel(time=months).values)
    damped = data["damping"].values * before
    forecasts = {
        "climatology": 0 * before,
        "persistence": before,
        "damped, one r": r * before,
        BASE: damped,
        LINEAR: damped + chosen_linear(data)[kept],
    }
    answers = [by_model(run, months) for run in runs]
    for number, answer in enumerate(answers):
        forecasts[f"model {number + 1}"] = damped + answer
    if len(runs) > 1:
        forecasts["mean of the models"] = damped + np.mean(answers, axis=0)
    area = weight * np.isfinite(truth[0])
    squares = {
        name: np.nansum((found - truth) ** 2 * area, axis=(1, 2)) / area.sum()
        for name, found in forecasts.items()
    }
    return {
        "squares": squares,
        "forecasts": forecasts,
        "truth": truth,
        "data": data,
        "months": months,
    }


def told(squares: dict[str, Array], draws: int = 10_000) -> None:
    """RMSE, and how much lower than damped persistence's; intervals by drawing half-years again."""
    blocks = {name: found.reshape(-1, 6).mean(1) for name, found in squares.items()}
    n = len(next(iter(blocks.values())))
    which = np.random.default_rng(0).integers(0, n, (draws, n))
    drawn = {name: np.sqrt(found[which].mean(1)) for name, found in blocks.items()}
    for name, found in squares.items():
        rmse = np.sqrt(found.mean())
        skill = 100 * (1 - rmse / np.sqrt(squares[BASE].mean()))
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        least, most = np.quantile(100 * (1 - drawn[name] / drawn[BASE]), [0.025, 0.975])
        print(
            f"{name:24} {rmse:.4f} K [{low:.4f}, {high:.4f}]"
            f"  {skill:+.1f}% [{least:+.1f}, {most:+.1f}] below damped"
        )


# ------------------------------------------------------------------------------------- picture


def draw(found: dict[str, Any], out: str) -> None:
    """Errors of each year, and where the first model gains on damped persistence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 3.3), width_ratios=[1, 1.9], layout="constrained"
    )
    years = np.arange(int(found["months"].start), int(found["months"].stop) + 1)
    by_year = {
        name: np.sqrt(errors.reshape(-1, 12).mean(1)) for name, errors in found["squares"].items()
    }
    for name, colour, label in (
        ("persistence", "#8c959f", "persistence"),
        (LINEAR, "#c2410c", "linear"),
        ("model 1", "#1f6feb", "model"),
    ):
        gain = 100 * (1 - by_year[name] / by_year[BASE])
        left.plot(years, gain, "o-", color=colour, lw=2, ms=4, label=label)
    left.axhline(0, color="#1b1f24", lw=0.8, ls=":")
    left.set_ylabel("RMSE below damped persistence (%)")
    left.set_title("by year", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    left.spines[["top", "right"]].set_visible(False)
    truth, forecasts, data = found["truth"], found["forecasts"], found["data"]
    sea = np.isfinite(truth[0])
    rmse = {name: np.sqrt(((forecasts[name] - truth) ** 2).mean(0)) for name in (BASE, "model 1")}
    gain = np.where(sea, 100 * (1 - rmse["model 1"] / rmse[BASE]), np.nan)
    shown = right.pcolormesh(data["lon"], data["lat"], gain, cmap="RdBu", vmin=-8, vmax=8)
    right.set_facecolor("#e6e8eb")
    right.set_aspect(1)
    right.set_xticks(range(0, 360, 60))
    right.set_yticks(range(-60, 61, 30))
    right.set_xlabel("longitude (°)")
    right.set_ylabel("latitude (°)")
    right.set_title("the model's, by place (%)", fontsize=10, loc="left")
    figure.colorbar(shown, ax=right, shrink=0.8, extend="both")
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    verb, *given = sys.argv[1:]
    if verb == "prepare":
        prepare(Path(given[0]), Path(given[1]))
    else:
        pictures = [name for name in given if name.endswith(".png")]
        found = score(*(name for name in given if name not in pictures))
        told(found["squares"])
        for out in pictures:
            draw(found, out)
