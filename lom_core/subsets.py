"""Which modality tells what: each modality predicted from every subset of the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations, count
from pathlib import Path
from typing import Any

import torch

from lom_core.batch import Observation, pack_row
from lom_core.checkpoint import load_model
from lom_core.config import RunConfig
from lom_core.data import Reader, in_stream
from lom_core.device import autocast, pick_device
from lom_core.errors import BadRecord, DataError
from lom_core.heads import CategoricalHead
from lom_core.model import Lom
from lom_core.named import open_named
from lom_core.runfile import override
from lom_core.tally import Tally

Subset = tuple[str, ...]


@dataclass
class Cell:
    """A target predicted from a subset, on the records that hold both.

    Args:
        given: modalities that are shown before the target's own tokens.
        loss: of the target, in model units.
        alone: of the target, given nothing, on the same records.
        right: of the point answers: the share that is right if discrete, else the share of the
            variance explained, 1 - squared error / that of the training mean.
    """

    given: Subset
    target: str
    loss: float = 0.0
    alone: float = 0.0
    right: float = 0.0
    records: int = 0

    @property
    def gain(self) -> float:
        """By how much the loss is lower for the given ones."""
        return self.alone - self.loss


@dataclass
class _Sums:
    loss: float = 0.0
    weight: float = 0.0
    alone: float = 0.0
    good: float = 0.0
    possible: float = 0.0
    records: int = 0


def evaluate_subsets(
    model: Lom,
    reader: Reader,
    config: RunConfig,
    *,
    largest: int | None = None,
    targets: Collection[str] | None = None,
    tally: Tally | None = None,
) -> list[Cell]:
    """The matrix: a cell for each target and each subset of the other modalities that some record
    holds together with it, the empty one included.

    A causal model sees the target's own earlier tokens, too: a cell says what the given ones add to
    them. Records are read once and in batches; each is asked about every subset that it holds.

    Args:
        largest: subsets of at most so many; all if None (2^(M-1) a target).

    Errors:
        DataError: no record can be used.
    """
    for name in targets or ():
        model.registry.get_config(name)
    sums: dict[tuple[Subset, str], _Sums] = {}
    tally = Tally() if tally is None else tally
    model.eval()
    for batch in _batches(reader, config, tally):
        jobs: dict[tuple[Subset, str], list[Observation]] = {}
        for observation in batch:
            for key in _questions(observation, largest, targets):
                jobs.setdefault(key, []).append(observation)
        for (given, target), observations in jobs.items():
            told = _score(model, config, observations, given, target)
            found = sums.setdefault((given, target), _Sums())
            found.loss, found.weight = found.loss + told.loss, found.weight + told.weight
            found.good, found.possible = found.good + told.good, found.possible + told.possible
            found.records += len(observations)
            if given:
                found.alone += _score(model, config, observations, (), target).loss
            else:
                found.alone += told.loss
    tally.check(config.data.max_bad_fraction)
    if not sums:
        raise DataError(f"none of {tally.seen} records can be used")
    order = {name: i for i, name in enumerate(model.registry.names())}
    keys = sorted(sums, key=lambda k: (len(k[0]), [order[n] for n in k[0]], order[k[1]]))
    return [_cell(key, sums[key], model.part(key[1]).discrete) for key in keys]


def subsets_of_checkpoint(
    path: str | Path, data: str, overrides: Sequence[str] = (), **how: Any
) -> tuple[list[Cell], Tally]:
    """The same from a checkpoint's path and a data set's name or file."""
    model, config, _ = load_model(path)
    config = override(config, overrides)
    model.to(pick_device(config.system))
    source, tally = open_named(config, data), Tally()
    reader = Reader(source, config.registry, config.data.block_size)
    return evaluate_subsets(model, reader, config, tally=tally, **how), tally


def as_json(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    return [{**asdict(cell), "gain": cell.gain} for cell in cells]


def _questions(
    observation: Observation, largest: int | None, targets: Collection[str] | None
) -> Iterator[tuple[Subset, str]]:
    names = list(observation.tokens)
    for target in names:
        if targets and target not in targets:
            continue
        others = [name for name in names if name != target]
        for n in range(1 + (len(others) if largest is None else min(largest, len(others)))):
            for given in combinations(others, n):
                yield given, target


def _batches(reader: Reader, config: RunConfig, tally: Tally) -> Iterator[list[Observation]]:
    waiting: list[Observation] = []
    room = config.data.batch_size * config.data.block_size
    for index in count():
        if not in_stream(reader.source, index):
            break
        tally.seen += 1
        try:
            observation = reader.read(index, None)
        except BadRecord as error:
            tally.note(error)
            continue
        tally.cropped += observation.cropped
        if waiting and sum(o.n_slots for o in waiting) + observation.n_slots > room:
            yield waiting
            waiting = []
        waiting.append(observation)
    if waiting:
        yield waiting


@torch.no_grad()
def _score(
    model: Lom,
    config: RunConfig,
    observations: Sequence[Observation],
    given: Subset,
    target: str,
) -> _Sums:
    """Summed losses and what they weigh; the given modalities stand before the target."""
    names = model.registry.names()
    rows = []
    for observation in observations:
        tokens = {name: observation.tokens[name] for name in (*given, target)}
        kept = replace(observation, tokens=tokens)
        rows.append(pack_row([kept], kept.n_slots, names))
    prepared = config.objective.condition(rows, model.layouts, given)
    batch = prepared.to(model.bos.device)
    part, span = model.part(target), batch.spans[target]
    with autocast(config.system, model.bos.device):
        h = model.hidden(batch)[span.ask_slots]
        loss = part.losses(h, span).sum()
        point = part.head.point(h)
    truth, weights = part.target(span)
    if isinstance(part.head, CategoricalHead):
        good = ((point == truth).float() * weights[:, 0]).sum()
        possible = weights[:, 0].sum()
    else:
        weights = weights.expand_as(truth)
        good = (weights * (truth - point) ** 2).sum()
        possible = (weights * (truth - part.scale.mean) ** 2).sum()
    return _Sums(float(loss), prepared.counts[target], 0.0, float(good), float(possible))


def _cell(key: tuple[Subset, str], sums: _Sums, discrete: bool) -> Cell:
    weight, possible = max(sums.weight, 1e-30), max(sums.possible, 1e-30)
    right = sums.good / possible
    return Cell(
        given=key[0],
        target=key[1],
        loss=sums.loss / weight,
        alone=sums.alone / weight,
        right=right if discrete else 1 - right,
        records=sums.records,
    )
