"""A model to give away: one folder with weights, config and card, that loads as a checkpoint does.

folder/model.safetensors    weights and fitted scales, whole
folder/config.json          run config, plugin lock, metrics, a hash of the weights
folder/README.md            the model card
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from lom_core import conformal, tensors
from lom_core.card import card
from lom_core.checkpoint import EXPORTED, FORMAT, MODEL, find, read_state, stored
from lom_core.errors import CheckpointError
from lom_core.transformer import merged

# Of a checkpoint's state, what says what the model is and how good; not where the run stood.
PARTS = [f"{MODEL}.safetensors", EXPORTED, conformal.FILE, "README.md"]
KEPT = ("config", "lock", "metrics", "step", "tokens")


def export(path: str | Path, folder: str | Path) -> Path:
    """Write the best checkpoint of a run, or the one given, as a folder of its own.

    Errors:
        CheckpointError: there is none, it is damaged, the folder has something else in it or
            cannot be written.
    """
    checkpoint = find(path)
    state = read_state(checkpoint)
    weights = merged(dict(stored(checkpoint, MODEL)))
    adapted, state["config"]["model"]["lora_rank"] = state["config"]["model"]["lora_rank"], 0
    corrections = conformal.load(checkpoint, conformal.weights_of(state))
    folder = write(folder, weights, state, checkpoint)
    if corrections and not adapted:  # merged weights answer a little differently
        found = conformal.read(checkpoint)
        weights_now = conformal.weights_of(read_state(folder))
        conformal.save(folder, found.model_copy(update={"weights": weights_now}))
    return folder


def write(
    folder: str | Path, weights: Mapping[str, Tensor], state: Mapping[str, Any], origin: Path
) -> Path:
    """The folder of a model: its weights, what its state says of it, and the card.

    Args:
        origin: the checkpoint that it comes from.

    Errors:
        CheckpointError: the folder has something else in it, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / EXPORTED).exists():
        raise CheckpointError(f"{folder} is not empty and holds no exported model; name another")
    kept: dict[str, Any] = {"format": FORMAT, **{key: state[key] for key in KEPT if key in state}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{MODEL}.safetensors"
        kept["files"] = {name: tensors.write(folder / name, weights, {})}
        (folder / EXPORTED).write_text(json.dumps(kept, indent=1), encoding="utf8")
        (folder / "README.md").write_text(card(kept, origin), encoding="utf8")
        calibration = folder / conformal.FILE
        calibration.unlink(missing_ok=True)  # of what was here before
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write {folder}: {error}") from error
    return folder


def push(path: str | Path, repository: str, private: bool = False) -> str:
    """Export to the Hugging Face hub; the address of the model there.

    Errors:
        CheckpointError: as :func:`export`; the hub refuses, or cannot be reached.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory() as work:
        folder = export(path, Path(work) / "model")
        try:
            address = hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=str(folder))
        except (OSError, ValueError) as error:  # HfHubHTTPError, HFValidationError are among them
            raise CheckpointError(f"cannot push to {repository}: {_first(error)}") from error
    return str(address)


def pull(repository: str, folder: str | Path) -> Path:
    """Get an exported model from the hub: its weights, config and card, and nothing else.

    Errors:
        CheckpointError: it cannot be reached, or is no model of ours.
    """
    try:
        _hub().snapshot_download(
            repository,
            local_dir=str(folder),
            allow_patterns=PARTS,
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot pull {repository}: {_first(error)}") from error
    read_state(find(folder))  # whole, and of our format
    return Path(folder)


def cached(name: str | Path) -> Path:
    """A folder as it is; else the hub's model of that name, in the hub's own cache.

    Errors:
        CheckpointError: there is neither.
    """
    if Path(name).exists():
        return Path(name)
    try:
        return Path(_hub().snapshot_download(str(name), allow_patterns=PARTS))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"there is no folder {name}, and the hub has no such model: {_first(error)}"
        ) from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError("the hub needs `pip install lom-core[hub]`") from None
    return huggingface_hub


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
