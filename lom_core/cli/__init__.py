"""The command line ``lom``: one small module per verb, whose bodies import torch late.

A mistake of the user's (any LomError) is ``error: ...`` on stderr and exit code 2; Ctrl-C is 130.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lom_core import __version__
from lom_core.cli import (
    calibrate,
    checkpoint,
    config,
    data,
    doctor,
    embed,
    estimate,
    evaluate,
    plugins,
    predict,
    probe,
    report,
    search,
    train,
)
from lom_core.dotenv import read_dotenv
from lom_core.errors import LomError
from lom_core.plugins import PLUGINS, installed_plugins


class _Lom(TyperGroup):
    """The root command: prints what users can mend, and lets everything else keep its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LomError as error:
            for line in str(error).splitlines() or [type(error).__name__]:
                typer.echo(f"error: {line}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except EOFError as error:  # click would take it for Ctrl-D and say no more than "Aborted."
            raise RuntimeError("a file or a pipe ended early") from error


def build() -> typer.Typer:
    """The command line with the commands of the installed plugins."""
    app = typer.Typer(
        name="lom",
        cls=_Lom,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    doing = (estimate, train, evaluate, predict, calibrate, embed, probe, search, report)
    for module in (*doing, checkpoint, data, config, plugins, doctor):
        module.add(app)
    _add_plugin_commands(app)
    return app


def main() -> None:
    """The entry point of ``lom`` and of ``python -m lom_core``."""
    build()(prog_name="lom")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lom-core {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


def _root(version: Version = False) -> None:
    """Train and use transformers on scientific observations of every kind."""
    read_dotenv()


def _add_plugin_commands(app: typer.Typer) -> None:
    """Let each plugin add its commands; one that fails is told of and leaves the others alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="plugin .* is left out")  # told below
        found = installed_plugins()
    for plugin in found:
        if plugin.error:
            _warn(f"plugin {plugin.distribution} {plugin.version} is left out: {plugin.error}")
    manager = PLUGINS.manager
    for module in manager.get_plugins():
        others = [other for other in manager.get_plugins() if other is not module]
        try:
            manager.subset_hook_caller("lom_commands", others)(cli=app)
        except Exception as error:  # noqa: BLE001  (plugins fail in any way; `lom` must start)
            name = manager.get_name(module)
            _warn(f"commands of plugin {name} are left out: {type(error).__name__}: {error}")


def _warn(message: str) -> None:
    typer.echo(f"warning: {' '.join(message.split())}", err=True)
