"""``lom search``: neighbours and anomalies among embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lom_core.cli.common import AsJson, print_json, print_table
from lom_core.errors import ConfigError

Source = Annotated[
    Path,
    typer.Argument(metavar="EMBEDDINGS", help="What `lom embed` wrote.", show_default=False),
]
Identity = Annotated[
    str | None,
    typer.Option("--id", metavar="ID", help="Find what is like this record.", show_default=False),
]
Anomalies = Annotated[
    bool, typer.Option("--anomalies", help="Find the records that are least like any other.")
]
K = Annotated[int, typer.Option("--k", min=1, metavar="K", help="Neighbours of a record.")]
Top = Annotated[int, typer.Option("--top", min=1, metavar="N", help="Anomalies shown.")]
Feature = Annotated[
    str | None, typer.Option("--feature", help="Which column of vectors.", show_default=False)
]
MetricName = Annotated[str, typer.Option("--metric", help="cosine or euclidean.")]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="By a faiss index: sooner on many millions of rows.")
]


def add(app: typer.Typer) -> None:
    app.command("search")(search)


def search(
    embeddings: Source,
    identity: Identity = None,
    anomalies: Anomalies = False,
    k: K = 10,
    top: Top = 20,
    feature: Feature = None,
    metric: MetricName = "cosine",
    approximate: Approximate = False,
    as_json: AsJson = False,
) -> None:
    """The records most like one (--id), or those least like any (--anomalies)."""
    from lom_core import search as engine
    from lom_core.embeddings import open_embeddings

    if (identity is None) == (not anomalies):
        raise ConfigError("give --id ID or --anomalies")
    if metric not in engine.METRICS:
        raise ConfigError(f"metric={metric}; possible: {', '.join(engine.METRICS)}")
    how = {"feature": feature, "metric": metric, "approximate": approximate}
    found = open_embeddings(embeddings)
    if identity is not None:
        rows = engine.similar(found, identity, k, **how)  # type: ignore[arg-type]
        told, column = f"nearest to {identity}", "distance"
    else:
        ids, scores = engine.anomalies(found, k, **how)  # type: ignore[arg-type]
        rows = [(str(i), float(s)) for i, s in zip(ids[:top], scores[:top], strict=True)]
        told = f"strangest of {len(ids)}, by the mean distance to {k} neighbours"
        column = "score"
    if as_json:
        print_json([{"id": i, column: value} for i, value in rows])
        return
    typer.echo(told)
    print_table(["id", column], rows)
