"""Calibration: does what a model holds possible happen as often as it says? And a correction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lom_core import conformal
from lom_core.api import LargeObservationModel
from lom_core.batch import owners
from lom_core.conformal import Calibration, Correction, weights_of
from lom_core.errors import DataError
from lom_core.heads import CategoricalHead
from lom_core.loader import Part, eval_batches
from lom_core.model import Parts
from lom_core.roles import Array, Source
from lom_core.seeds import mix
from lom_core.tally import Tally

SHOWN = (0.5, 0.9, 0.95)  # levels of the table
CHUNK = 2048  # tokens whose quantiles are computed at once


@dataclass
class Scores:
    """How held-out values of one modality stand in what was predicted for them.

    Args:
        levels: of central intervals, those that the head can tell.
        outside: (k, n) of each observed value in half-widths of each interval; <= 1 is inside.
        pit: (n,) probability predicted of a lower value (probability integral transform); none for
            a point's head. Even between 0 and 1 if all is well.
        crps: (n,) continuous ranked probability score in model units; a point's absolute error.
        record: (n,) the number of the record that each value is of.
    """

    levels: tuple[float, ...]
    outside: Array
    pit: Array
    crps: Array
    record: Array
    point: bool

    def coverage(self, level: float, correction: Correction | None = None) -> float | None:
        """The share of a record's values inside an interval, on average over the records.

        None where there is no such interval.
        """
        if level not in self.levels or (self.point and correction is None):
            return None
        limit = 1.0 if correction is None else correction.at(level)
        inside = self.outside[self.levels.index(level)] <= limit
        _, which, sizes = np.unique(self.record, return_inverse=True, return_counts=True)
        return float((np.bincount(which, inside) / sizes).mean())


@dataclass
class Tokenwise:
    """The same of a discrete modality.

    Args:
        confidence, right: (n,) the probability of the likeliest token, and whether it came.
        nats: (n,) -ln of the probability of the token that came.
    """

    confidence: Array
    right: Array
    nats: Array

    def error(self, bins: int = 10) -> float:
        """Expected calibration error (Guo et al. 2017): |confidence - accuracy| over bins."""
        which = np.minimum((self.confidence * bins).astype(int), bins - 1)
        gaps = np.bincount(which, self.confidence - self.right, bins)
        return float(np.abs(gaps).sum() / len(which))


@dataclass
class Result:
    """What ``lom calibrate`` found.

    Args:
        fitted, tested: each modality's scores on the set that corrections were fitted on, and on
            the one that they were tested on.
        tokens: of discrete modalities, on the test set.
        told: what was fitted and tested on, in words.
    """

    corrections: dict[str, Correction]
    fitted: dict[str, Scores]
    tested: dict[str, Scores]
    tokens: dict[str, Tokenwise]
    told: tuple[str, str]
    tally: Tally = field(default_factory=Tally)

    def rows(self) -> list[dict[str, Any]]:
        """A row a modality for tables."""
        found = []
        for name, scores in self.tested.items():
            row: dict[str, Any] = {"modality": name, "records": len(np.unique(scores.record))}
            row["values"] = len(scores.crps)
            for level in SHOWN:
                row[f"{level:.0%}"] = scores.coverage(level)
                row[f"{level:.0%} corrected"] = scores.coverage(level, self.corrections.get(name))
            found.append({**row, "CRPS": float(scores.crps.mean())})
        return found

    def token_rows(self) -> list[dict[str, Any]]:
        return [
            {
                "modality": name,
                "tokens": len(t.nats),
                "nats": float(t.nats.mean()),
                "accuracy": float(t.right.mean()),
                "mean confidence": float(t.confidence.mean()),
                "calibration error": t.error(),
            }
            for name, t in self.tokens.items()
        ]


def calibrate(
    model: LargeObservationModel,
    fit: Source,
    test: Source | None,
    told: tuple[str, str],
    seed: int = 0,
) -> Result:
    """Fit corrections on one set of records and test them on another.

    Each value is predicted as in training: a causal model's from all tokens before it, a masked
    one's from those that are shown.

    Args:
        test: None tests on a seeded half of the records of ``fit``, and fits on the other half.

    Errors:
        DataError: too few records.
    """
    if test is None:
        if len(fit) < 4:
            raise DataError(f"{len(fit)} record(s) cannot be fitted and tested on; name a test set")
        key, half = mix(seed, 0xCA1), len(fit) // 2
        fit, test = Part(fit, key, 0, half), Part(fit, key, half, len(fit))
    tally = Tally()
    fitted, _ = score(model, fit, tally)
    tested, tokens = score(model, test, tally)
    corrections = {
        n: Correction.fit(s.outside, s.levels, s.record)
        for n, s in fitted.items()
        if s.levels  # a head of quantiles on one side of the median tells no interval
    }
    return Result(corrections, fitted, tested, tokens, told, tally)


def save(model: LargeObservationModel, result: Result) -> Any:
    """Write the corrections beside the checkpoint's weights, where ``load`` finds them."""
    found = Calibration(
        weights=weights_of(model.state), data=result.told[0], modalities=result.corrections
    )
    return conformal.save(model.checkpoint, found)


