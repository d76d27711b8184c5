"""What can be asked of a trained model: every wrong request is told before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from lom_core.answers import Question, Where
from lom_core.config import RunConfig
from lom_core.errors import ConfigError, DataError, nearest
from lom_core.heads import Draw
from lom_core.model import Lom
from lom_core.roles import Array, Encoder, Record, SequenceEncoder, Tokens

TOGETHER = 64  # roll-outs that are answered in one pass


class Requests:
    """Checks what is asked of a model, and finds where answers stand.

    Args:
        calibrated: modalities whose intervals are corrected.
    """

    def __init__(
        self,
        lom: Lom,
        config: RunConfig,
        encoders: Mapping[str, Encoder],
        calibrated: Collection[str],
    ) -> None:
        self.lom, self.objective, self.encoders = lom, config.objective, encoders
        self.registry, self.calibrated = lom.registry, calibrated
        self.block_size = config.data.block_size

    def known(self, target: str, given: Sequence[str] | None) -> None:
        """ConfigError unless training had these modalities and asked for the target."""
        for name in (target, *(given or ())):
            self.registry.get_config(name)
            if not self.lom.part(name).seen:
                raise ConfigError(
                    f"this model never saw '{name}': its training data had none; it saw "
                    f"{', '.join(n for n in self.registry.names() if self.lom.part(n).seen)}"
                )
        objective = self.objective
        if not objective.asks_for(target):
            asked = [n for n in self.registry.names() if objective.asks_for(n)]
            raise ConfigError(
                f"this model was never asked for '{target}' in training (objective "
                f"{objective.tag}); it answers {', '.join(asked)}"
            )

    def levels(self, target: str, levels: Sequence[float]) -> None:
        """ConfigError unless the target can be answered with these quantiles."""
        if not levels:
            return
        part = self.lom.part(target)
        if part.discrete:
            raise ConfigError(f"'{target}' is discrete: it has probabilities, no quantiles")
        if not all(0 < level < 1 for level in levels):
            raise ConfigError(f"quantiles {list(levels)} must lie within 0 and 1")
        if not part.head.has_quantiles and target not in self.calibrated:
            tag = self.registry.get_config(target).head.tag
            raise ConfigError(
                f"'{target}' is answered with head '{tag}': a point, without quantiles. `lom "
                "calibrate CHECKPOINT` adds intervals, or train with head: gaussian"
            )

    def times(self, samples: int, levels: Sequence[float]) -> None:
        """Enough samples for the quantiles of a causal model, which come from them."""
        needed = max((round(1 / min(t, 1 - t)) for t in levels), default=0)
        if samples < 0 or (self.objective.in_turn and 0 < samples < needed):
            raise ConfigError(
                f"samples={samples}: draw 0, or at least {needed} for these quantiles of them"
                if samples > 0
                else f"samples={samples} must be 0 or more"
            )

    def given(
        self,
        record: Record,
        tokens: Mapping[str, Tokens],
        target: str,
        given: Sequence[str] | None,
    ) -> dict[str, Tokens]:
        """The tokens that are shown, all but the target's if None; DataError lists what there is
        where one is missing."""
        if given is None and not tokens:  # a name misspelt, not a wish to know the average answer
            held, known = [name for name in record if name != "id"], self.registry.names()
            guess = nearest(held[0], known) if held else ""
            raise DataError(
                f"record {name_of(record)} holds none of {', '.join(known)}; it has "
                f"{', '.join(held) or 'nothing'}{guess}; to ask without any, say given=[]"
            )
        names = [name for name in tokens if name != target] if given is None else given
        for name in names:
            if name not in tokens:
                have = ", ".join(tokens) or "nothing that this model knows"
                raise DataError(
                    f"record {name_of(record)} has no '{name}', which is to be given; it has {have}"
                )
        return {name: tokens[name] for name in names}

    def where(
        self,
        record: Record,
        tokens: Mapping[str, Tokens],
        target: str,
        shown: Mapping[str, Tokens],
        at: Any,
    ) -> Where:
        """Where the target is asked for: at ``at``, by its encoder, or where the record has it.

        Errors:
            DataError: nothing tells. ConfigError: positions that cannot be asked for.
        """
        if at is not None:
            return self.positions(target, at)
        encoder = self.encoders[target]
        if isinstance(encoder, SequenceEncoder) and self.objective.in_turn:
            return encoder
        if target in tokens and target not in shown:
            return tokens[target].positions
        fixed = self.registry.get_config(target).tokeniser.fixed_positions
        if fixed is not None:
            return fixed
        raise DataError(
            f"record {name_of(record)} does not tell where '{target}' is to be answered: "
            f"give positions (n, {self._pos_width(target)}) with at"
        )

    def onwards(
        self,
        target: str,
        before: Tokens | None,
        rest: Tokens | None,
        at: Any,
        ahead: float | None,
    ) -> Where:
        """Where the target goes on after ``before``; ``rest`` is what the prompt left out.

        Errors:
            As :meth:`where`.
        """
        config, encoder = self.registry.get_config(target), self.encoders[target]
        if at is not None:
            return self.positions(target, at)
        if ahead is not None:
            if before is None or not len(before):
                raise DataError(f"ahead={ahead:g} of what? The record has no '{target}'")
            return self.positions(target, config.ahead(before, ahead))
        if isinstance(encoder, SequenceEncoder) and self.objective.in_turn:
            return encoder
        if rest is not None and len(rest):
            return rest.positions
        fixed = config.tokeniser.fixed_positions
        if fixed is not None and not (before is not None and len(before)):
            return fixed
        raise (DataError if before is None else ConfigError)(
            f"where is '{target}' to go on? Keep a prompt of it and answer the rest (prompt=0.5), "
            f"or give positions (n, {self._pos_width(target)}) with at, or ahead"
        )

    def question(
        self,
        name: str,
        shown: Mapping[str, Tokens],
        target: str,
        where: Where,
        draw: Draw,
        longest: int | None = None,
    ) -> Question:
        if isinstance(where, np.ndarray):
            where = where[:longest]
        elif not self.objective.in_turn:
            raise ConfigError(
                f"this model answers all at once ({self.objective.tag}): it must be told the "
                f"positions of '{target}' with at"
            )
        elif longest is None:
            longest = max(1, self.block_size - 1 - sum(map(len, shown.values())))
        how = None if draw.temperature == 0 else draw
        return Question(name, self._ordered(shown, target), where, how, longest or 0)

    def begin(self, target: str, whole: Tokens, prompt: float | None) -> Tokens:
        """What is kept of a record's target; an end that is to be gone beyond is not."""
        end = getattr(self.encoders[target], "end", None)
        if prompt is None and end is not None and whole.content[-1] == end:
            return whole[:-1]
        return first(whole, prompt)

    def _ordered(self, shown: Mapping[str, Tokens], target: str) -> dict[str, Tokens]:
        """As they stood in training, what leads first and the target last."""
        leads = self.objective.leads
        names = [name for name in self.registry.names() if name in shown]
        names.sort(key=lambda name: (name == target, name not in leads))
        return {name: shown[name] for name in names}

    def positions(self, target: str, at: Any) -> Array:
        """The positions (n, p) that were asked for, checked."""
        try:
            found = np.asarray(at, dtype=np.float32)
        except (TypeError, ValueError):
            raise ConfigError(f"positions of '{target}' are no numbers: {str(at)[:60]}") from None
        width = self._pos_width(target)
        found = found[:, None] if found.ndim == 1 and width == 1 else found
        if found.ndim != 2 or found.shape[1] != width or not len(found):
            raise ConfigError(f"positions of '{target}' are (n, {width}), not {found.shape}")
        if not np.isfinite(found).all():
            raise ConfigError(f"a position of '{target}' is not finite")
        problem = self.registry.get_config(target).position.check(found)
        if problem:
            raise ConfigError(f"'{target}' cannot be asked there: {problem}")
        return found

    def _pos_width(self, target: str) -> int:
        return self.registry.get_config(target).tokeniser.pos_width


