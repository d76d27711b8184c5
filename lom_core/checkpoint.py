"""Checkpoints: safetensors and JSON in a folder of their own, complete or not there at all.

    out_dir/checkpoints/step-00000500/
        model.safetensors       weights and fitted scales
        optimizer.safetensors   the optimiser's moments, random generators of each rank
        state.json              config, plugin lock, step, lanes, ..., a hash of each file
    out_dir/checkpoints/latest  the name of the newest; ``best`` likewise

Where every process holds a part of the weights, each writes its rows of them, to
``model-00002-of-00004.safetensors``; any number of processes can read them. :mod:`lom_core.saving`
writes under a temporary name, syncs and renames: a kill at any instant leaves the previous
checkpoint whole. This module reads. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from lom_core.component import KINDS, Component
from lom_core.config import RunConfig
from lom_core.errors import CheckpointError, LomError
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.model import Lom
from lom_core.plugins import metadata_version
from lom_core.roles import Dataset
from lom_core.tensors import TensorFiles, file_hash

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model", "optimizer", "state.json"
EXPORTED = "config.json"  # stands for STATE where a model was given away without its optimiser


def root_of(out_dir: Path) -> Path:
    """The folder of a run's checkpoints."""
    return out_dir / "checkpoints"


def find(path: str | Path, prefer: str = "best") -> Path:
    """The checkpoint folder behind a checkpoint, a run's ``out_dir`` or its ``checkpoints``.

    Args:
        prefer: which one of a run, ``best`` or ``latest``; the other one where it is missing.

    Errors:
        CheckpointError: there is none; says what was looked for.
    """
    path = Path(path)
    if is_one(path):
        return path
    for root in (root_of(path), path):
        for name in (prefer, "latest", "best"):
            target = root / (pointed(root / name) or " ")
            if is_one(target):
                return target
    raise CheckpointError(
        f"no checkpoint at {path}; give a run's out_dir or one of its checkpoints/step-*"
    )


def is_one(path: Path) -> bool:
    """Is this folder a checkpoint, or an exported model?"""
    return (path / STATE).is_file() or (path / EXPORTED).is_file()


def pointed(path: Path) -> str | None:
    """The checkpoint that ``latest`` or ``best`` names."""
    name = path.read_text(encoding="utf8").strip() if path.is_file() else ""
    return name if name and Path(name).name == name else None  # never a path out of the folder


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json, with the hash of every file of the checkpoint checked.

    Errors:
        CheckpointError: it is damaged, or of a format that this version cannot read.
    """
    try:
        name = STATE if (checkpoint / STATE).is_file() else EXPORTED
        state = json.loads((checkpoint / name).read_text(encoding="utf8"))
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {state['format']}, this version reads {FORMAT}"
            )
        for name, expected in state["files"].items():
            if Path(name).name != name or file_hash(checkpoint / name) != expected:
                raise CheckpointError(
                    f"{checkpoint / name} is damaged (its hash differs); use another checkpoint"
                )
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{checkpoint} is damaged: {error}; use another checkpoint"
        ) from error
    return dict(state)


def read_config(state: Mapping[str, Any]) -> RunConfig:
    """The run's config; CheckpointError says which plugin is missing."""
    try:
        return RunConfig.model_validate(state["config"])
    except ValidationError as error:
        first = error.errors()[0]
        reason = str(first["msg"]).removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"the checkpoint's config cannot be used: {key}: {reason}") from None


def load_model(path: str | Path) -> tuple[Lom, RunConfig, dict[str, Any]]:
    """The model of a checkpoint in evaluation mode, its config and its state.

    Modalities whose plugin is not installed are left out, with a warning that says what to install.

    Errors:
        CheckpointError: there is none, it is damaged, or nothing of it can be used here.
    """
    checkpoint = find(path)
    state = read_state(checkpoint)
    left_out = leave_out(state)
    for name, why in left_out.items():
        warnings.warn(f"modality '{name}' is left out: {why}", stacklevel=2)
    config = read_config(state)
    check_lock(state["lock"], config.registry)
    model = Lom(config.registry, config.model)
    load_weights(model, checkpoint, left_out)
    return model.eval(), config, state


def leave_out(state: dict[str, Any]) -> dict[str, str]:
    """Take modalities out of a state's config that cannot be made here; why, by name.

    A data set that cannot be made says so when it is opened. Nothing is taken out of a config of
    which nothing would be left.
    """
    config = state["config"]
    problems = {name: _problem(ModalityConfig, m) for name, m in config["modalities"].items()}
    found = {name: why for name, why in problems.items() if why}
    if not found or len(found) == len(problems):
        return {}
    kept = {name: m for name, m in config["modalities"].items() if name not in found}
    data = {**config["data"], "dataset": _opened_later(config["data"]["dataset"])}
    data["eval"] = {name: _opened_later(d) for name, d in config["data"]["eval"].items()}
    state["config"] = {**config, "modalities": kept, "data": data}
    return found


