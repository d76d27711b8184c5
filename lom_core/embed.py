"""Embeddings: what a trained model makes of observations, read from its hidden states.

Every modality that is given is shown, nothing is hidden. Records are read in their order, one batch
at a time: memory does not grow with their number. What comes out are tables, mappings from a
column's name to an array with a row an observation (or a row a token).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lom_core.batch import Batch, Observation, pack_row
from lom_core.builtin.tokenisers import OneLabel, OneNumber
from lom_core.checkpoint import load_model
from lom_core.config import RunConfig
from lom_core.data import Reader, in_stream
from lom_core.device import autocast, pick_device
from lom_core.errors import BadRecord, ConfigError, DataError
from lom_core.model import Lom
from lom_core.named import open_named
from lom_core.pieces import join
from lom_core.rawtokens import RawTokens
from lom_core.roles import Array, Record
from lom_core.runfile import override
from lom_core.sources import is_label
from lom_core.tally import Tally
from lom_core.transformer import Attention

Pool = Literal["mean", "last", "modality", "attention"]
POOLS: tuple[Pool, ...] = ("mean", "last", "modality", "attention")
Table = dict[str, Array]
RESERVED = ("id", "modality", "token", "position")  # columns that are no label's
RANDOM, RAW = "random_init", "raw_tokens"
EXACT = 2**53  # whole numbers beyond it are names, such as Gaia's of its sources


def embed(
    model: Lom,
    reader: Reader,
    config: RunConfig,
    *,
    pool: Pool = "mean",
    tokens: bool = False,
    layer: int | None = None,
    given: Collection[str] | None = None,
    baselines: bool = False,
    tally: Tally | None = None,
) -> Iterator[Table]:
    """Embeddings of all records of ``reader.source``, in their order, batch by batch.

    Args:
        pool: how an observation's hidden states become one vector. ``mean`` over its tokens (of
            which something was observed), ``last`` slot (of a causal model the only one that saw
            everything), ``modality``: the mean over each modality's tokens, ``attention``: their
            mean, weighed by the attention that the layer's heads pay them (averaged over heads and
            over the slots that see the whole observation).
        tokens: a row a token instead.
        layer: after so many blocks, and the last norm; all of them if None.
        given: modalities that are shown; those that the objective leads with if None, or all.
        baselines: beside the model's, the embeddings of the same model with weights drawn anew
            (``random_init``), and the values themselves (``raw_tokens``, see ``RawTokens``).
        tally: counts what became of the records.

    Yields:
        Columns ``id`` (n,), labels (n,) as the records have them (and modalities of one token),
        ``embedding`` (n, d) float32, or ``embedding_M`` for each modality M, NaN where it was not
        observed. A row a token: also ``modality``, ``token`` (its number in its modality) and
        ``position`` (n, p), NaN where a modality has fewer coordinates.

    Errors:
        ConfigError: an unknown modality or pool, a layer that there is not.
        TooManyBadRecords: more than ``max_bad_fraction``.
    """
    names = _given(model, config, given)
    layer = _layer(model, layer)
    if pool not in POOLS:
        raise ConfigError(f"pool={pool!r}; possible: {', '.join(POOLS)}")
    if tokens and baselines:
        raise ConfigError("baselines are pooled: leave out tokens, or baselines")
    tally = Tally() if tally is None else tally
    features: list[_Features] = [_Hidden(model, layer, pool)]
    if baselines:
        features.append(_Hidden(reinitialised(model, config.train.seed), layer, pool, RANDOM))
        features.append(RawTokens(model, reader, names, config.data.fit_records))
    model.eval()
    for observations, labels in _batches(reader, config, names, tally):
        rows = [pack_row([o], o.n_slots, model.registry.names()) for o in observations]
        batch = config.objective.condition(rows, model.layouts, names).to(model.bos.device)
        table: Table = {"id": np.array([o.id for o in observations])}
        with torch.no_grad(), autocast(config.system, model.bos.device):
            if tokens:
                h = Hidden.of(model, batch, layer).h
                table = {**table, **columns(labels)}
                yield _by_token(table, h.float().cpu().numpy(), batch, model)
                continue
            vectors = {k: v for part in features for k, v in part(batch).items()}
        yield {**table, **columns(labels), **vectors}
    tally.check(config.data.max_bad_fraction)


def joined(tables: Iterable[Table]) -> Table:
    """One table of many; a label that some lack is NaN or "" there. DataError without any."""
    parts = list(tables)
    if not parts:
        raise DataError("no record gave an embedding")
    counts = [len(part["id"]) for part in parts]
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: join([part.get(name) for part in parts], counts) for name in names}


def embed_checkpoint(
    path: str | Path, data: str, overrides: Sequence[str] = (), **how: Any
) -> tuple[Iterator[Table], Tally, dict[str, Any]]:
    """The same from a checkpoint's path and a data set's name or file.

    Returns:
        The tables, what became of the records (once they are read), and where they come from.
    """
    model, config, state = load_model(path)
    config = override(config, overrides)
    model.to(pick_device(config.system))
    source = open_named(config, data)
    reader = Reader(source, config.registry, config.data.block_size, leads=config.objective.leads)
    tally = Tally()
    given = _given(model, config, how.get("given"))
    told = {
        "checkpoint": str(path),
        "weights": {k: v for k, v in state["files"].items() if k.startswith("model")},
        "step": state["step"],
        "data": data,
        "pool": "token" if how.get("tokens") else how.get("pool", "mean"),
        "layer": _layer(model, how.get("layer")),
        "given": given,
    }
    return embed(model, reader, config, tally=tally, **how), tally, told


def reinitialised(model: Lom, seed: int) -> Lom:
    """The same model with weights drawn anew; scales and frequencies, which are fitted, stay."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = Lom(model.registry, model.config)
    fitted = dict(model.named_buffers())
    for name, buffer in fresh.named_buffers():
        buffer.copy_(fitted[name])
    return fresh.to(model.bos.device).eval()


