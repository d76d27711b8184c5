"""Next month's sea surface temperature: prepare jcm's anomalies, then score forecasts of them.

python sst.py prepare FOLDER_OF_JCM OUT.nc    # its anomalies; then: lom train run.yaml
python sst.py score OUT.nc val RUN ...        # RMSE in K, of several runs their mean forecast
python sst.py score OUT.nc test RUN ... --draw sst_forecast.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

Array = np.ndarray
LAST = {"train": 2001, "val": 2006, "test": 2013}  # years, each set begins after the one before
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


def score(file: str, part: str, *runs: str) -> dict[str, Any]:
    """Squared errors of each month, averaged over the sea by area, and the forecasts themselves."""
    data = xr.load_dataset(file)
    data = data.sel(lat=slice(EDGE, -EDGE))
    before = data["ssta"].shift(time=1)
    months = months_of(part)
    truth, before = (found.sel(time=months).values for found in (data["ssta"], before))
    train = data["ssta"].sel(time=months_of("train")).values
    r = float(np.nansum(train[1:] * train[:-1]) / np.nansum(train[:-1] ** 2))
    damped = data["damping"].values * before
    forecasts = {
        "climatology": 0 * before,
        "persistence": before,
        "damped, one r": r * before,
        "damped, r of the place": damped,
    }
    answers = [by_model(run, months) for run in runs]
    for number, answer in enumerate(answers):
        forecasts[f"model {number + 1}"] = damped + answer
    if len(runs) > 1:
        forecasts["mean of the models"] = damped + np.mean(answers, axis=0)
    area = np.cos(np.deg2rad(data["lat"].values))[:, None] * np.isfinite(truth[0])
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
    base = "damped, r of the place"
    for name, found in squares.items():
        rmse = np.sqrt(found.mean())
        skill = 100 * (1 - rmse / np.sqrt(squares[base].mean()))
        low, high = np.quantile(drawn[name], [0.025, 0.975])
        least, most = np.quantile(100 * (1 - drawn[name] / drawn[base]), [0.025, 0.975])
        print(
            f"{name:24} {rmse:.4f} K [{low:.4f}, {high:.4f}]"
            f"  {skill:+.1f}% [{least:+.1f}, {most:+.1f}] below damped"
        )


if __name__ == "__main__":
    verb, *given = sys.argv[1:]
    if verb == "prepare":
        prepare(Path(given[0]), Path(given[1]))
    else:
        told(score(*given)["squares"])
