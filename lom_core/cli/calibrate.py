"""``lom calibrate``."""

from __future__ import annotations

from typing import Annotated

import typer

from lom_core.cli.common import AsJson, print_json, print_table
from lom_core.cli.evaluate import Checkpoint
from lom_core.runfile import make_importable

Fit = Annotated[
    str,
    typer.Option(
        "--data", metavar="DATA", help="Held-out set to fit on, or a .yaml of a data set."
    ),
]
Test = Annotated[
    str | None,
    typer.Option("--test", metavar="DATA", help="Set to test on; half of --data if left out."),
]


def add(app: typer.Typer) -> None:
    app.command("calibrate")(calibrate)


def calibrate(
    checkpoint: Checkpoint, data: Fit = "val", test: Test = None, as_json: AsJson = False
) -> None:
    """Test whether intervals hold what they promise, and correct them for predict."""
    from matplotlib.figure import Figure

    from lom_core.api import load
    from lom_core.calibrate import calibrate, draw, save
    from lom_core.named import open_named

    make_importable(checkpoint)
    model = load(checkpoint, calibrated=False)
    fit = open_named(model.config, data)
    other = None if test is None else open_named(model.config, test)
    told = (data, test) if test else (f"half of {data}", f"the other half of {data}")
    result = calibrate(model, fit, other, told)
    path = save(model, result)
    if result.tested:
        figure = Figure(figsize=(8, 2.6 * len(result.tested)), layout="constrained")
        draw(figure, result)
        figure.savefig(path.with_suffix(".png"), dpi=110)
    if as_json:
        print_json({"continuous": result.rows(), "discrete": result.token_rows()})
        return
    for title, rows in (
        (
            f"share of values inside intervals, fitted on {told[0]}, tested on {told[1]}",
            result.rows(),
        ),
        (f"probabilities of tokens, tested on {told[1]}", result.token_rows()),
    ):
        if rows:
            print_table(list(rows[0]), [list(row.values()) for row in rows], title=title)
    typer.echo(str(path))