# ---------------------------------------------------------------------------- hidden states


@dataclass(frozen=True)
class Hidden:
    """What a model makes of a batch, at one layer.

    Args:
        h: (n, d) after the block and the last norm.
        before: (n, d) what the block read: its attention is computed from that.
        block: it.
    """

    h: Tensor
    before: Tensor
    block: Any

    @classmethod
    def of(cls, model: Lom, batch: Batch, layer: int) -> Hidden:
        block = model.body.blocks[layer - 1]
        seen: dict[str, Tensor] = {}

        def note(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen["before"], seen["after"] = inputs[0], output

        handle = block.register_forward_hook(note)
        try:
            model.hidden(batch)
        finally:
            handle.remove()
        return cls(model.body.norm(seen["after"]), seen["before"], block)

    def attention_paid(self, batch: Batch) -> Tensor:
        """(n,) float32: how much attention each slot gets from those that see all of its segment,
        mean over them and over heads; the last slot alone where attention is causal."""
        attention: Attention = self.block.attention
        places = torch.cat([torch.arange(int(n)) for n in batch.starts.diff()])
        q, k, _ = attention.project(
            self.block.attention_norm(self.before), places.to(self.before.device)
        )
        paid = torch.zeros(batch.n_slots, device=q.device)
        bounds = batch.starts.tolist()
        for start, stop, whole in zip(bounds, bounds[1:], batch.given.tolist(), strict=False):
            seers = slice(start, stop) if whole == stop - start else slice(stop - 1, stop)
            scores = torch.einsum("qhe,khe->hqk", q[seers].float(), k[start:stop].float())
            chances = (scores / q.shape[-1] ** 0.5).softmax(-1)
            paid[start:stop] = chances.mean(dim=(0, 1))
        return paid


@dataclass
class _Hidden:
    """Pools a model's hidden states: batch -> {column: (o, d)}."""

    model: Lom
    layer: int
    pool: Pool
    column: str = "embedding"

    def __call__(self, batch: Batch) -> dict[str, Array]:
        state = Hidden.of(self.model, batch, self.layer)
        h = state.h.float()
        if self.pool == "last":
            return {self.column: h[batch.starts[1:].long() - 1].cpu().numpy()}
        if self.pool == "modality":
            spans = {f"{self.column}_{name}": [name] for name in batch.spans}
            return {k: _mean(h, batch, _counted(batch, names)) for k, names in spans.items()}
        weights = _counted(batch, list(batch.spans))
        if self.pool == "attention":
            weights = weights * state.attention_paid(batch)
        return {self.column: _mean(h, batch, weights)}


_Features = _Hidden | RawTokens


def _counted(batch: Batch, names: Sequence[str]) -> Tensor:
    """(n,) float32: 1 in the slots of these modalities' tokens that were observed."""
    counted = torch.zeros(batch.n_slots, device=batch.bos.device)
    for name in names:
        span = batch.spans[name]
        counted[span.slots] = (span.weights > 0).any(dim=1).float()
    return counted


def _mean(h: Tensor, batch: Batch, weights: Tensor) -> Array:
    """(o, d): the weighed mean of each observation's slots; NaN where nothing weighs."""
    lengths = batch.starts.diff().long().to(h.device)
    owner = torch.repeat_interleave(lengths)  # (n,)
    total = h.new_zeros(len(lengths)).index_add(0, owner, weights)
    summed = h.new_zeros(len(lengths), h.shape[1]).index_add(0, owner, h * weights[:, None])
    mean: Array = (summed / total[:, None]).cpu().numpy()
    return mean


def _by_token(table: Table, h: Array, batch: Batch, model: Lom) -> Table:
    """A row a token, in the order of their slots; the columns of ``table`` are repeated."""
    starts, n_tokens = batch.starts.numpy(), batch.starts.diff().numpy() - 1
    owner = np.repeat(np.arange(len(n_tokens)), n_tokens)
    slots = np.concatenate([np.arange(a + 1, b) for a, b in pairwise(starts)])
    modality = np.empty(batch.n_slots, dtype=f"U{max(map(len, batch.spans))}")
    number = np.zeros(batch.n_slots, np.int64)
    width = max(layout.pos_width for layout in model.layouts.values())
    position = np.full((batch.n_slots, width), np.nan, np.float32)
    for name, span in batch.spans.items():
        at = span.slots.cpu().numpy()
        modality[at] = name
        position[at, : span.positions.shape[1]] = span.positions.cpu().numpy()
        segment = np.searchsorted(starts, at, side="right")
        number[at] = np.arange(len(at)) - np.searchsorted(segment, segment)
    told = {"modality": modality, "token": number, "position": position, "embedding": h}
    repeated = {name: column[owner] for name, column in table.items()}
    return {**repeated, **{name: column[slots] for name, column in told.items()}}


# ---------------------------------------------------------------------------- records and labels


@dataclass
class _Waiting:
    """Observations that will be a batch."""

    observations: list[Observation] = field(default_factory=list)
    labels: list[dict[str, Any]] = field(default_factory=list)
    slots: int = 0


def _batches(
    reader: Reader, config: RunConfig, given: Sequence[str], tally: Tally
) -> Iterator[tuple[list[Observation], list[dict[str, Any]]]]:
    """Records in their order, in batches of up to ``batch_size`` x ``block_size`` slots."""
    room = config.data.batch_size * config.data.block_size
    waiting = _Waiting()
    for index in count():
        if not in_stream(reader.source, index):
            break
        tally.seen += 1
        try:
            record = reader.source[index]
            labels = labels_of(record, reader)
            hidden = [n for n in reader.registry.names() if n not in given]
            shown = {k: v for k, v in record.items() if k not in hidden}
            observation = reader.observe(shown, index, None)
        except BadRecord as error:
            tally.note(error)
            continue
        tally.cropped += observation.cropped
        if waiting.slots + observation.n_slots > room and waiting.observations:
            tally.check(config.data.max_bad_fraction)
            yield waiting.observations, waiting.labels
            waiting = _Waiting()
        waiting.observations.append(observation)
        waiting.labels.append(labels)
        waiting.slots += observation.n_slots
    if waiting.observations:
        yield waiting.observations, waiting.labels


def labels_of(record: Record, reader: Reader) -> dict[str, Any]:
    """Text and numbers beside the modalities, and modalities that are one label or number."""
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name in reader.registry:
            tokeniser = reader.registry.get_config(name).tokeniser
            if value is None or not isinstance(tokeniser, OneLabel | OneNumber):
                continue
            encoder = reader.encoders[name]
            found[name] = encoder.decode(encoder.encode(value))
        elif name not in ("id", "idx") and is_label(value):
            value = value if isinstance(value, str | bool | int | float) else value.item()
            # A float, which a column with gaps becomes, would tell such a number wrong.
            found[name] = str(value) if isinstance(value, int) and abs(value) > EXACT else value
    taken = [n for n in found if n in RESERVED or n.startswith(("embedding", RANDOM, RAW))]
    if taken:
        raise DataError(f"a label cannot be named '{taken[0]}': embeddings have such a column")
    return found


def columns(labels: Sequence[Mapping[str, Any]]) -> Table:
    """Labels by column (n,): numbers, truth values or text; NaN or "" where a record has none."""
    names = dict.fromkeys(name for one in labels for name in one)
    return {name: _column([one.get(name) for one in labels]) for name in names}


def _column(values: Sequence[Any]) -> Array:
    known = [v for v in values if v is not None]
    if any(isinstance(v, str) for v in known):
        return np.array(["" if v is None else str(v) for v in values])
    if len(known) == len(values):
        return np.array(values)
    return np.array([np.nan if v is None else float(v) for v in values])


def _given(model: Lom, config: RunConfig, given: Collection[str] | None) -> list[str]:
    """The modalities that are shown, in the run's order."""
    if given is None:
        given = config.objective.leads or model.registry.names()
    for name in given:
        model.registry.get_config(name)
    if not given:
        raise ConfigError(f"no modality is given; this run has {', '.join(model.registry.names())}")
    return [name for name in model.registry.names() if name in given]


def _layer(model: Lom, layer: int | None) -> int:
    n_layer = len(model.body.blocks)
    if layer is not None and not 1 <= layer <= n_layer:
        raise ConfigError(f"layer={layer}; this model has layers 1 to {n_layer}")
    return n_layer if layer is None else layer
