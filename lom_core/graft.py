"""From one run's weights to another's: new modalities, other vocabularies, other names.

What both have is kept. A modality that the checkpoint does not have begins anew, its scale fitted
on this run's data; where a vocabulary changed, the rows of each token are found by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from lom_core import checkpoint
from lom_core.errors import CheckpointError, ConfigError, nearest
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.model import Lom
from lom_core.tensors import TensorFiles
from lom_core.transformer import is_adapter

# Of a discrete modality, the tensors with a row for each token of its vocabulary.
BY_TOKEN = ("embed.weight", "head.project.weight", "head.project.bias", "head.log_frequency")


@dataclass
class Transfer:
    """What became of a model's parts."""

    new: list[str] = field(default_factory=list)  # modalities whose scale is yet to be fitted
    left_out: list[str] = field(default_factory=list)  # of the checkpoint, that this run lacks
    vocabularies: dict[str, tuple[int, int]] = field(default_factory=dict)  # tokens kept, of all

    def told(self) -> Iterable[str]:
        """Lines that say so."""
        if self.new:
            yield f"new, and fitted on this run's data: {', '.join(self.new)}"
        if self.left_out:
            yield f"of the checkpoint, but not of this run: {', '.join(self.left_out)}"
        for name, (kept, n) in self.vocabularies.items():
            yield f"{name}: {kept} of {n} tokens are known from the checkpoint"


@torch.no_grad()
def transfer(model: Lom, found: Path, origins: Mapping[str, str] | None = None) -> Transfer:
    """Take from a checkpoint what fits the model.

    Args:
        origins: modality of this run -> that of the checkpoint whose weights it begins with; by
            default the one of the same name.

    Errors:
        CheckpointError: shapes differ; a tokeniser changed and does not name its tokens.
        ConfigError: ``origins`` names what is not there.
    """
    state = checkpoint.read_state(found)
    saved, own = checkpoint.stored(found, checkpoint.MODEL), model.state_dict()
    sources = _sources(model.registry, state["lock"], origins or {})
    done = Transfer(left_out=[n for n in state["lock"] if n not in sources.values()])
    locked, now = state["lock"], checkpoint.lock(model.registry)
    wanted = {k: k for k in own if not k.startswith("parts.") and not is_adapter(k)}
    wanted |= {k: k for k in own if is_adapter(k) and k in saved}
    taken: dict[str, Tensor] = {}
    for name, source in sources.items():
        keys = {k: f"parts.{source}{k.removeprefix(f'parts.{name}')}" for k in _of(name, own)}
        if locked[source]["tokeniser"] != now[name]["tokeniser"]:
            old = _vocabulary(state, source)
            new = model.registry.get_config(name).tokeniser.vocabulary
            if not (old and new):
                checkpoint.check_lock({name: locked[source]}, model.registry)
            taken |= _by_token(own, saved, keys, old, new)
            done.vocabularies[name] = (len(set(old) & set(new)), len(new))
        wanted |= {k: v for k, v in keys.items() if k not in taken}
    checkpoint.check_fit(found, saved, own, wanted)
    model.load_state_dict(taken | {k: saved[v] for k, v in wanted.items()}, strict=False)
    done.new = [n for n in model.registry.names() if not model.part(n).seen]
    return done


def _sources(
    registry: ModalityRegistry, locked: Mapping[str, Any], origins: Mapping[str, str]
) -> dict[str, str]:
    for name, source in origins.items():
        if name not in registry.names():
            possible = ", ".join(registry.names())
            raise ConfigError(f"origins: this run has no modality '{name}'; it has {possible}")
        if source not in locked:
            raise ConfigError(
                f"origins.{name}={source}: the checkpoint has no such modality"
                f"{nearest(source, locked)}; it has {', '.join(locked)}"
            )
    found = {name: origins.get(name, name) for name in registry.names()}
    return {name: source for name, source in found.items() if source in locked}


