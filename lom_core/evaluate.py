"""Evaluation: each held-out record once, with what trivial predictors would have scored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lom_core.batch import Batch, Span, pack_row
from lom_core.config import RunConfig
from lom_core.data import Reader, Tally, in_stream
from lom_core.device import autocast, pick_device
from lom_core.distributed import World
from lom_core.errors import BadRecord
from lom_core.heads import CategoricalHead
from lom_core.loader import eval_batches, open_sources, share_of
from lom_core.model import Lom, Parts
from lom_core.roles import Array, Source, Tokens

Metrics = dict[str, float]
OWN = ("loss", "rmse", "mae", "r2", "accuracy")  # the model's; all else is a trivial predictor's


@torch.no_grad()
def evaluate(
    model: Lom,
    reader: Reader,
    config: RunConfig,
    limit: int = 0,
    baselines: bool = True,
    world: World = World(),  # noqa: B008  frozen
) -> tuple[Metrics, Tally]:
    """How well a data set is predicted; every rank takes its share of the records.

    Args:
        limit: batches at most, over all ranks; 0 takes every record.
        baselines: also score the training mean and "same as the previous token".

    Returns:
        ``loss`` (weighed over modalities), and for each modality m that the set holds ``loss/m``,
        the mean loss in model units; in physical units ``rmse/m``, ``mae/m`` and ``r2/m``, each
        value counting by its weight, or ``accuracy/m`` when discrete; and the losses of trivial
        predictors: ``training_mean/m`` (or what its scale calls the mean), ``unigram/m`` when
        discrete, ``previous_token/m``, and those that the modality knows. And what became of the
        records.
    """
    was_training = model.training
    model.eval()
    device = model.device
    sums: dict[str, float] = defaultdict(float)
    counts: dict[str, float] = defaultdict(float)
    errors: dict[str, Array] = defaultdict(lambda: np.zeros(5))
    tally = Tally()
    reader = reader.over(share_of(reader.source, world.rank, world.size))
    for rows, seen in eval_batches(reader, config.data, -(-limit // world.size)):
        tally.add(seen)
        prepared = config.objective.prepare(rows, model.layouts)
        batch = prepared.to(device)
        with autocast(config.system, device):
            found = model.assess(batch)
        for name, (loss, answers) in found.items():
            sums[f"loss/{name}"] += float(loss)
            counts[name] += prepared.counts[name]
            errors[name] += error_sums(answers, batch.spans[name])
            for baseline, value in (
                trivial_losses(model, batch, name) if baselines else {}
            ).items():
                sums[f"{baseline}/{name}"] += value
    model.train(was_training)
    sums, counts = world.sums(sums), world.sums(counts)
    tally = Tally.of(world.gather(tally))
    metrics = {k: v / counts[k.split("/")[1]] for k, v in sums.items() if counts[k.split("/")[1]]}
    every = world.gather(dict(errors))
    for name in counts:
        total = sum(part[name] for part in every if name in part)
        metrics |= {f"{k}/{name}": v for k, v in error_metrics(total, model.part(name)).items()}
    metrics["loss"] = sum(
        c.loss_weight * metrics[f"loss/{c.name}"]
        for c in model.registry
        if f"loss/{c.name}" in metrics
    )
    tally.check(config.data.max_bad_fraction)
    return metrics, tally


def error_sums(answers: Tensor, span: Span) -> Array:
    """(5,) float64: the weights, and the weighed sums of y, y^2, |error| and error^2 of answers
    (a, w) in physical units; for tokens (a,) an error is 1."""
    truth, weights = span.content[span.asked], span.weights[span.asked]
    if truth.ndim == 1:
        truth, answers = (truth != answers)[:, None], torch.zeros_like(answers)[:, None]
    y, w = truth.double(), weights.expand_as(truth).double()
    error = torch.where(w > 0, answers.double() - y, 0)
    found = (w, w * y, w * y**2, w * error.abs(), w * error**2)
    return torch.stack([part.sum() for part in found]).cpu().numpy()


def error_metrics(sums: Array, part: Parts) -> Metrics:
    """RMSE, MAE and R2 (or accuracy) out of :func:`error_sums`; nothing of nothing."""
    weight, y, yy, absolute, squared = map(float, sums)
    if not weight:
        return {}
    if part.discrete:
        return {"accuracy": 1 - absolute / weight}
    found = {"rmse": (squared / weight) ** 0.5, "mae": absolute / weight}
    variance = yy - y**2 / weight
    return {**found, "r2": 1 - squared / variance} if variance > 1e-12 * yy else found


def trivial_losses(model: Lom, batch: Batch, name: str) -> Metrics:
    """Summed losses of predictors that anybody could write, scored by the modality's own head."""
    part, span = model.part(name), batch.spans[name]
    if not len(span.asked):
        return {}
    every = torch.arange(len(span.slots), device=span.slots.device)
    truth, weights = part.target(replace(span, asked=every))
    previous, first = previous_token(truth, span, batch.bos)
    asked, asked_weights = truth[span.asked], weights[span.asked]
    losses = {}
    if isinstance(part.head, CategoricalHead):
        mean = part.head.log_frequency.argmax().expand_as(truth)
        losses["unigram"] = part.head.score_frequency(asked)
        guesses = {}
    else:
        mean = part.scale.mean.expand_as(truth)
        guesses = {part.scale.mean_name: mean}
        first = first[:, None]
    guesses["previous_token"] = torch.where(first, mean, previous)
    for baseline, content in _field_guesses(model, batch, name).items():
        known = content >= 0 if part.discrete else content.isfinite()
        scaled = content if part.discrete else part.scale(content, span.positions)
        guesses[baseline] = torch.where(known, scaled, mean)
    for baseline, point in guesses.items():
        losses[baseline] = part.head.score_point(point[span.asked], asked, asked_weights)
    return {k: float((loss * asked_weights.expand_as(loss)).sum()) for k, loss in losses.items()}


