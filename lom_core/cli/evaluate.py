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
        columns, rows = by_modality(metrics)
        print_table(["modality", *(c.replace("_", " ") for c in columns)], rows, title=name)


def by_modality(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str | float | None]]]:
    """Metrics ``loss/images``, ``loss`` ... as columns, and a row for each modality and for all."""
    cells = {tuple(key.partition("/")[::2]): value for key, value in metrics.items()}
    columns = list(dict.fromkeys(metric for metric, _ in cells))
    names = sorted({name for _, name in cells}, key=lambda name: (name == "", name))
    return columns, [
        [name or "all", *(cells.get((column, name)) for column in columns)] for name in names
    ]
