"""``lom data``: what a run would read."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lom_core.cli.common import OVERRIDABLE, Overrides, RunFile, print_table
from lom_core.config import RunConfig
from lom_core.errors import BadRecord, ConfigError, nearest
from lom_core.runfile import load_run

if TYPE_CHECKING:
    from lom_core.data import Reader
    from lom_core.roles import Source
    from lom_core.tally import Tally

SAMPLED = 20  # records that `list` opens in each set

SetName = Annotated[
    str | None,
    typer.Option("--set", metavar="NAME", help="Only this set: train, or a validation set's name."),
]
AtMost = Annotated[
    int | None, typer.Option("--max", min=1, metavar="N", help="Read at most N records of a set.")
]
IndexAndOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INDEX|NAME=VALUE",
        help="Number of the record (0 without one), then overrides as for `lom train`.",
        show_default=False,
    ),
]


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="What a run would read.", no_args_is_help=True)
    group.command("list", context_settings=OVERRIDABLE)(list_)
    group.command("validate", context_settings=OVERRIDABLE)(validate)
    group.command("inspect", context_settings=OVERRIDABLE)(inspect)
    app.add_typer(group, name="data")


def list_(run: RunFile, overrides: Overrides = None) -> None:
    """The training set and the named validation sets: records, and the modalities they hold."""
    _, readers = open_readers(run, overrides or [])
    rows = []
    for name, reader in readers.items():
        seen, bad, held = 0, 0, Counter[str]()
        for index in numbers(reader.source, SAMPLED):
            seen += 1
            try:
                record = reader.source[index]
            except BadRecord:
                bad += 1
                continue
            held.update(m for m in reader.registry.names() if record.get(m) is not None)
        told = [f"{m} {held[m] / seen:.0%}" for m in reader.registry.names()]
        if bad:
            told.append(f"cannot be read {bad / seen:.0%}")
        rows.append([name, _length(reader.source), ", ".join(told)])
    print_table(["set", "records", f"modalities (share of the first {SAMPLED} records)"], rows)


def validate(
    run: RunFile, overrides: Overrides = None, set_name: SetName = None, at_most: AtMost = None
) -> None:
    """Read every record as training would; exit code 1 when more than max_bad_fraction are bad."""
    from lom_core.tally import Tally

    config, readers = open_readers(run, overrides or [], set_name)
    tallies = {name: Tally() for name in readers}
    for name, reader in readers.items():
        for index in _progress(numbers(reader.source, at_most), name, reader.source, at_most):
            _read(name, reader, index, tallies[name])
    print_table(
        ["set", "records", "bad", "longer than block_size"],
        [[name, t.seen, t.n_bad, t.cropped] for name, t in tallies.items()],
    )
    reasons = [
        [name, reason, n, f"{n / t.seen:.2%}"]
        for name, t in tallies.items()
        for reason, n in sorted(t.bad.items(), key=lambda item: -item[1])
    ]
    if reasons:
        print_table(["set", "reason", "records", "share"], reasons)
    cap = config.data.max_bad_fraction
    worst = [name for name, t in tallies.items() if t.n_bad > cap * t.seen]
    if worst:
        typer.echo(f"more than max_bad_fraction={cap:g} is bad in: {', '.join(worst)}", err=True)
        raise typer.Exit(1)


def inspect(
    run: RunFile, index_and_overrides: IndexAndOverrides = None, set_name: SetName = None
) -> None:
    """One record's tokens, and how many tokens records have, how rows fill and what is cropped."""
    from lom_core.cli.inspect import show_lengths, show_packing, show_record

    rest = list(index_and_overrides or [])
    index = int(rest.pop(0)) if rest and rest[0].isdecimal() else 0
    config, readers = open_readers(run, rest, set_name or "train")
    (reader,) = readers.values()
    show_record(reader, index)
    show_lengths(reader)
    show_packing(reader, config.data.look_ahead)


def open_readers(
    run: Path, overrides: list[str], only: str | None = None
) -> tuple[RunConfig, dict[str, Reader]]:
    """The run and a reader for each of its sets, or for the one that is asked for.

    Errors:
        ConfigError: there is no such set.
    """
    config = load_run(run, overrides)
    from lom_core.data import Reader
    from lom_core.loader import open_sources

    registry = config.registry
    train, named = open_sources(config.data, registry, config.train.seed)
    sources = {"train": train, **named}
    if only is not None and only not in sources:
        possible = f"{nearest(only, sources)}; possible: {', '.join(sources)}"
        raise ConfigError(f"this run has no set '{only}'{possible}")
    return config, {
        name: Reader(source, registry, config.data.block_size)
        for name, source in sources.items()
        if only in (None, name)
    }


def numbers(source: Source, at_most: int | None = None) -> Iterator[int]:
    """0, 1, 2 ... as far as a source reaches; a stream finds out by reading."""
    from lom_core.data import in_stream

    for index in count() if at_most is None else range(at_most):
        if not in_stream(source, index):
            return
        yield index


def _length(source: Source) -> str:
    from lom_core.data import Stream

    return "a stream" if isinstance(source, Stream) else str(len(source))


def _read(name: str, reader: Reader, index: int, tally: Tally) -> None:
    tally.seen += 1
    try:
        tally.cropped += reader.read(index, None).cropped
    except BadRecord as error:
        tally.note(error)
        typer.echo(f"{name}[{index}]: {error}")


def _progress(
    indices: Iterator[int], name: str, source: Source, at_most: int | None
) -> Iterator[int]:
    """The same indices, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    from lom_core.data import Stream

    total = at_most if isinstance(source, Stream) else min(len(source), at_most or len(source))
    yield from track(
        indices,
        description=name,
        total=total,
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
