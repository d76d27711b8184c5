"""``lom report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lom_core.runfile import make_importable

Run = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT_OR_OUT_DIR",
        help="Folder of a checkpoint, or the out_dir of a run.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where to write it; in the run's folder by default."),
]
Objects = Annotated[
    int, typer.Option("--objects", min=0, metavar="N", help="Objects drawn with their predictions.")
]


def add(app: typer.Typer) -> None:
    app.command("report")(report)


def report(path: Run, out: Out = None, objects: Objects = 8) -> None:
    """Write a page with a run's curves, metrics and predicted objects, and print its path."""
    from lom_core.report import write_report

    make_importable(path)
    typer.echo(write_report(path, out, objects))
