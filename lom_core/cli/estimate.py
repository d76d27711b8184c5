"""``lom estimate``: what a run will need, before it trains."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from lom_core.cli.common import (
    OVERRIDABLE,
    AsJson,
    Overrides,
    RunFile,
    duration,
    print_facts,
    print_json,
    print_line,
    print_table,
    size,
)
from lom_core.config import RunConfig
from lom_core.runfile import load_run

if TYPE_CHECKING:
    from lom_core.estimate import Estimate, Probe, Reading, Tokens

SPARE = 1.2  # workers are advised for so many times the need

Processes = Annotated[
    int, typer.Option("--processes", min=1, metavar="N", help="Processes that share the model.")
]
Steps = Annotated[
    int,
    typer.Option(
        "--steps", min=0, metavar="N", help="Steps of the probe; 0 allocates no model at all."
    ),
]


def add(app: typer.Typer) -> None:
    app.command("estimate", context_settings=OVERRIDABLE)(estimate)


def estimate(
    run: RunFile,
    overrides: Overrides = None,
    processes: Processes = 8,
    steps: Steps = 10,
    as_json: AsJson = False,
) -> None:
    """What a run will need: parameters, tokens, FLOPs, memory, time. Leaves nothing behind.

    Reads real records, makes a few real steps on this machine, and forgets them.
    """
    config = load_run(run, overrides or ())
    from lom_core.estimate import estimate as work_out

    found = work_out(config, processes, steps)
    if as_json:
        print_json(found.as_dict())
        return
    show_parameters(found)
    show_tokens(found.reading)
    show_memory(found)
    show_run(config, found)


def show_parameters(found: Estimate) -> None:
    rows = [
        [name, f"{n:,}", f"{n / found.sizes.parameters:.1%}"]
        for name, n in found.sizes.parts.items()
    ]
    rows.append(["all", f"{found.sizes.parameters:,}", "100.0%"])
    print_table(["part of the model", "parameters", "share"], rows, title="Parameters")


def show_tokens(reading: Reading) -> None:
    """Tokens per record, and how full rows are."""
    total = sum(t.mean * t.records for t in reading.modalities.values() if t)

    def row(name: str, t: Tokens | None) -> list[Any]:
        if t is None:
            return [name, 0, *[None] * 5]
        share = f"{t.mean * t.records / total:.1%}"
        return [name, t.records, t.min, f"{t.median:g}", f"{t.mean:.1f}", t.max, share]

    rows = [row(name, t) for name, t in {**reading.modalities, "all": reading.tokens}.items()]
    columns = ["modality", "records", "min", "median", "mean", "max", "share of tokens"]
    print_table(columns, rows, title=f"Tokens per record, in {reading.steps} steps of the loader")
    tally = reading.tally
    told = [
        f"rows are {reading.fill:.1%} full (padded to the longest record: {reading.padded:.1%})"
    ]
    if tally.cropped:
        told.append(f"{tally.cropped} of {tally.seen} records are cropped to block_size")
    if tally.n_bad:
        told.append(f"{tally.n_bad} of {tally.seen} records cannot be used: `lom data validate`")
    print_line("; ".join(told) + "\n")


def show_memory(found: Estimate) -> None:
    """By strategy, without and with activation checkpointing; red is more than the device has."""
    kept = found.activations
    most = found.available or float("inf")

    def total(needed: int) -> Text:
        return Text(size(needed), style="red" if needed > most else "")

    rows = [
        [
            name,
            *(size(n) for n in (share.parameters, share.gradients, share.moments)),
            total(share.total + kept.whole + kept.working),
            total(share.total + kept.checkpointed + kept.working),
        ]
        for name, share in found.memory.items()
    ]
    columns = ["strategy", "parameters", "gradients", "moments", "total", "checkpointed"]
    title = f"Memory of each of {found.processes} processes (an estimate)"
    print_table(columns, rows, title=title)
    saved = [size(n + kept.working) for n in (kept.whole, kept.checkpointed)]
    print_line(
        f"total is with a batch's activations: {saved[0]}, with activation checkpointing {saved[1]}"
    )
    if found.available:
        print_line(f"the device has {size(found.available)}")
    if found.probe and found.probe.memory is not None:
        told = "with libraries and what malloc holds back" if found.probe.device == "cpu" else ""
        measured = size(found.probe.memory) + (f" ({told})" if told else "")
        print_line(f"one process alone: estimated {size(found.single)}, measured {measured}")
    print_line("")


def show_run(config: RunConfig, found: Estimate) -> None:
    """A step, an epoch, the run, and which of loader and model waits for the other."""
    reading, probe = found.reading, found.probe
    facts = {
        "a step": f"{found.rows_per_step} rows, {reading.records_per_step:,.0f} records, "
        f"{reading.tokens_per_step:,.0f} tokens, {_si(found.flops)}FLOP",
        "an epoch": _epoch(reading, found.steps),
        "loader alone": f"{_rate(reading.seconds)} with num_workers={config.data.num_workers}",
    }
    if probe:
        facts |= {
            "training alone": f"{_rate(probe.seconds)} on {probe.device}, MFU {probe.mfu:.0%} of "
            f"{_si(probe.peak)}FLOP/s; the first step took {duration(probe.first)}",
            f"{found.steps:,} steps": duration(found.time["steps"]),
            "evaluations": f"{duration(found.time['evaluations'])} in all, "
            f"{duration(probe.evaluation)} each",
            "the run": f"{duration(found.time['run'])}, without writing checkpoints",
        }
    print_facts(facts, title="The run on this machine")
    if probe:
        keeps_up, told = verdict(reading, probe, config.data.num_workers)
        print_line(told, style="green" if keeps_up else "yellow")


def verdict(reading: Reading, probe: Probe, num_workers: int) -> tuple[bool, str]:
    """Does the loader keep up? And in words, with what to do if it does not."""
    share = reading.seconds / probe.seconds  # of a step's time
    if num_workers == 0:
        lost = share / (1 + share)
        if lost < 0.05:
            return True, f"the loader keeps up: training waits for it {lost:.1%} of the time"
        told = f"training waits for the loader {lost:.0%} of the time"
        return False, f"{told}: set num_workers={ceil(share * SPARE)}"
    if share <= 1:
        return True, f"the loader keeps up: it gives {1 / share:.3g} steps in the time of one"
    told = f"training waits for the loader {1 - 1 / share:.0%} of the time"
    return False, f"{told}: try num_workers={ceil(num_workers * share * SPARE)}"


def _epoch(reading: Reading, steps: int) -> str:
    if reading.epoch is None:
        return "of unknown length: the records are a stream"
    return f"{reading.epoch:,.0f} steps; {steps / reading.epoch:,.3g} epochs in the run"


def _rate(seconds: float) -> str:
    return f"{1 / seconds:,.3g} steps/s"


def _si(value: float) -> str:
    """``1.23 T``."""
    for prefix in ("", "k", "M", "G", "T", "P"):
        if value < 999.5:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:,.4g} E"