def many(records: Record | Iterable[Record]) -> Iterable[Record]:
    """One record is a list of one."""
    return [records] if isinstance(records, Mapping) else records


def asked(
    question: Callable[[Record, int], Question],
    records: Record | Iterable[Record],
    left_out: list[DataError] | None,
) -> Iterator[Question]:
    """A question about each record that can be used; ``left_out`` takes what is wrong with others,
    or None raises it."""
    for i, record in enumerate(many(records)):
        try:
            yield question(record, i)
        except DataError as error:
            if left_out is None:
                raise
            left_out.append(error)


def together(questions: Iterator[Question], samples: int) -> Iterator[list[Question]]:
    """As many as are answered in one pass."""
    while some := list(islice(questions, max(1, TOGETHER // max(1, samples)))):
        yield some


def name_of(record: Record, number: int = 0) -> str:
    """A record's id, or its number."""
    return str(record.get("id", number))


def first(tokens: Tokens, prompt: float | None) -> Tokens:
    """A number of tokens, a share below 1, or all of them."""
    if prompt is None:
        return tokens
    n = round(prompt * len(tokens)) if 0 < prompt < 1 else int(prompt)
    if not 0 <= n <= len(tokens):
        raise ConfigError(f"prompt={prompt:g}: there are {len(tokens)} tokens to begin from")
    return tokens[:n]
