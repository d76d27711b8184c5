"""Observations without a model, as vectors of one length: what embeddings are compared with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lom_core.batch import Batch
from lom_core.data import Reader
from lom_core.loader import sample_tokens
from lom_core.model import Lom
from lom_core.roles import Array

CELLS = 64  # of a modality's positions, over all coordinates


class RawTokens:
    """Each modality's values, averaged in cells of position; of discrete ones, how often
    each token occurs.

    Values are in model units (the fitted scale's); a cell in which nothing was observed holds 0,
    the training mean. Cells end at quantiles of the positions in a sample of the records, so that
    they hold about as many tokens each: with at most 64 different positions (the patches of an
    image) each has a cell of its own. Batch -> {"raw_tokens": (o, sum over modalities)}.

    Args:
        model: its scales are used, nothing else.
        reader: of the records.
        names: the modalities that are shown.
        n_records: the sample's size.
    """

    def __init__(self, model: Lom, reader: Reader, names: Sequence[str], n_records: int) -> None:
        self.model, self.names = model, names
        samples = sample_tokens(reader, n_records, seed=0)
        self.edges: dict[str, list[Array]] = {
            name: _edges(np.concatenate([t.positions for t in samples[name]]))
            for name in names
            if samples[name] and not model.part(name).discrete
        }

    def __call__(self, batch: Batch) -> dict[str, Array]:
        parts = [
            self._counts(batch, name)
            if self.model.part(name).discrete
            else self._cells(batch, name)
            for name in self.names
            if self.model.part(name).discrete or name in self.edges
        ]
        return {"raw_tokens": np.concatenate(parts, axis=1).astype(np.float32)}

    def _owner(self, batch: Batch, name: str) -> Array:
        slots = batch.spans[name].slots.cpu().numpy()
        return np.asarray(np.searchsorted(batch.starts.numpy(), slots, side="right") - 1)

    def _counts(self, batch: Batch, name: str) -> Array:
        """(o, vocab): each token's share of the observation's."""
        span = batch.spans[name]
        vocab = self.model.registry.get_config(name).vocab_size
        counts = np.zeros((len(batch.bos), vocab))
        seen = span.weights[:, 0].cpu().numpy() > 0
        np.add.at(counts, (self._owner(batch, name), span.content.cpu().numpy()), seen)
        return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))

    def _cells(self, batch: Batch, name: str) -> Array:
        """(o, cells x w): weighed means of the values in each cell."""
        span, edges = batch.spans[name], self.edges[name]
        positions = span.positions.cpu().numpy()
        cell = np.zeros(len(positions), np.int64)
        for axis, along in enumerate(edges):
            inside = np.searchsorted(along, positions[:, axis], side="right")
            cell = cell * (len(along) + 1) + inside
        n_cells = int(np.prod([len(along) + 1 for along in edges]))
        with torch.no_grad():
            scaled = self.model.part(name).scale(span.content, span.positions).float().cpu().numpy()
        weights = np.broadcast_to(span.weights.cpu().numpy(), scaled.shape)
        size = (len(batch.bos), n_cells, scaled.shape[1])
        total, summed = np.zeros(size), np.zeros(size)
        at = (self._owner(batch, name), cell)
        np.add.at(total, at, weights)
        np.add.at(summed, at, np.where(weights > 0, scaled * weights, 0))
        means = np.divide(summed, total, out=np.zeros(size), where=total > 0)
        return means.reshape(len(batch.bos), -1)


def _edges(positions: Array) -> list[Array]:
    """Inner borders of the cells along each coordinate of positions (n, p)."""
    per_axis = max(2, round(CELLS ** (1 / positions.shape[1])))
    found = []
    for along in positions.T:
        values = np.unique(along)
        if len(values) > per_axis:  # each cell begins at a quantile
            values = np.unique(np.quantile(along, np.arange(per_axis) / per_axis))
        found.append(values[1:])
    return found
