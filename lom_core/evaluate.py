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

from lom_core.batch import Batch, Row, Span, owners, pack_row
from lom_core.config import DataConfig, RunConfig
from lom_core.data import Reader, in_stream
from lom_core.device import autocast, pick_device
from lom_core.distributed import World
from lom_core.errors import BadRecord, PluginError
from lom_core.heads import CategoricalHead
from lom_core.loader import eval_batches, open_sources, share_of
from lom_core.model import Lom, Parts
from lom_core.ratios import SE, Ratio, RecordSums, is_error
from lom_core.roles import Array, Source, Tokens
from lom_core.tally import Tally

Metrics = dict[str, float]
# The model's, in the order of tables; all else is a trivial predictor's, and stands after loss.
OWN = ("records", "loss", "gain", "rmse", "mae", "r2", "accuracy")
HIGHER = ("gain", "r2", "accuracy")  # the better
# What an answer is scored; beside it, the losses of the trivial predictors.
SCORES = ("loss", "weight", "y", "yy", "absolute", "squared")


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
        value counting by its weight, or ``accuracy/m`` when discrete; the losses of trivial
        predictors: ``training_mean/m`` (or what its scale calls the mean), ``unigram/m`` when
        discrete, ``previous_token/m``, and those that the modality knows; ``gain/m``, by how much
        the model's loss is below that of the best of them; and ``records/m``, how many there were.
        ``loss_se/m`` ... are their standard errors over records (lom_core/ratios.py), paired for
        the gain; one record has none. And what became of the records.
    """
    was_training, device = model.training, model.device
    model.eval()
    sums: dict[str, RecordSums] = {}
    tally = Tally()
    reader = reader.over(share_of(reader.source, world.rank, world.size))
    batches = eval_batches(reader, config.data, -(-limit // world.size))
    for rows, seen in _together(batches, reader, config.data, world):
        tally.add(seen)
        batch = config.objective.prepare(rows, model.layouts).to(device)
        with autocast(config.system, device):
            found = model.assess(batch)
        for name, (losses, answers) in found.items():
            span = batch.spans[name]
            if not len(span.asked):
                continue
            scores = {"loss": losses, **error_scores(answers, span)}
            if baselines:
                scores |= trivial_losses(model, batch, name)
            _add(sums, name, record_sums(scores, span, batch.bos))
    model.train(was_training)
    tally = Tally.of(world.gather(tally))
    total: dict[str, RecordSums] = {}
    for part in world.gather(sums):
        for name, value in part.items():
            _add(total, name, value)
    tally.check(config.data.max_bad_fraction)
    return _metrics(total, model), tally


def _together(
    batches: Iterator[tuple[list[Row], Tally]], reader: Reader, config: DataConfig, world: World
) -> Iterator[tuple[list[Row], Tally]]:
    """As many batches on every rank, empty ones where its own are over: where each holds a part
    of the weights, all of them run the model together or wait for ever."""
    none = [pack_row([], config.block_size, reader.registry.names())]
    while True:
        own = next(batches, None)
        if not any(world.total([float(own is not None)])):
            return
        yield own or (none, Tally())


def _add(sums: dict[str, RecordSums], name: str, found: RecordSums) -> None:
    if name in sums:
        _same_predictors(name, sums[name].names, found.names)
        found = sums[name] + found
    sums[name] = found


def _same_predictors(name: str, one: Sequence[str], two: Sequence[str]) -> None:
    """PluginError where a modality's predictors come and go with its observations."""
    if list(one) != list(two):
        told = ", ".join(sorted(set(one) ^ set(two))) or "their order"
        raise PluginError(
            f"predictors() of modality '{name}' must give the same names for every observation, "
            f"with NaN (-1 when discrete) where there is no guess; what differs: {told}"
        )


def _metrics(sums: Mapping[str, RecordSums], model: Lom) -> Metrics:
    metrics: Metrics = {}
    for config in model.registry:
        name = config.name
        if name not in sums or not sums[name].n:
            continue
        metrics[f"records/{name}"] = sums[name].n
        for key, (value, se) in set_metrics(sums[name], model.part(name)).items():
            metrics[f"{key}/{name}"] = value
            if se is not None:
                metrics[f"{key}{SE}/{name}"] = se
    weights = {f"loss/{config.name}": config.loss_weight for config in model.registry}
    return metrics | {"loss": sum(w * metrics.get(key, 0.0) for key, w in weights.items())}


