"""``lom config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lom_core.cli.common import OVERRIDABLE, Overrides, RunFile, print_json
from lom_core.deepspeed import load, translate
from lom_core.errors import ConfigError
from lom_core.runfile import dump, load_run

DeepSpeedFile = Annotated[
    Path, typer.Argument(metavar="FILE.json", help="DeepSpeed's file.", show_default=False)
]
Into = Annotated[
    Path | None, typer.Option("--into", metavar="RUN", help="Write to this new run file.")
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, metavar="N", help="Processes that the file is meant for."),
]


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="What a run comes to, and what it may hold.", no_args_is_help=True)
    group.command("show", context_settings=OVERRIDABLE)(show)
    group.command("schema")(show_schema)
    group.command("import-deepspeed")(import_deepspeed)
    app.add_typer(group, name="config")


def show(run: RunFile, overrides: Overrides = None) -> None:
    """Print a run with all defaults filled in, as a run file that gives the same run."""
    typer.echo(dump(load_run(run, overrides or ())), nl=False)


def show_schema() -> None:
    """Print the JSON schema of run files, with the installed kinds, for editors to check by."""
    from lom_core.cli.schema import schema

    print_json(schema())


def import_deepspeed(file: DeepSpeedFile, into: Into = None, processes: Processes = None) -> None:
    """Translate a DeepSpeed JSON file into a part of a run file, with what has no counterpart.

    Merge it when you train: `lom train run.yaml deepspeed.yaml`.
    """
    made = translate(load(file), processes)
    lines = [f"from {file.name}; use it as: lom train run.yaml {into or 'this.yaml'}", *made.notes]
    if made.left:
        lines.append(f"without a counterpart, left out: {', '.join(made.left)}")
    text = "".join(f"# {line}\n" for line in lines) + dump(made.run)
    if into is None:
        typer.echo(text, nl=False)
        return
    try:
        with into.open("x", encoding="utf8") as written:
            written.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{into} exists: its comments would be lost; write to a new file and train with both, "
            f"`lom train {into} deepspeed.yaml`"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot write {into}: {error.strerror}") from None
    typer.echo(f"written to {into}")
