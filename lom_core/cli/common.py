"""What the verbs share: arguments, and tables that read well on a terminal and in a pipe."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

# Lets --batch_size=64 through as an override.
OVERRIDABLE = {"ignore_unknown_options": True}

RunFile = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run file: .yaml, .yml or .py.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME=VALUE",
        help="Overrides such as batch_size=64, --batch_size=64, data.batch_size=64 or "
        "images.patch_size=8; further run files are merged in their place.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


def console() -> Console:
    """Standard output: as wide as the terminal, or 160 columns in a pipe, where rich assumes 80."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else 160, markup=False, highlight=False, emoji=False)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], title: str = "") -> None:
    """A table; columns whose cells are all numbers are aligned to the right."""
    cells = [[_cell(value) for value in row] for row in rows]
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for i, name in enumerate(columns):
        numbers = all(str(row[i])[:1] in "-+0123456789" for row in cells)
        table.add_column(name, justify="right" if numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console().print(table)


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def print_facts(facts: Mapping[str, str], title: str = "") -> None:
    """What something is, a line each, names beside values."""
    table = Table(
        box=box.SIMPLE, title=title or None, title_justify="left", pad_edge=False, show_header=False
    )
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, told in facts.items():
        table.add_row(name, told)
    console().print(table)


def print_line(text: str, style: str = "") -> None:
    """A line that no table holds, never wrapped; in colour where it is a terminal that shows it."""
    console().print(text, style=style, soft_wrap=True)


def _cell(value: Any) -> str | Text:
    if value is None:
        return "-"
    if isinstance(value, Text):
        return value
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(n_bytes: float) -> str:
    """``3.2 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def duration(seconds: float) -> str:
    """``12 ms``, ``4.2 s``, ``3 min 20 s``, ``5 h 10 min``, ``2 d 3 h``."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 60:
        return f"{seconds:.2g} s"
    for unit, part, name, below in ((60, 1, "min", "s"), (3600, 60, "h", "min")):
        if seconds < unit * (60 if name == "min" else 24):
            whole, rest = divmod(round(seconds / part), unit // part)
            return f"{whole} {name} {rest} {below}"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h"
