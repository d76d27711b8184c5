"""``lom train``."""

from __future__ import annotations

import typer

from lom_core.cli.common import OVERRIDABLE, Overrides, RunFile
from lom_core.runfile import load_run

STOPPED = 75  # EX_TEMPFAIL: a signal ended it, and it can go on; schedulers requeue on it


def add(app: typer.Typer) -> None:
    app.command("train", context_settings=OVERRIDABLE)(train)


def train(run: RunFile, overrides: Overrides = None) -> None:
    """Train what a run file describes. The whole file is checked before anything starts."""
    config = load_run(run, overrides or ())
    from lom_core.train import train as train_run

    if train_run(config).stopped == "a signal":
        raise typer.Exit(STOPPED)