@torch.no_grad()
def score(
    model: LargeObservationModel, source: Source, tally: Tally
) -> tuple[dict[str, Scores], dict[str, Tokenwise]]:
    """Scores of all values that the objective asks for, by modality: continuous and discrete."""
    lom, config = model.lom, model.config
    found: dict[str, dict[str, list[Array]]] = defaultdict(lambda: defaultdict(list))
    before = 0  # records of the batches before
    for rows, seen in eval_batches(model.reader.over(source), config.data):
        tally.add(seen)
        batch = config.objective.prepare(rows, lom.layouts).to(model.device)
        h = lom.hidden(batch)
        for name, span in batch.spans.items():
            part = lom.part(name)
            target, weights = part.target(span)
            owner = owners(span.slots[span.asked], batch.bos) + before
            for start in range(0, len(target), CHUNK):
                chunk = slice(start, start + CHUNK)
                answers = h[span.ask_slots[chunk]]
                parts = _of(part, answers, target[chunk], weights[chunk], owner[chunk])
                for key, values in parts.items():
                    found[name][key].append(values)
        before += len(batch.ids)
    tally.check(config.data.max_bad_fraction)
    joined = {
        name: {key: np.concatenate(values, axis=-1) for key, values in parts.items()}
        for name, parts in found.items()
    }
    continuous = {
        name: Scores(
            levels=conformal.levels_of(lom.part(name).head),
            point=not lom.part(name).head.has_quantiles,
            **parts,
        )
        for name, parts in joined.items()
        if not lom.part(name).discrete and parts["crps"].size
    }
    discrete = {n: Tokenwise(**p) for n, p in joined.items() if lom.part(n).discrete}
    return continuous, discrete


def _of(
    part: Parts, h: Tensor, target: Tensor, weights: Tensor, owner: Tensor
) -> Mapping[str, Array]:
    """Scores of the observed values of a few tokens (n,), ``owner`` their records."""
    head = part.head
    if isinstance(head, CategoricalHead):
        best = head.probabilities(h).max(-1)
        seen = weights[:, 0] > 0
        found = {
            "confidence": best.values,
            "right": (best.indices == target).float(),
            "nats": -head.log_prob(h, target)[:, 0],
        }
        return {key: value[seen].cpu().numpy() for key, value in found.items()}
    seen = (weights > 0).expand_as(target)
    outside = conformal.scores(head, h, target, conformal.levels_of(head))[:, seen]
    pit = head.cdf(h, target)[seen] if head.has_quantiles else target.new_zeros(0)
    crps = head.crps(h, target)[seen]
    record = owner[:, None].expand_as(target)[seen]
    found = {"outside": outside, "pit": pit, "crps": crps, "record": record}
    return {key: _numpy(values) for key, values in found.items()}


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.cpu().numpy())


def draw(figure: Any, result: Result, levels: Sequence[float] = conformal.LEVELS) -> None:
    """Coverage against level before and after, and the PIT histogram, a row a modality."""
    from lom_core.pictures import BLUE, INK, RED

    names = list(result.tested)
    grid = figure.subplots(len(names), 2, squeeze=False)
    for (left, right), name in zip(grid, names, strict=True):
        scores = result.tested[name]
        shown = [level for level in levels if level in scores.levels]
        left.plot([0, 1], [0, 1], color="#8b949e", lw=0.8, ls=":")
        for label, correction, colour in (
            ("as predicted", None, RED),
            ("corrected", result.corrections.get(name), BLUE),
        ):
            covered = [scores.coverage(level, correction) for level in shown]
            if None not in covered:
                left.plot(shown, covered, "o-", color=colour, ms=3, lw=1.2, label=label)
        left.set(xlim=(0, 1), ylim=(0, 1), ylabel="share inside", title=name)
        left.legend(frameon=False, loc="upper left", fontsize=8)
        if len(scores.pit):
            right.hist(scores.pit, bins=20, range=(0, 1), density=True, color=BLUE, alpha=0.85)
            right.axhline(1, color=INK, lw=0.8, ls=":")
            right.set(xlim=(0, 1), ylabel="density")
        else:
            right.set_axis_off()
            right.text(0.5, 0.5, "its head predicts a point:\nno distribution", ha="center")
    grid[-1, 0].set_xlabel("level of the interval")
    grid[-1, 1].set_xlabel("probability of a lower value (PIT)")
