"""``lom eval``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lom_core.cli.common import OVERRIDABLE, AsJson, Overrides, print_json, print_table
from lom_core.runfile import make_importable

Checkpoint = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a checkpoint.", show_default=False)
]


def add(app: typer.Typer) -> None:
    app.command("eval", context_settings=OVERRIDABLE)(evaluate)


def evaluate(checkpoint: Checkpoint, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Losses of a checkpoint on its named sets, beside those of the mean and the previous token."""
    from lom_core.evaluate import evaluate_checkpoint

    make_importable(checkpoint)
    results = evaluate_checkpoint(checkpoint, overrides or ())
    if as_json:
        print_json(results)
        return
    for name, metrics in results.items():
        print_metrics(name, metrics)


def print_metrics(name: str, metrics: Mapping[str, float]) -> None:
    """A table of a named set's metrics."""
    from lom_core.ratios import legend

    columns, rows = by_metric(metrics)
    print_table(columns, rows, title="; ".join(filter(None, (name, legend(metrics)))))


def by_metric(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """Metrics ``loss/images``, ``loss`` ... as rows, with a column for each modality and for all;
    where its standard error is known, a metric is told with its 95% interval."""
    from lom_core.evaluate import measures
    from lom_core.ratios import tell

    names = sorted({key.partition("/")[2] for key in metrics if "/" in key})
    rows = [
        [m.replace("_", " "), *(tell(metrics, f"{m}/{n}") for n in names), tell(metrics, m)]
        for m in measures(metrics)
    ]
    return ["", *names, "all"], rows