def error_scores(answers: Tensor, span: Span) -> dict[str, Tensor]:
    """What answers (a, w) in physical units weigh, and y, y^2, |error| and error^2 times that,
    (a, w) float64 each; for tokens (a,) an error is 1."""
    truth, weights = span.content[span.asked], span.weights[span.asked]
    if truth.ndim == 1:
        truth, answers = (truth != answers)[:, None], torch.zeros_like(answers)[:, None]
    w = weights.expand_as(truth).double()
    # `where`, not a product: what is not observed may be anything.
    y, answers = (torch.where(w > 0, x.double(), 0) for x in (truth, answers))
    absolute, squared = w * (answers - y).abs(), w * (answers - y) ** 2
    return {"weight": w, "y": w * y, "yy": w * y**2, "absolute": absolute, "squared": squared}


def record_sums(scores: Mapping[str, Tensor], span: Span, bos: Tensor) -> RecordSums:
    """The scores (a, w) of answers, added up over each observation that has any of weight."""
    of_answers = torch.stack([score.double().sum(-1) for score in scores.values()], -1).cpu()
    owner = owners(span.slots[span.asked], bos).cpu()
    # Not on the device: the order in which one adds up there may vary.
    empty = torch.zeros(len(bos), len(scores), dtype=torch.float64)
    numbers = empty.index_add(0, owner, of_answers).numpy()
    weight = numbers[:, list(scores).index("weight")]
    return RecordSums.of(tuple(scores), numbers[weight > 0])


def set_metrics(sums: RecordSums, part: Parts) -> dict[str, Ratio]:
    """The losses, RMSE, MAE and R2 (or accuracy), and the gain on the best trivial predictor."""

    def mean(name: str) -> Ratio:
        return sums.ratio({name: 1}, {"weight": 1})

    found = {"loss": mean("loss")}
    if part.discrete:
        found["accuracy"] = mean("absolute").rest()
    else:
        found |= {"rmse": mean("squared").sqrt(), "mae": mean("absolute")}
        m = sums["y"] / sums["weight"]
        around_mean = {"yy": 1, "y": -2 * m, "weight": m**2}  # the sum of (y - m)^2
        if sums["yy"] - m * sums["y"] > 1e-12 * sums["yy"]:
            found["r2"] = sums.ratio({"squared": 1}, around_mean).rest()
    trivial = [name for name in sums.names if name not in SCORES]
    found |= {name: mean(name) for name in trivial}
    if trivial:
        best = min(trivial, key=lambda name: found[name].value)
        found["gain"] = sums.ratio({best: 1, "loss": -1}, {"weight": 1})
    return found


def trivial_losses(model: Lom, batch: Batch, name: str) -> dict[str, Tensor]:
    """(a, w) each: the weighed losses of predictors that anybody could write, scored by the
    modality's own head."""
    part, span = model.part(name), batch.spans[name]
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
    return {k: loss * asked_weights.expand_as(loss) for k, loss in losses.items()}


def _field_guesses(model: Lom, batch: Batch, name: str) -> dict[str, Tensor]:
    """What the modality's own predictors guess, (n, w) or (n,), on the batch's device."""
    span, config = batch.spans[name], model.registry.get_config(name)
    content, positions, weights, owner = (
        t.cpu().numpy()
        for t in (span.content, span.positions, span.weights, owners(span.slots, batch.bos))
    )
    borders = np.flatnonzero(np.diff(owner)) + 1
    found: dict[str, list[Array]] = defaultdict(list)
    for part in np.split(np.arange(len(owner)), borders):
        guesses = config.predictors(Tokens(content[part], positions[part], weights[part]))
        if part[0]:
            _same_predictors(name, list(found), list(guesses))
        for baseline, guess in guesses.items():
            if guess.shape != content[part].shape:
                raise PluginError(
                    f"predictors() of modality '{name}': '{baseline}' is {guess.shape}, the "
                    f"tokens' content {content[part].shape}"
                )
            found[baseline].append(guess)
    return {k: torch.from_numpy(np.concatenate(v)).to(span.slots.device) for k, v in found.items()}


def trivial_names(metrics: Mapping[str, float]) -> list[str]:
    """The trivial predictors in ``evaluate``'s metrics, in the order of first appearance."""
    first = dict.fromkeys(k.partition("/")[0] for k in metrics if "/" in k)
    return [name for name in first if name not in OWN and not is_error(name)]


def measures(metrics: Mapping[str, float]) -> list[str]:
    """What ``evaluate``'s metrics tell of single modalities, in the order of tables."""
    split = OWN.index("loss") + 1
    every = (*OWN[:split], *trivial_names(metrics), *OWN[split:])
    return [name for name in every if any(key.startswith(f"{name}/") for key in metrics)]


def previous_token(truth: Tensor, span: Span, bos: Tensor) -> tuple[Tensor, Tensor]:
    """The latest shown token before each one in its observation and modality; where none is (n,).

    A hidden one is nobody's guess.
    """
    every = torch.arange(len(span.slots), device=span.slots.device)
    owner = owners(span.slots, bos)
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