def _of(name: str, tensors: Iterable[str]) -> list[str]:
    return [key for key in tensors if key.startswith(f"parts.{name}.")]


def _vocabulary(state: Mapping[str, Any], name: str) -> tuple[str, ...]:
    try:
        config = ModalityConfig.model_validate(state["config"]["modalities"][name])
    except ValidationError:  # of a plugin that is not here
        return ()
    return config.tokeniser.vocabulary


def _by_token(
    own: Mapping[str, Tensor],
    saved: TensorFiles,
    keys: Mapping[str, str],
    old: tuple[str, ...],
    new: tuple[str, ...],
) -> dict[str, Tensor]:
    """The tensors with a row a token. A token that is new is as rare as the rarest known one."""
    numbers = {token: i for i, token in enumerate(old)}
    pairs = [(i, numbers[token]) for i, token in enumerate(new) if token in numbers]
    if not pairs:
        return {}
    rows, known = (torch.tensor(column) for column in zip(*pairs, strict=True))
    taken = {}
    for key, source in keys.items():
        kind = next((k for k in BY_TOKEN if key.endswith(f".{k}")), None)
        if kind is None or source not in saved:
            continue
        before, after = saved[source], own[key].clone()
        if kind != "embed.weight":  # an answer that nobody trained is no likely one
            after[:] = 0.0 if kind.endswith("weight") else float(before.min())
        after[rows] = before[known]
        taken[key] = after.log_softmax(0) if kind == "head.log_frequency" else after
    return taken


def graft(path: str | Path, added: Mapping[str, ModalityConfig]) -> tuple[Lom, dict[str, Any]]:
    """A checkpoint's model with further modalities, and its state with them.

    What is new adds nothing to a slot's content yet, and its scale is yet to be fitted: train with
    ``init_from``. Where an observation lacks the new modalities, or they stand behind the others
    of a causal model, every answer is to the bit what it was.

    Errors:
        CheckpointError: as :func:`transfer`.
        ConfigError: the checkpoint has such a modality already.
    """
    found = checkpoint.find(path)
    state = checkpoint.read_state(found)
    config = checkpoint.read_config(state)
    twice = [name for name in added if name in config.modalities]
    if twice:
        raise ConfigError(f"the checkpoint has '{twice[0]}' already; give the new one another name")
    registry = ModalityRegistry([*config.registry, *added.values()])
    torch.manual_seed(config.train.seed)
    model = Lom(registry, config.model)
    transfer(model, found)
    for name in added:
        embed = model.part(name).embed
        assert isinstance(embed, nn.Embedding | nn.Linear)
        for parameter in embed.parameters():
            nn.init.zeros_(parameter)
    modalities = {c.name: c.model_dump(mode="json") for c in registry}
    state["config"] = {**state["config"], "modalities": modalities}
    state["lock"] = checkpoint.lock(registry)
    return model, state


def read_added(texts: Iterable[str]) -> dict[str, ModalityConfig]:
    """``spectra``, ``lamost=spectra``, or a ``.yaml`` file with modalities as run files have them.

    Errors:
        ConfigError: no such kind, or no such file.
    """
    from lom_core.runfile import describe_errors, read_yaml

    trees: dict[str, Any] = {}
    for text in texts:
        if text.endswith((".yaml", ".yml")):
            try:
                tree = read_yaml(Path(text).read_text(encoding="utf8"), text)
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{text} cannot be read: {error}") from None
            trees |= tree.get("modalities", tree)
        else:
            name, _, kind = text.rpartition("=")
            trees[name or kind] = {"kind": kind}
    found = {}
    for name, tree in trees.items():
        settings = {"kind": tree} if isinstance(tree, str) else {**tree}
        try:
            found[name] = ModalityConfig.model_validate({**settings, "name": name})
        except ValidationError as error:
            raise ConfigError(f"{name}: {describe_errors(error, settings)}") from None
    if not found:
        raise CheckpointError("nothing to add; name a modality")
    return found