def _field_guesses(model: Lom, batch: Batch, name: str) -> dict[str, Tensor]:
    """What the modality's own predictors guess, (n, w) or (n,), on the batch's device."""
    span, config = batch.spans[name], model.registry.get_config(name)
    content, positions, weights, slots = (
        t.cpu().numpy() for t in (span.content, span.positions, span.weights, span.slots)
    )
    owner = np.searchsorted(batch.bos.cpu().numpy(), slots, side="right")
    borders = np.flatnonzero(np.diff(owner)) + 1
    found: dict[str, list[Array]] = defaultdict(list)
    for part in np.split(np.arange(len(slots)), borders):
        for baseline, guess in config.predictors(
            Tokens(content[part], positions[part], weights[part])
        ).items():
            found[baseline].append(guess)
    return {k: torch.from_numpy(np.concatenate(v)).to(span.slots.device) for k, v in found.items()}


def trivial_names(metrics: Mapping[str, float]) -> list[str]:
    """The trivial predictors in ``evaluate``'s metrics, in the order of first appearance."""
    first = dict.fromkeys(k.partition("/")[0] for k in metrics if "/" in k)
    return [name for name in first if name not in OWN]


def previous_token(truth: Tensor, span: Span, bos: Tensor) -> tuple[Tensor, Tensor]:
    """The latest shown token before each one in its observation and modality; where none is (n,).

    A hidden one is nobody's guess.
    """
    every = torch.arange(len(span.slots), device=span.slots.device)
    owner = torch.searchsorted(bos, span.slots, right=True)
    shown = torch.full_like(every, -1)
    shown[span.shown] = span.shown
    latest = torch.cat([shown.new_full((1,), -1), shown[:-1]]).cummax(0).values
    first = (latest < 0) | (owner[latest.clamp(min=0)] != owner)
    return truth[latest.clamp(min=0)], first


def validation_readers(config: RunConfig) -> tuple[Source, dict[str, Reader]]:
    """The training source, and a reader of each named validation set."""
    train, named = open_sources(config.data, config.registry, config.train.seed)
    block_size, leads = config.data.block_size, config.objective.leads
    return train, {
        name: Reader(s, config.registry, block_size, leads=leads) for name, s in named.items()
    }


def evaluate_checkpoint(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Metrics]:
    """Evaluate a checkpoint on its run's validation sets; ``name=value`` changes the config."""
    from lom_core.checkpoint import load_model
    from lom_core.runfile import override

    model, config, _ = load_model(path)
    config = override(config, overrides)
    model.to(pick_device(config.system))
    _, readers = validation_readers(config)
    limit = config.train.eval_iters
    return {name: evaluate(model, reader, config, limit)[0] for name, reader in readers.items()}


@dataclass(frozen=True)
class Example:
    """One held-out observation of one modality beside its prediction, decoded: physical units."""

    modality: str
    id: str
    truth: Any
    predicted: Any


@torch.no_grad()
def examples(model: Lom, reader: Reader, config: RunConfig, n: int) -> Iterator[Example]:
    """Up to n objects of each modality. A record that cannot be used is passed over: evaluating
    the set has counted and reported it."""
    missing = dict.fromkeys(model.registry.names(), n)
    for index in count():
        if not any(missing.values()) or not in_stream(reader.source, index):
            return
        try:
            observation = reader.read(index, None)
        except BadRecord:
            continue
        wanted = [name for name in observation.tokens if missing[name]]
        if not wanted:
            continue
        row = pack_row([observation], observation.n_slots, model.registry.names())
        batch = config.objective.prepare([row], model.layouts)
        with autocast(config.system, model.device):
            answers = model.predict(batch.to(model.device))
        for name in wanted:
            missing[name] -= 1
            tokens = observation.tokens[name]
            encoder = reader.encoders[name]
            predicted = _answered(tokens, batch.spans[name], answers[name])
            yield Example(name, observation.id, encoder.decode(tokens), encoder.decode(predicted))


def _answered(tokens: Tokens, span: Span, answers: Tensor) -> Tokens:
    """The tokens with the asked ones replaced by the answers."""
    discrete = tokens.content.ndim == 1
    content = tokens.content.astype(np.int64 if discrete else np.float32)
    content[span.asked.numpy()] = answers.cpu().numpy()
    return Tokens(content, tokens.positions, tokens.weights)
