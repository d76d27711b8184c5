"""``lom embed`` and ``lom subsets``: what a model makes of observations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from lom_core.cli.common import OVERRIDABLE, AsJson, Overrides, print_json, print_table
from lom_core.cli.evaluate import Checkpoint
from lom_core.runfile import make_importable

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A set of the run (train, val ...), or a .yaml file with a data set in it.",
        show_default=False,
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to: .parquet or .npz.")]
PoolName = Annotated[
    str, typer.Option("--pool", help="mean, last, modality (a vector each) or attention.")
]
Tokens = Annotated[bool, typer.Option("--tokens", help="A row a token, not pooled.")]
Layer = Annotated[
    int | None,
    typer.Option("--layer", metavar="K", help="After K blocks instead of all.", show_default=False),
]
Given = Annotated[
    str | None,
    typer.Option("--given", metavar="M,M", help="Show only these modalities.", show_default=False),
]
Baselines = Annotated[
    bool,
    typer.Option(
        "--baselines", help="Also features of an untrained twin and of the values themselves."
    ),
]

Largest = Annotated[
    int | None,
    typer.Option(
        "--largest", min=0, metavar="N", help="Subsets of at most N modalities.", show_default=False
    ),
]
Target = Annotated[
    str | None,
    typer.Option("--target", metavar="M,M", help="Predict only these.", show_default=False),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        help="Where subsets.json and subsets.png go.",
        show_default="subsets, in the run's folder",
    ),
]


def add(app: typer.Typer) -> None:
    app.command("embed", context_settings=OVERRIDABLE)(embed)
    app.command("subsets", context_settings=OVERRIDABLE)(subsets)


def embed(
    checkpoint: Checkpoint,
    data: Data,
    overrides: Overrides = None,
    out: Out = Path("embeddings.parquet"),
    pool: PoolName = "mean",
    tokens: Tokens = False,
    layer: Layer = None,
    given: Given = None,
    baselines: Baselines = False,
) -> None:
    """Write the embeddings of a data set's records, with their ids and labels."""
    from lom_core.embed import embed_checkpoint
    from lom_core.embeddings import write_embeddings

    make_importable(checkpoint)
    tables, tally, told = embed_checkpoint(
        checkpoint,
        data,
        overrides or (),
        pool=pool,
        tokens=tokens,
        layer=layer,
        given=split(given),
        baselines=baselines,
    )
    n = write_embeddings(out, tables, told)
    rows = "tokens" if tokens else "records"
    typer.echo(f"wrote {n:,} {rows} to {out}")
    if tally.cropped:
        typer.echo(f"{tally.cropped:,} were longer than block_size and cropped")
    for reason, number in tally.bad.items():
        typer.echo(f"left out {number:,}: {reason} ({tally.examples[reason]})")


def subsets(
    checkpoint: Checkpoint,
    data: Data,
    overrides: Overrides = None,
    largest: Largest = None,
    target: Target = None,
    out: Folder = None,
    as_json: AsJson = False,
) -> None:
    """How well each modality is predicted from every subset of the others that records hold."""
    from lom_core import subsets as matrix
    from lom_core.checkpoint import find

    make_importable(checkpoint)
    cells, tally = matrix.subsets_of_checkpoint(
        checkpoint, data, overrides or (), largest=largest, targets=split(target)
    )
    from lom_core.report.probes import draw_subsets, save

    folder = out or find(checkpoint).parent.parent / "subsets"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "subsets.json").write_text(json.dumps(matrix.as_json(cells), indent=1), "utf8")
    save(draw_subsets(cells), folder / "subsets.png")
    if as_json:
        print_json(matrix.as_json(cells))
        return
    rows = [
        [
            c.target,
            " + ".join(c.given) or "nothing",
            c.records,
            c.loss,
            c.gain if c.given else None,
            f"{c.right:.3f}",
        ]
        for c in sorted(cells, key=lambda c: c.target)
    ]
    columns = ["target", "given", "records", "loss", "gain", "explained or right"]
    print_table(columns, rows, title=f"{data}: gain is over nothing given, on the same records")
    for reason, number in tally.bad.items():
        typer.echo(f"left out {number:,}: {reason} ({tally.examples[reason]})")
    typer.echo(f"wrote {folder / 'subsets.json'} and {folder / 'subsets.png'}")


def split(names: str | None) -> list[str] | None:
    """``a,b`` -> ["a", "b"]."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]
