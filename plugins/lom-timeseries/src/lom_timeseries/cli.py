"""``lom data prepare``: folds of the light curves that a run file's data set yields."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from lom_core import ConfigError, ModalityRegistry
from lom_core.cli.common import RunFile, print_table
from lom_core.runfile import load_run

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder of the folds.")]
Folds = Annotated[int, typer.Option("--folds", min=1, metavar="K", help="How many folds.")]
ShareOfVal = Annotated[float, typer.Option(metavar="SHARE", help="Share of the objects in val.")]
ShareOfTest = Annotated[float, typer.Option(metavar="SHARE", help="Share of the objects in test.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Another one gives other folds.")]
ShardSize = Annotated[int, typer.Option(min=1, metavar="N", help="Curves in a file.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Modality that holds the curves.")]
Label = Annotated[str, typer.Option(metavar="NAME", help="Modality that becomes column label.")]


def prepare_light_curves(
    run: RunFile,
    out: Out,
    folds: Folds = 1,
    val: ShareOfVal = 0.1,
    test: ShareOfTest = 0.1,
    seed: Seed = 0,
    shard_size: ShardSize = 1000,
    modality: Name = "light_curves",
    label: Label = "",
) -> None:
    """Split the light curves of RUN's data set by object into folds of parquet shards."""
    from lom_timeseries.prepare import prepare_folds, usable

    config = load_run(run, [])
    dataset = config.data.dataset
    if getattr(dataset, "window", 0):
        raise ConfigError("folds hold whole curves: set window: 0 in the data set of the run file")
    registry: ModalityRegistry = config.registry
    bad: Counter[str] = Counter()
    records = usable(dataset.build(registry), bad, config.data.max_bad_fraction)
    shares = (1 - val - test, val, test)
    n_of = prepare_folds(
        records, out, folds, shares, seed, shard_size, modality=modality, label=label
    )
    print_table(
        ["folder", "curves", "objects"],
        [[key, n["curves"], n["objects"]] for key, n in n_of.items()],
    )
    typer.echo(f"wrote {out}")
    for reason, count in bad.most_common():
        typer.echo(f"left out: {count} x {reason}", err=True)
