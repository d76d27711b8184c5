"""``lom plugins``: what is installed, whether it is right, and how to begin one's own."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from lom_core.cli.common import AsJson, print_json, print_table
from lom_core.plugins import Plugin, installed_plugins

Installed = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Distribution, such as lom-spectra.", show_default=False),
]
Modality = Annotated[
    str, typer.Argument(metavar="NAME", help="Modality, such as seismograms.", show_default=False)
]
Into = Annotated[
    Path, typer.Option("--into", metavar="DIR", help="Folder in which the new one is made.")
]


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="Installed plugins: what they provide, checks, and new ones.")
    group.callback(invoke_without_command=True)(show)
    group.command("list")(list_)
    group.command("check")(check)
    group.command("new")(new)
    app.add_typer(group, name="plugins")


def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Installed plugins: distribution, version, range of lom-core, kinds, failures."""
    if context.invoked_subcommand is None:
        list_(as_json)


def list_(as_json: AsJson = False) -> None:
    """The same as `lom plugins`."""
    found = installed_plugins()
    if as_json:
        print_json([{**asdict(plugin), "kinds": kinds(plugin)} for plugin in found])
        return
    print_table(
        ["distribution", "version", "lom-core", "provides"],
        [
            [p.distribution, p.version, p.api or "any", "\n".join(_lines(p)) or "nothing"]
            for p in found
        ],
    )


def check(name: Installed, as_json: AsJson = False) -> None:
    """Run the conformance kit on every modality that plugin NAME registers.

    On observations that the modalities make up (`synth`); exit code 1 if a check fails.
    """
    from lom_core.testing import check_plugin

    outcomes = list(check_plugin(name))
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        rows = [[o.modality, o.check, o.problem or "passed"] for o in outcomes]
        print_table(["modality", "check", "outcome"], rows, title=name)
    failed = sum(bool(outcome.problem) for outcome in outcomes)
    typer.echo(f"{len(outcomes) - failed} passed, {failed} failed", err=as_json)
    if failed:
        raise typer.Exit(1)


def new(name: Modality, into: Into = Path()) -> None:
    """Write a complete plugin for modality NAME: lom-NAME, which installs and passes its checks."""
    from lom_core.scaffold import write_plugin

    folder = write_plugin(name, into)
    typer.echo(f"wrote {folder}")
    typer.echo(f"next: pip install -e {folder} && lom plugins check {folder.name}")
    typer.echo(f"      pytest {folder} && lom train {folder}/run.yaml")


def kinds(plugin: Plugin) -> dict[str, list[str]]:
    """Role -> kinds of a plugin, sorted."""
    by_role = groupby(sorted(plugin.kinds), key=lambda pair: pair[0])
    return {role: [kind for _, kind in pairs] for role, pairs in by_role}


def _lines(plugin: Plugin) -> list[str]:
    if plugin.error:
        return [f"does not load: {plugin.error}"]
    return [f"{role}: {', '.join(names)}" for role, names in kinds(plugin).items()]
