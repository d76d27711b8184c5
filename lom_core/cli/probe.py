"""``lom probe``: what embeddings know of labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lom_core.cli.common import AsJson, print_json, print_table
from lom_core.cli.embed import split
from lom_core.cli.search import Source
from lom_core.errors import ConfigError

if TYPE_CHECKING:
    from lom_core.probe import Result

Label = Annotated[str, typer.Option("--label", help="Which label to probe for.")]
Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="LABEL",
        help="Rows with the same value stay on one side.",
        show_default=False,
    ),
]
Spatial = Annotated[
    str | None,
    typer.Option(
        "--spatial",
        metavar="X,Y",
        help="Instead: rows in the same cell of these coordinates.",
        show_default=False,
    ),
]
Cell = Annotated[float, typer.Option("--cell", help="Side of a cell, in their units.")]
MethodNames = Annotated[
    str,
    typer.Option("--method", help="knn, logistic (classes), ridge (numbers), mlp, forest, or all."),
]
Features = Annotated[
    str | None,
    typer.Option(
        "--feature", metavar="A,B", help="Only these columns of vectors.", show_default=False
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(
        "--test",
        metavar="FILE",
        help="Embeddings to test on, instead of a part.",
        show_default=False,
    ),
]
Catalogue = Annotated[
    Path | None,
    typer.Option(
        "--catalogue", metavar="CSV", help="More labels, by a column id.", show_default=False
    ),
]
Folds = Annotated[int, typer.Option("--folds", min=2, help="Of the cross-validation.")]
Curve = Annotated[bool, typer.Option("--curve/--no-curve", help="How scores grow with labels.")]
Seed = Annotated[int, typer.Option("--seed", help="Of splits, draws and networks.")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Where probe.json and probe.png go.",
        show_default="beside EMBEDDINGS, in its name + .probe",
    ),
]


def add(app: typer.Typer) -> None:
    app.command("probe")(probe)


def probe(
    embeddings: Source,
    label: Label,
    group: Group = None,
    spatial: Spatial = None,
    cell: Cell = 1.0,
    method: MethodNames = "all",
    feature: Features = None,
    test: Test = None,
    catalogue: Catalogue = None,
    folds: Folds = 5,
    curve: Curve = True,
    seed: Seed = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Predict a label from each feature by small models, tested on groups never seen."""
    from lom_core.probe import probe as run
    from lom_core.splits import Grouping

    axes = split(spatial)
    if axes is not None and len(axes) != 2:
        raise ConfigError(f"--spatial {spatial}: two columns, such as ra,dec")
    result = run(
        embeddings,
        label,
        grouping=Grouping(group, (axes[0], axes[1]) if axes else None, cell),
        methods=None if method == "all" else split(method),
        features=split(feature),
        test=test,
        catalogue=catalogue,
        folds=folds,
        curve=curve,
        seed=seed,
    )
    from lom_core.report.probes import draw_probe, save

    target = out or embeddings.with_name(f"{embeddings.stem}.probe")
    target.mkdir(parents=True, exist_ok=True)
    (target / "probe.json").write_text(json.dumps(result.as_json(), indent=1), encoding="utf8")
    save(draw_probe(result), target / "probe.png")
    if as_json:
        print_json(result.as_json())
        return
    show(result)
    typer.echo(f"wrote {target / 'probe.json'} and {target / 'probe.png'}")


def show(result: Result) -> None:
    """Tables of scores and of the learning curve, and how the splits were made."""
    import numpy as np

    others = [name for name in result.scores[-1].metrics if name != result.main]
    rows = []
    for s in result.scores:
        folds = f"{np.mean(s.folds):.3f} ± {np.std(s.folds):.3f}" if s.folds else None
        chosen = ", ".join(f"{k}={v:g}" for k, v in s.chosen.items())
        measured = [s.metrics.get(name) for name in others]
        tested = f"{s.metrics[result.main]:.3f} ({s.low:.3f} to {s.high:.3f})"
        rows.append([s.feature, s.method, tested, *measured, folds, chosen or None])
    main = result.main.replace("_", " ")
    columns = ["feature", "probe", f"{main} (95%)", *(o.replace("_", " ") for o in others)]
    print_table([*columns, "validation folds", "chosen"], rows, title=f"{result.label}: test part")
    if result.curve:
        names = dict.fromkeys(p.name for p in result.curve)
        cells = {(p.feature, p.name): float(np.mean(p.scores)) for p in result.curve}
        features = dict.fromkeys(p.feature for p in result.curve)
        table = [[f, *(cells.get((f, name)) for name in names)] for f in features]
        title = f"{main} on validation folds by labels used, {result.curve[0].method}"
        print_table(["feature", *names], table, title=title)
    for line in result.splits:
        typer.echo(f"- {line}")
