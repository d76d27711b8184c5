"""``lom plugins``: what is installed, what it provides, and what does not load."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby

import typer

from lom_core.cli.common import AsJson, print_json, print_table
from lom_core.plugins import Plugin, installed_plugins


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="Installed plugins and what they provide.")
    group.callback(invoke_without_command=True)(show)
    group.command("list")(list_)
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


def kinds(plugin: Plugin) -> dict[str, list[str]]:
    """Role -> kinds of a plugin, sorted."""
    by_role = groupby(sorted(plugin.kinds), key=lambda pair: pair[0])
    return {role: [kind for _, kind in pairs] for role, pairs in by_role}


def _lines(plugin: Plugin) -> list[str]:
    if plugin.error:
        return [f"does not load: {plugin.error}"]
    return [f"{role}: {', '.join(names)}" for role, names in kinds(plugin).items()]
