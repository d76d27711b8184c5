"""A trained model to ask: ``model = lom_core.load("logs/demo")``.

    model.predict(records, given=["images"], target="spectra", quantiles=(0.05, 0.95))
    model.generate(records, target="midi", prompt=64, temperature=0.9, top_p=0.95)
    model.log_likelihood(records, given=["images"])

Records are what data sets yield, ``{modality: raw observation}``; answers are in physical units.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lom_core import conformal
from lom_core.answers import Answer, Question, at_once, in_turn, log_likelihood
from lom_core.checkpoint import find, load_model
from lom_core.config import RunConfig
from lom_core.conformal import Correction, weights_of
from lom_core.data import Reader
from lom_core.device import pick_device
from lom_core.embed import Table, embed, joined
from lom_core.errors import ConfigError, DataError
from lom_core.heads import CategoricalHead, Draw
from lom_core.modality import ModalityRegistry
from lom_core.model import Lom
from lom_core.prediction import Prediction
from lom_core.requests import Requests, asked, many, name_of, together
from lom_core.roles import Array, Encoder, Record, Tokens
from lom_core.seeds import mix
from lom_core.share import cached, export
from lom_core.sources import ListSource
from lom_core.tally import Tally


class LargeObservationModel:
    """A trained model with all that it needs to read observations and to answer in their units.

    It computes in float32, whatever precision it was trained in.

    Args:
        lom: the network, with its fitted scales, in evaluation mode.
        config: the run that it was trained in.
        checkpoint: the folder that it came from.
        corrections: of each modality's intervals, where it was calibrated.
        state: the checkpoint's ``state.json``.
    """

    def __init__(
        self,
        lom: Lom,
        config: RunConfig,
        checkpoint: Path,
        corrections: Mapping[str, Correction] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.lom, self.config, self.checkpoint = lom, config, checkpoint
        self.corrections, self.state = dict(corrections or {}), dict(state or {})

    @classmethod
    def from_pretrained(cls, name: str | Path, **how: Any) -> LargeObservationModel:
        """:func:`load` a folder, or the Hugging Face hub's model of that name (USER/NAME)."""
        return load(cached(name), **how)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Weights, config and model card in a folder that :meth:`from_pretrained` loads."""
        return export(self.checkpoint, folder)

    @property
    def modalities(self) -> ModalityRegistry:
        """The configs of the modalities that it knows, by name."""
        return self.lom.registry

    @property
    def device(self) -> torch.device:
        return self.lom.bos.device

    @cached_property
    def reader(self) -> Reader:
        """Turns records into tokens: ``reader.tokens(record)``; ``.over(source)`` for more."""
        return Reader(
            ListSource([]),
            self.modalities,
            self.config.data.block_size,
            leads=self.config.objective.leads,
        )

    @cached_property
    def requests(self) -> Requests:
        """Checks what is asked of it."""
        return Requests(self.lom, self.config, self.encoders, self.corrections)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """``encode`` and ``decode`` of each modality."""
        return self.reader.encoders

    def embed(self, records: Record | Iterable[Record], **how: Any) -> Table:
        """Vectors of records, with their ids and labels: columns with a row a record.

        Args:
            how: as of :func:`lom_core.embed.embed`: ``pool``, ``layer``, ``given``, ``tokens`` ...

        Errors:
            DataError: no record that can be used. Those that cannot are left out, with a warning:
                the table's ``id`` says which remain.
        """
        source = ListSource([records] if isinstance(records, Mapping) else list(records))
        tally = how.setdefault("tally", Tally())
        tables = list(embed(self.lom, self.reader.over(source), self.config, **how))
        if tally.bad:
            example = next(iter(tally.examples.values()))
            told = f"{tally.n_bad} of {tally.seen} records are left out, the first: {example}"
            if not tables:
                raise DataError(told)
            warnings.warn(told, stacklevel=2)
        return joined(tables)

    def predict(self, records: Record | Iterable[Record], **how: Any) -> list[Prediction]:
        """What is the content of ``target`` at each position, given what was observed?

        Args:
            records: one or many; each may lack modalities that are not given.
            given: modalities that are shown; all but the target if None.
            target: the modality that is asked for.
            at: (n, p) positions, in the modality's units; those of the record's own target if None.
            samples: answers to draw; those of a causal model are joint, each token given the last.
            temperature: of the samples.
            quantiles: levels, such as (0.05, 0.5, 0.95): of the samples where a causal model drew
                any; else each token's, given what is given and the points before it. Corrected if
                the checkpoint is calibrated.
            seed: of the samples; record i of the list draws the same whatever else is asked (to
                rounding: many records are answered in one pass).

        Errors:
            ConfigError: a modality that it does not know or never saw, positions of the wrong
                width or out of range, quantiles or samples of a head that has none.
            DataError: a record without what is to be given.
            BadRecord: a record that cannot be used.
        """
        return list(self.predictions(records, **how))

    @torch.no_grad()
    def predictions(
        self,
        records: Record | Iterable[Record],
        target: str,
        given: Sequence[str] | None = None,
        at: Any = None,
        samples: int = 0,
        temperature: float = 1.0,
        quantiles: Sequence[float] = (),
        seed: int = 0,
        left_out: list[DataError] | None = None,
    ) -> Iterator[Prediction]:
        """The same one by one, some records read ahead: for more records than fit in memory.

        Args:
            left_out: takes what is wrong with records that cannot be used; None raises it.
        """
        self.requests.known(target, given)
        self.requests.levels(target, quantiles)
        self.requests.times(samples, quantiles)

        def question(record: Record, i: int) -> Question:
            tokens = self.reader.tokens(record)
            shown = self.requests.given(record, tokens, target, given)
            where = self.requests.where(record, tokens, target, shown, at)
            draw = self._draw(temperature, mix(seed, i))
            return self.requests.question(name_of(record, i), shown, target, where, draw)

        for some in together(asked(question, records, left_out), samples):
            points = self._answers(target, [replace(q, draw=None) for q in some], 1)
            drawn = self._answers(target, some, samples) if samples else [None] * len(some)
            for q, point, draws in zip(some, points, drawn, strict=True):
                yield self._prediction(q.name, target, point, draws, quantiles)

    def generate(self, records: Record | Iterable[Record], **how: Any) -> list[Prediction]:
        """Continue or create ``target``: text and music to their end, others where they are asked.

        Args:
            records: one or many; ``{}`` creates from nothing.
            target: the modality to continue.
            given: other modalities that are shown; all of the record's if None.
            prompt: the target's first tokens that are kept: a number of them, a share below 1, or
                None for all.
            at: (n, p) positions to fill; if None, those of the record that the prompt leaves out.
            ahead: instead of ``at``, how far to go on, in the modality's own unit (light curves:
                days, grids: hours, series: seconds).
            max_tokens: at most so many; None is all that are asked for, and of text and music what
                fills a row of the training run.
            samples: how many continuations.
            temperature, top_k, top_p: of the draws; temperature 0 takes the point.
            seed: of the draws.
            cache: keep keys and values; False computes the same slowly.

        Errors:
            As :meth:`predict`.
        """
        return list(self.generations(records, **how))

    @torch.no_grad()
    def generations(
        self,
        records: Record | Iterable[Record],
        target: str,
        given: Sequence[str] | None = None,
        prompt: float | None = None,
        at: Any = None,
        ahead: float | None = None,
        max_tokens: int | None = None,
        samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        cache: bool = True,
        left_out: list[DataError] | None = None,
    ) -> Iterator[Prediction]:
        """The same one by one, as :meth:`predictions`."""
        self.requests.known(target, given)
        if (top_k or top_p < 1) and not self.lom.part(target).discrete:
            raise ConfigError(f"top_k and top_p choose among tokens; '{target}' is continuous")
        if samples < 1 or (max_tokens is not None and max_tokens < 1):
            raise ConfigError(f"samples={samples} and max_tokens={max_tokens} must be 1 or more")

        def question(record: Record, i: int) -> Question:
            tokens = self.reader.tokens(record)
            others = [n for n in tokens if n != target] if given is None else given
            shown = self.requests.given(record, tokens, target, [n for n in others if n != target])
            whole = tokens.get(target)
            if whole is None and prompt:
                raise DataError(f"record {name_of(record, i)} has no '{target}' to begin from")
            before = None if whole is None else self.requests.begin(target, whole, prompt)
            if before is not None and len(before):
                shown[target] = before
            rest = whole[len(before) :] if whole is not None and before is not None else None
            where = self.requests.onwards(target, before, rest, at, ahead)
            draw = self._draw(temperature, mix(seed, i), top_k, top_p)
            return self.requests.question(
                name_of(record, i), shown, target, where, draw, max_tokens
            )

        for some in together(asked(question, records, left_out), samples):
            for q, found in zip(some, self._answers(target, some, samples, cache), strict=True):
                before, encoder = q.given.get(target), self.encoders[target]
                yield Prediction(q.name, target, encoder, sampled=found.tokens, before=before)

    @torch.no_grad()
    def log_likelihood(
        self,
        records: Record | Iterable[Record],
        given: Sequence[str] = (),
        target: str | None = None,
    ) -> list[dict[str, float]]:
        """Nats of each record's modalities in physical units, given some of them.

        Values are scored in the units in which they are stored, by densities with the scaling's
        derivative in them, so that models with other scales, tokens or heads compare. A causal
        model's is the joint ln p(asked | given), a masked one's the sum over tokens as if they did
        not depend on one another.

        Args:
            given: modalities that are shown and not scored; what training always gives is, too.
            target: the one to score; all that are not given if None.
        """
        found = []
        for record in many(records):
            tokens = self.reader.tokens(record)
            leads = [n for n in self.config.objective.leads if n in tokens and n != target]
            names = [*given, *(n for n in leads if n not in given)]
            shown = self.requests.given(record, tokens, target or "", names)
            asked = [n for n in tokens if n not in shown and target in (None, n)]
            if not asked:
                raise DataError(
                    f"record {name_of(record)} has nothing to score beside {list(given)}"
                )
            for name in asked:
                self.requests.known(name, given)
            hidden = {name: tokens[name] for name in asked}
            objective = self.config.objective
            found.append(log_likelihood(self.lom, objective, shown, hidden))
        return found

    def _prediction(
        self,
        name: str,
        target: str,
        point: Answer,
        draws: Answer | None,
        levels: Sequence[float],
    ) -> Prediction:
        part, encoder = self.lom.part(target), self.encoders[target]
        tokens, h = point.tokens[0], point.h[0]
        drawn = [] if draws is None else draws.tokens
        chances = None
        if isinstance(part.head, CategoricalHead):
            chances = part.head.probabilities(h[: len(tokens)]).cpu().numpy()
        bounds = {}
        if levels:
            correction, at = self.corrections.get(target), torch.as_tensor(tokens.positions)
            if drawn and self.config.objective.in_turn:
                model_units = torch.stack(
                    [part.scale(*_on(self.device, t.content, t.positions)) for t in drawn]
                )
                q = torch.tensor([*levels, 0.5], device=self.device)
                found = torch.quantile(model_units, q, dim=0)
                found = conformal.stretched(found[:-1], found[-1], levels, correction)
            else:
                found = conformal.quantiles(part.head, h, levels, correction)
            for level, values in zip(levels, found, strict=True):
                content = part.scale.inverse(values, at.to(values.device)).cpu().numpy()
                bounds[level] = Tokens(content, tokens.positions)
        return Prediction(name, target, encoder, tokens, drawn, bounds, chances)

    def _answers(
        self, target: str, questions: Sequence[Question], times: int, cache: bool = True
    ) -> list[Answer]:
        how = self.lom, self.config.objective, target, questions, times
        return in_turn(*how, cache) if self.config.objective.in_turn else at_once(*how)

    def _draw(self, temperature: float, seed: int, top_k: int = 0, top_p: float = 1.0) -> Draw:
        generator = torch.Generator(self.device).manual_seed(seed)
        return Draw(temperature, top_k, top_p, generator)

    def __repr__(self) -> str:
        return f"LargeObservationModel({', '.join(self.modalities.names())}; {self.checkpoint})"


def load(
    path: str | Path, device: str | None = None, calibrated: bool = True
) -> LargeObservationModel:
    """The model of a checkpoint, or of a run's folder (its best checkpoint).

    Args:
        device: "cpu", "cuda" ...; that of the run if None ("auto": a GPU where there is one).
        calibrated: correct intervals where ``lom calibrate`` left a correction beside the weights.

    Errors:
        CheckpointError: there is none, it is damaged, or it needs a plugin that is not installed.
        ConfigError: no such device.
    """
    checkpoint = find(path)
    lom, config, state = load_model(checkpoint)
    system = (
        config.system if device is None else config.system.model_copy(update={"device": device})
    )
    corrections = conformal.load(checkpoint, weights_of(state)) if calibrated else {}
    return LargeObservationModel(
        lom.to(pick_device(system)), config, checkpoint, corrections, state
    )


def _on(device: torch.device, *arrays: Array) -> list[torch.Tensor]:
    return [torch.as_tensor(array, device=device) for array in arrays]
