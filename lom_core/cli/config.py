"""``lom config``."""

from __future__ import annotations

import typer

from lom_core.cli.common import OVERRIDABLE, Overrides, RunFile, print_json
from lom_core.runfile import dump, load_run


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="What a run comes to, and what it may hold.", no_args_is_help=True)
    group.command("show", context_settings=OVERRIDABLE)(show)
    group.command("schema")(show_schema)
    app.add_typer(group, name="config")


def show(run: RunFile, overrides: Overrides = None) -> None:
    """Print a run with all defaults filled in, as a run file that gives the same run."""
    typer.echo(dump(load_run(run, overrides or ())), nl=False)


def show_schema() -> None:
    """Print the JSON schema of run files, with the installed kinds, for editors to check by."""
    from lom_core.cli.schema import schema

    print_json(schema())
