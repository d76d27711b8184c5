"""What can be asked of a trained model: every wrong request is told before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from lom_core.errors import ConfigError, DataError
from lom_core.model import Lom
from lom_core.roles import Array, Encoder, Objective, Record, SequenceEncoder, Tokens

Where = Array | SequenceEncoder


class Requests:
    """Checks what is asked of a model, and finds where answers stand.

    Args:
        calibrated: modalities whose intervals are corrected.
    """

    def __init__(
        self,
        lom: Lom,
        objective: Objective,
        encoders: Mapping[str, Encoder],
        calibrated: Collection[str],
    ) -> None:
        self.lom, self.objective, self.encoders = lom, objective, encoders
        self.registry, self.calibrated = lom.registry, calibrated

    def known(self, target: str, given: Sequence[str] | None) -> None:
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
