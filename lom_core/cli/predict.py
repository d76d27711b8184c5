"""``lom predict`` and ``lom generate``: answers as files of the field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lom_core.cli.evaluate import Checkpoint
from lom_core.errors import BadRecord, ConfigError, DataError, TooManyBadRecords
from lom_core.runfile import make_importable

if TYPE_CHECKING:
    from lom_core.api import LargeObservationModel
    from lom_core.prediction import Prediction
    from lom_core.roles import Record, Source

DATA = "A set of the run (train, val ...) or a .yaml file with a data set."
Data = Annotated[str, typer.Argument(metavar="DATA", help=DATA, show_default=False)]
MaybeData = Annotated[str, typer.Argument(metavar="[DATA]", help=DATA + " None creates anew.")]
Target = Annotated[str, typer.Option("--target", metavar="NAME", help="The modality asked for.")]
Given = Annotated[
    str | None,
    typer.Option("--given", metavar="NAMES", help="Modalities shown, with commas; '' shows none."),
]
At = Annotated[
    Path | None,
    typer.Option("--at", metavar="CSV", help="Positions to answer, one a line, for all records."),
]
Samples = Annotated[int, typer.Option("--samples", min=0, help="Answers to draw of each record.")]
Temperature = Annotated[
    float, typer.Option("--temperature", min=0, help="Of what is drawn; 0 takes the point.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of what is drawn.")]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Records at most; 0 takes all.")]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where files are written.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda ...; the run's if left out.")
]


def add(app: typer.Typer) -> None:
    app.command("predict")(predict)
    app.command("generate")(generate)


def predict(
    checkpoint: Checkpoint,
    data: Data,
    target: Target,
    given: Given = None,
    at: At = None,
    samples: Samples = 0,
    temperature: Temperature = 1.0,
    quantiles: Annotated[
        str, typer.Option("--quantiles", metavar="LEVELS", help="Such as 0.05,0.95.")
    ] = "",
    seed: Seed = 0,
    limit: Limit = 0,
    out: Out = Path("predictions"),
    device: Device = None,
) -> None:
    """Answer what one modality holds, given others, and write it in physical units."""
    model, source = _open(checkpoint, data, device)
    left_out: list[DataError] = []
    answers = model.predictions(
        _read(source, limit, left_out),
        target,
        given=_names(given),
        at=_positions(at),
        samples=samples,
        temperature=temperature,
        quantiles=_levels(quantiles),
        seed=seed,
        left_out=left_out,
    )
    _write(model, target, answers, left_out, out)


def generate(
    checkpoint: Checkpoint,
    target: Target,
    data: MaybeData = "",
    given: Given = None,
    prompt: Annotated[
        float | None,
        typer.Option("--prompt", help="First tokens kept: a number, or a share below 1."),
    ] = None,
    at: At = None,
    ahead: Annotated[
        float | None,
        typer.Option("--ahead", help="How far to go on: days of light curves, hours of grids."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="At most so many.")
    ] = None,
    samples: Samples = 1,
    temperature: Temperature = 1.0,
    top_k: Annotated[int, typer.Option("--top-k", min=0, help="Likeliest tokens only.")] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help="Tokens of this share only.")] = 1.0,
    seed: Seed = 0,
    limit: Limit = 0,
    out: Out = Path("generated"),
    device: Device = None,
) -> None:
    """Continue or create music, images, light curves, fields ... and write them."""
    model, source = _open(checkpoint, data, device)
    left_out: list[DataError] = []
    answers = model.generations(
        _read(source, limit, left_out),
        target,
        given=_names(given),
        prompt=prompt,
        at=_positions(at),
        ahead=ahead,
        max_tokens=max_tokens,
        samples=max(samples, 1),
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        left_out=left_out,
    )
    _write(model, target, answers, left_out, out)


def _open(checkpoint: Path, data: str, device: str | None) -> tuple[LargeObservationModel, Source]:
    from lom_core.api import load
    from lom_core.named import open_named
    from lom_core.sources import ListSource

    make_importable(checkpoint)
    model = load(checkpoint, device)
    return model, open_named(model.config, data) if data else ListSource([{"id": "new"}])


def _read(source: Source, limit: int, left_out: list[DataError]) -> Iterator[Record]:
    """Records until ``limit`` can be answered; ``left_out`` takes those that cannot be read."""
    from lom_core.data import in_stream

    i = 0
    while in_stream(source, i) and not (limit and i - len(left_out) >= limit):
        try:
            yield source[i]
        except TooManyBadRecords:
            raise
        except DataError as error:
            left_out.append(error)
        i += 1


def _write(
    model: LargeObservationModel,
    target: str,
    answers: Iterable[Prediction],
    left_out: list[DataError],
    out: Path,
) -> None:
    """Write what is answered, and tell what became of the other records."""
    from lom_core.tables import write_rows

    config, rows = model.modalities.get_config(target), []
    folders: set[str] = set()
    for found in answers:
        folder = out / _unused(found.id, folders)
        folder.mkdir(parents=True, exist_ok=True)
        for what, value in found.values().items():
            try:
                written = config.write(value, folder / f"{target}-{what}")
            except BadRecord as error:
                typer.echo(f"{found.id}: {what} is not written: {error}", err=True)
                continue
            told = value if isinstance(value, str | int | float) and len(str(value)) < 80 else ""
            rows.append([found.id, target, what, told, written.relative_to(out)])
        rows += [[found.id, target, f"p({k})", p, ""] for k, p in found.chances.items()]
    if not folders:
        first = f": {left_out[0]}" if left_out else ""
        raise DataError(f"none of {len(left_out)} records can be answered{first}")
    index = write_rows(out / "index", ["id", "modality", "what", "value", "file"], rows)
    typer.echo(f"{len(rows)} answers of {len(folders)} records: {index}")
    if left_out:
        typer.echo(f"{len(left_out)} records were left out, the first: {left_out[0]}", err=True)


def _unused(name: str, taken: set[str]) -> str:
    """A folder's name of a record's id, which may hold anything."""
    plain = re.sub(r"[^\w.-]+", "_", name).strip(".") or "record"
    chosen, number = plain[:120], 2
    while chosen in taken:
        chosen, number = f"{plain[:120]}-{number}", number + 1
    taken.add(chosen)
    return chosen


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _levels(text: str) -> list[float]:
    try:
        return [float(level) for level in text.split(",") if level.strip()]
    except ValueError:
        raise ConfigError(f"--quantiles {text}: numbers with commas, such as 0.05,0.95") from None


def _positions(path: Path | None) -> Any:
    from lom_core.tables import read_positions

    return None if path is None else read_positions(path)
