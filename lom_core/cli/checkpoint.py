"""``lom checkpoint show | export | graft | encoder | push | pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lom_core.cli.common import AsJson, console, print_json, print_table, size
from lom_core.cli.evaluate import Checkpoint, print_metrics
from lom_core.runfile import make_importable

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="To write to.", show_default=False)]
Repository = Annotated[
    str, typer.Argument(metavar="USER/NAME", help="Of the Hugging Face hub.", show_default=False)
]
Added = Annotated[
    list[str],
    typer.Option(
        "--add",
        metavar="KIND",
        help="A kind of modality, NAME=KIND, or a .yaml file with modalities; may be repeated.",
        show_default=False,
    ),
]
Modality = Annotated[str, typer.Argument(metavar="MODALITY", help="Of the model.")]
Encoded = Annotated[Path, typer.Argument(metavar="FILE", help="Ending in .onnx or .pt2.")]
Private = Annotated[bool, typer.Option("--private", help="Nobody but you may see it.")]


def add(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at checkpoints, give them away, get some.")
    for verb in (show, export, graft, encoder, push, pull):
        group.command(verb.__name__)(verb)
    app.add_typer(group, name="checkpoint")


def show(checkpoint: Checkpoint, as_json: AsJson = False) -> None:
    """What a checkpoint is: step, modalities with their plugins, metrics, files."""
    from lom_core.checkpoint import find, read_state

    found = find(checkpoint)
    state = read_state(found)
    config = state["config"]
    told: dict[str, Any] = {
        "checkpoint": str(found),
        "step": state["step"],
        "tokens": state["tokens"],
        "model": config["model"],
        "modalities": state["lock"],
        "metrics": state["metrics"],
        "files": {name: (found / name).stat().st_size for name in state["files"]},
    }
    if as_json:
        print_json(told)
        return
    shape = ", ".join(f"{k} {config['model'][k]}" for k in ("n_layer", "n_head", "n_embd"))
    console().print(f"{found}: step {state['step']:,}, {state['tokens']:,} tokens seen, {shape}")
    rows = [
        [name, config["modalities"][name]["kind"], f"{e['distribution']} {e['version']}"]
        for name, e in state["lock"].items()
    ]
    print_table(["modality", "kind", "tokeniser of"], rows)
    for name, metrics in state["metrics"].items():
        print_metrics(name, metrics)
    print_table(["file", "size"], [[name, size(n)] for name, n in told["files"].items()])


def export(checkpoint: Checkpoint, folder: Folder) -> None:
    """Write weights, config and a model card to a folder: all that others need to use the model."""
    from lom_core.share import export as write

    make_importable(checkpoint)
    console().print(f"written to {write(checkpoint, folder)}: see its README.md")


def graft(checkpoint: Checkpoint, folder: Folder, add: Added) -> None:
    """Add modalities to a model. What it answers stays, to the bit; train on with init_from."""
    from lom_core.checkpoint import find
    from lom_core.graft import graft as grow
    from lom_core.graft import read_added
    from lom_core.share import write

    make_importable(checkpoint)
    model, state = grow(checkpoint, read_added(add))
    written = write(folder, model.state_dict(), state, find(checkpoint))
    console().print(f"written to {written}: train on it with init_from={written}")


def encoder(checkpoint: Checkpoint, modality: Modality, path: Encoded) -> None:
    """Write the encoder of one modality for use without lom: ONNX, or torch.export's format."""
    from lom_core.api import load
    from lom_core.encoder import export_encoder

    make_importable(checkpoint)
    console().print(f"written to {export_encoder(load(checkpoint, 'cpu'), modality, path)}")


def push(checkpoint: Checkpoint, repository: Repository, private: Private = False) -> None:
    """Export a model to the Hugging Face hub. HF_TOKEN, or .env, says who you are."""
    from lom_core.share import push as upload

    make_importable(checkpoint)
    console().print(f"pushed to {upload(checkpoint, repository, private=private)}")


def pull(repository: Repository, folder: Folder) -> None:
    """Get a model from the Hugging Face hub into a folder."""
    from lom_core.share import pull as download

    console().print(f"written to {download(repository, folder)}")
