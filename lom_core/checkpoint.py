"""Checkpoints: safetensors and JSON in a folder of their own, complete or not there at all.

    out_dir/checkpoints/step-00000500/
        model.safetensors       weights and fitted scales
        optimizer.safetensors   AdamW's moments, random generators of each rank
        state.json              config, plugin lock, step, lanes, ..., a hash of each file
    out_dir/checkpoints/latest  the name of the newest; ``best`` likewise

A checkpoint is written under a temporary name, synced and renamed: a kill at any instant leaves
the previous one whole. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lom_core.component import KINDS
from lom_core.config import RunConfig
from lom_core.errors import CheckpointError
from lom_core.modality import ModalityRegistry
from lom_core.model import Lom
from lom_core.plugins import metadata_version

FORMAT = 1
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


def save(
    out_dir: Path,
    model: Lom,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    random: Sequence[Mapping[str, Tensor]] = (),
) -> Path:
    """Write ``step-N`` and point ``latest`` at it.

    Args:
        random: :func:`random_state` of each rank.

    Errors:
        CheckpointError: the disk is full or not writable; what was there before is untouched.
    """
    root = out_dir / "checkpoints"
    final = root / f"step-{state['step']:08d}"
    part = root / f".{final.name}.{os.getpid()}"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file(_contiguous(model.state_dict()), part / MODEL)
        generators = {
            f"random/{rank}/{name}": value
            for rank, states in enumerate(random or [random_state(model.bos.device)])
            for name, value in states.items()
        }
        save_file(_optimizer_tensors(model, optimizer) | generators, part / OPTIMIZER)
        files = {name: _hash(part / name) for name in (MODEL, OPTIMIZER)}
        text = json.dumps({"format": FORMAT, **state, "files": files}, indent=1)
        (part / STATE).write_text(text, encoding="utf8")
        for path in (*part.iterdir(), part):
            _sync(path)
        if final.exists():
            shutil.rmtree(final)
        part.rename(final)
        _sync(root)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(
            f"cannot write {final}: {error}; the previous checkpoint is whole"
        ) from error
    point(out_dir, "latest", final.name)
    return final


def point(out_dir: Path, name: str, target: str) -> None:
    """Make ``latest`` or ``best`` name a checkpoint, in one rename."""
    path = out_dir / "checkpoints" / name
    part = path.with_name(f".{name}.{os.getpid()}")
    part.write_text(target + "\n", encoding="utf8")
    _sync(part)
    part.replace(path)


def prune(out_dir: Path, keep_every: int) -> None:
    """Delete checkpoints that nothing points at and whose step is no multiple of keep_every."""
    root = out_dir / "checkpoints"
    pointed = {_pointed(root / name) for name in ("latest", "best")}
    for path in root.glob("step-*"):
        if path.name not in pointed and int(path.name.split("-")[1]) % keep_every:
            shutil.rmtree(path)


def find(path: str | Path, prefer: str = "best") -> Path:
    """The checkpoint folder behind a checkpoint, a run's ``out_dir`` or its ``checkpoints``.

    Args:
        prefer: which one of a run, ``best`` or ``latest``; the other one where it is missing.

    Errors:
        CheckpointError: there is none; says what was looked for.
    """
    path = Path(path)
    if (path / STATE).is_file():
        return path
    for root in (path / "checkpoints", path):
        for name in (prefer, "latest", "best"):
            target = root / (_pointed(root / name) or " ")
            if (target / STATE).is_file():
                return target
    raise CheckpointError(
        f"no checkpoint at {path}; give a run's out_dir or one of its checkpoints/step-*"
    )


def _pointed(path: Path) -> str | None:
    name = path.read_text(encoding="utf8").strip() if path.is_file() else ""
    return name if name and Path(name).name == name else None  # never a path out of the folder


def read_state(checkpoint: Path) -> dict[str, Any]:
    """state.json, with the hash of every file of the checkpoint checked.

    Errors:
        CheckpointError: it is damaged, or of a format that this version cannot read.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf8"))
        if state["format"] != FORMAT:
            raise CheckpointError(
                f"{checkpoint} has format {state['format']}, this version reads {FORMAT}"
            )
        for name, expected in state["files"].items():
            if Path(name).name != name or _hash(checkpoint / name) != expected:
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
    """The model of a checkpoint in evaluation mode, its config and its state."""
    checkpoint = find(path)
    state = read_state(checkpoint)
    config = read_config(state)
    check_lock(state["lock"], config.registry)
    model = Lom(config.registry, config.model)
    load_weights(model, checkpoint)
    return model.eval(), config, state


def load_weights(model: Lom, checkpoint: Path) -> None:
    """Weights and scales; every name and shape must fit.

    Errors:
        CheckpointError: lists the first that do not.
    """
    tensors = _load(checkpoint / MODEL)
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own.keys() - tensors.keys()]
    wrong += [f"{name} is not in this model" for name in tensors.keys() - own.keys()]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)} there, {tuple(own[name].shape)} here"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"{checkpoint} does not fit this run: {'; '.join(sorted(wrong)[:3])}{more}"
        )
    model.load_state_dict(tensors)


def load_optimizer(model: Lom, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
    """AdamW's moments by parameter name."""
    tensors = _load(checkpoint / OPTIMIZER)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            prefix = f"{names[parameter]}/"
            state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            optimizer.state[parameter] = {
                k: v.to(parameter.device) if v.ndim else v for k, v in state.items()
            }


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The random generators of this process."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def load_random(checkpoint: Path, rank: int, device: torch.device) -> bool:
    """Set this process's random generators as they were; False if so many ranks did not run."""
    cpu, cuda = f"random/{rank}/cpu", f"random/{rank}/cuda"
    with safe_open(checkpoint / OPTIMIZER, "pt") as file:  # the moments are large: not read again
        names = set(file.keys())
        if cpu not in names:
            return False
        torch.set_rng_state(file.get_tensor(cpu))
        if device.type == "cuda" and cuda in names:
            torch.cuda.set_rng_state(file.get_tensor(cuda), device)
    return True


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = value.detach().cpu().contiguous()
    return tensors


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


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


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