def _opened_later(dataset: Any) -> Any:
    why = _problem(Dataset, dataset)
    return {"kind": "unavailable", "reason": why} if why else dataset


def _problem(part: type[Component], value: Any) -> str:
    """Why a component cannot be made here; nothing if it can."""
    try:
        part.model_validate(value)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    except LomError as error:
        return str(error)
    return ""


def load_weights(model: Lom, checkpoint: Path, left_out: Collection[str] = ()) -> None:
    """Weights and scales; every name and shape must fit, but for modalities that are left out.

    Errors:
        CheckpointError: lists the first that do not.
    """
    saved, own = stored(checkpoint, MODEL), model.state_dict()
    names = [name for name in saved if not _is_of(name, left_out)]
    check_fit(checkpoint, saved, own, {name: name for name in {*own, *names}})
    model.load_state_dict({name: saved[name] for name in names})


def _is_of(name: str, modalities: Collection[str]) -> bool:
    return any(name.startswith(f"parts.{modality}.") for modality in modalities)


def check_fit(
    checkpoint: Path, saved: TensorFiles, own: Mapping[str, Tensor], wanted: Mapping[str, str]
) -> None:
    """CheckpointError unless each tensor of the model is there, in its shape.

    Args:
        wanted: name in the model -> name in the checkpoint.
    """
    wrong = [f"{there} is missing" for there in wanted.values() if there not in saved]
    wrong += [f"{here} is not in this model" for here in wanted if here not in own]
    wrong += [
        f"{there} is {saved.shape(there)} there, {tuple(own[here].shape)} here"
        for here, there in wanted.items()
        if here in own and there in saved and own[here].shape != saved.shape(there)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{checkpoint} does not fit this run: {'; '.join(sorted(wrong)[:3])}{more}"
        )


def load_optimizers(
    model: Lom, optimizers: Sequence[torch.optim.Optimizer], checkpoint: Path
) -> None:
    """The moments of each parameter, by its name: a sharded one's rows of them."""
    saved = stored(checkpoint, OPTIMIZER)
    keys: dict[str, list[str]] = {}
    for path in saved:
        name, _, key = path.rpartition("/")
        keys.setdefault(name, []).append(key)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names[parameter]
                optimizer.state[parameter] = {
                    key: saved.like(path, parameter)
                    for key in keys.get(name, [])
                    for path in [f"{name}/{key}"]
                }


def stored(checkpoint: Path, stem: str) -> TensorFiles:
    """The tensors of ``model`` or ``optimizer``, whole or in shards.

    Errors:
        CheckpointError: there are none, or a file is no safetensors.
    """
    one = checkpoint / f"{stem}.safetensors"
    paths = [one] if one.exists() else sorted(checkpoint.glob(f"{stem}-*-of-*.safetensors"))
    if not paths:
        raise CheckpointError(f"{checkpoint} is damaged: it has no {one.name}")
    return TensorFiles(paths)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The random generators of this process."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def load_random(checkpoint: Path, rank: int, device: torch.device) -> bool:
    """Set this process's random generators as they were; False if so many ranks did not run."""
    saved = stored(checkpoint, OPTIMIZER)
    cpu, cuda = f"random/{rank}/cpu", f"random/{rank}/cuda"
    if cpu not in saved:
        return False
    torch.set_rng_state(saved[cpu])
    if device.type == "cuda" and cuda in saved:
        torch.cuda.set_rng_state(saved[cuda], device)
    return True


# -------------------------------------------------------------------------------- the plugin lock


def lock(registry: ModalityRegistry) -> dict[str, dict[str, str]]:
    """For each modality: the distribution and version behind it, a hash of its tokeniser."""
    providers = {(role, kind): dist for role, kind, dist in KINDS.items()}
    found = {}
    for config in registry:
        dist = providers.get(("tokeniser", config.tokeniser.kind), "")
        found[config.name] = {
            "distribution": dist,
            "version": metadata_version(dist) if dist else "",
            "tokeniser": hashlib.blake2b(
                config.tokeniser.model_dump_json().encode(), digest_size=8
            ).hexdigest(),
        }
    return found


def check_lock(locked: Mapping[str, Mapping[str, str]], registry: ModalityRegistry) -> None:
    """CheckpointError if a modality's tokeniser is not the one that the model was trained with."""
    now = lock(registry)
    for name, entry in locked.items():
        if name in now and now[name]["tokeniser"] != entry["tokeniser"]:
            raise CheckpointError(
                f"modality '{name}': its tokeniser now differs from the one trained with; "
                f"`pip install {entry['distribution']}=={entry['version']}`"
            )
