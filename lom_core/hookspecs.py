"""The hooks a plugin implements. One verb, ``lom_register``, is enough for most.

from lom_core import hookimpl

@hookimpl
def lom_register(register):
    register(Seismograms)
    register(SeismogramFiles)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

from lom_core.component import Component

if TYPE_CHECKING:
    import typer

hookspec = pluggy.HookspecMarker("lom")
hookimpl = pluggy.HookimplMarker("lom")


@hookspec
def lom_register(register: Callable[[type[Component]], None]) -> None:
    """Call ``register(cls)`` for each component class that the plugin provides."""


@hookspec
def lom_commands(cli: typer.Typer) -> None:
    """Add commands to ``lom``, for instance ``cli.command("fetch-catalog")(function)``."""
