"""ModalityConfig: all that the model knows of one kind of observation. ModalityRegistry: the run's.

The two names, their fields and their methods are those of the AstroPT training guide.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, field_validator, model_validator

from lom_core.component import Component
from lom_core.errors import ConfigError, nearest
from lom_core.roles import ROLES, Array, Head, Position, Scale, Tokeniser, Tokens


class ModalityConfig(Component, role="modality", kind="tokens"):
    """One modality of a run: its sizes and the components that handle it.

    The sizes alone are enough: ``ModalityConfig(name="images", input_size=768, patch_size=16,
    loss_weight=1.0, embed_pos=True, pos_input_size=1)`` takes ready tokens of 768 values each and
    looks their positions up in a table. A plugin subclasses it to make a preset and says in
    ``defaults`` which components its own fields stand for.

    Args:
        name: under which records hold it; letters, digits and underscores.
        input_size: values in a token; follows from the tokeniser where that is given.
        patch_size: extent of a token in samples or in pixels a side; the tokeniser reads it.
        pos_input_size: coordinates in a token's position; follows from the tokeniser.
        embed_pos: True looks positions up in a table by index, False feeds them to an MLP.
        vocab_size: number of different tokens of a discrete modality, 0 when continuous.
        loss_weight: factor of this modality's mean loss in the total.
        reveal_position: False hides the asked position in the question, for modalities whose
            position tells the content (an onset time in music).
        tokeniser, scale, position, head: components, filled in from the fields above.
    """

    example: ClassVar[dict[str, Any]] = {}  # fields that have no default, for the checks

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    input_size: int = Field(default=0, ge=0)
    patch_size: int = Field(default=1, ge=1)
    pos_input_size: int = Field(default=0, ge=0)
    embed_pos: bool = True
    vocab_size: int = Field(default=0, ge=0)
    loss_weight: float = Field(default=1.0, ge=0)
    reveal_position: bool = True
    # Filled by `defaults` before anyone can read them, hence never None.
    tokeniser: Tokeniser = Field(default=None)  # type: ignore[assignment]
    scale: Scale = Field(default=None)  # type: ignore[assignment]
    position: Position = Field(default=None)  # type: ignore[assignment]
    head: Head = Field(default=None)  # type: ignore[assignment]

    def defaults(self) -> dict[str, Any]:
        """Components for the fields that were not given, as components or as ``{kind: ...}``."""
        discrete = self.vocab_size > 0
        return {
            "tokeniser": {
                "kind": "ready",
                "values": 1 if discrete else self.input_size,
                "coordinates": self.pos_input_size or 1,
                "vocab": self.vocab_size,
            },
            "scale": "identity" if discrete else "zscore",
            "position": "index" if self.embed_pos else "mlp",
            "head": "categorical" if discrete else "huber",
        }

    @field_validator("name")
    @classmethod
    def _free_name(cls, name: str) -> str:
        if name in ("id", "idx") or name.endswith(("_positions", "_weights")):
            raise ConfigError(f"'{name}' cannot name a modality: records use it for something else")
        return name

    @model_validator(mode="after")
    def _fill(self) -> ModalityConfig:
        given = set(self.model_fields_set)
        sized = self.input_size or self.vocab_size or "tokeniser" in given
        if type(self) is ModalityConfig and not sized:
            raise ConfigError(
                f"modality '{self.name}' needs input_size (values a token) or vocab_size, "
                "or a kind that a plugin provides"
            )
        merged = {**ModalityConfig.defaults(self), **self.defaults()}
        for field, default in merged.items():
            if field in ROLES and getattr(self, field) is None:
                object.__setattr__(self, field, ROLES[field].model_validate(default))
        for field, actual in (
            ("input_size", self.tokeniser.width),
            ("pos_input_size", self.tokeniser.pos_width),
            ("vocab_size", self.tokeniser.vocab_size),
        ):
            if field in given and getattr(self, field) not in (0, actual):
                raise ConfigError(
                    f"{field}={getattr(self, field)} of modality '{self.name}' does not fit its "
                    f"tokeniser '{self.tokeniser.tag}', which has {actual}; leave {field} out"
                )
            object.__setattr__(self, field, actual)
        if self.input_size % self.tokeniser.n_channels:
            raise ConfigError(
                f"tokeniser '{self.tokeniser.tag}' has {self.input_size} values a token, which "
                f"{self.tokeniser.n_channels} channels cannot share"
            )
        return self

    def predictors(self, tokens: Tokens) -> dict[str, Array]:
        """Predictors of this field that need no model, to stand beside it in evaluations.

        Args:
            tokens: of one observation.

        Returns:
            name -> (n, w) content guessed for each token from earlier ones, in stored units, the
            same names for every observation. NaN where there is no guess: the training mean
            stands there. (n,) int64 when discrete, -1 where there is none.
        """
        return {}

    def ahead(self, tokens: Tokens, amount: float) -> Array:
        """(n, p) positions of what follows on these tokens, for ``lom generate --ahead``.

        Args:
            amount: how far, in a unit that the modality documents: days, hours, seconds.
        """
        raise ConfigError(
            f"modality '{self.name}' does not say what lies ahead: give positions with at"
        )

    def write(self, value: Any, path: Path) -> Path:
        """Write a decoded observation as a file that tools of the field open.

        Args:
            value: what ``tokeniser.decode`` gives, in physical units.
            path: of the file, without an ending.

        Returns:
            The file's path: here a CSV table with a row a token, or numpy's format for arrays.
        """
        from lom_core.tables import write_tokens

        return write_tokens(value, path)

    def synth(self, rng: np.random.Generator) -> tuple[Any, float]:
        """A made-up observation, and the number that it was made from.

        For the conformance kit, which checks that a tiny model recovers the number: a radius from
        an image, a redshift from a spectrum. Never for training in earnest.
        """
        raise ConfigError(
            f"modality '{self.tag}' makes up no observations: write its synth(), or check "
            "real ones with lom_core.testing.conforms"
        )

    def picture(self, figure: Any, truth: Any, predicted: Any) -> None:
        """Draw input, prediction and residual of one object, in physical units.

        Args:
            figure: a matplotlib (Sub)Figure, about three times as wide as high.
            truth: the decoded observation (what ``tokeniser.decode`` gives).
            predicted: the decoded prediction, same type and shape.
        """
        from lom_core.pictures import draw_tokens

        draw_tokens(figure, self.name, truth, predicted)


class ModalityRegistry:
    """The modalities of a run, in the order in which an observation's tokens stand.

    Args:
        configs: their configs; names must differ.

    Errors:
        ConfigError: no modality, or two of one name.
    """

    def __init__(self, configs: Iterable[ModalityConfig]) -> None:
        self._configs: dict[str, ModalityConfig] = {}
        for config in configs:
            if config.name in self._configs:
                raise ConfigError(f"two modalities are named '{config.name}'; names must differ")
            self._configs[config.name] = config
        if not self._configs:
            raise ConfigError("a run needs at least one modality")

    def names(self) -> list[str]:
        return list(self._configs)

    def get_config(self, name: str) -> ModalityConfig:
        """The config of a modality; ConfigError listing the known ones if there is none."""
        if name not in self._configs:
            raise ConfigError(
                f"unknown modality '{name}'{nearest(name, self._configs)}; "
                f"this run has: {', '.join(self._configs)}"
            )
        return self._configs[name]

    def generate_sequence(self, shuf: bool = False, *, seed: int | None = None) -> list[str]:
        """The names in order, or shuffled (``seed`` makes the shuffle repeatable)."""
        names = self.names()
        if shuf:
            random.Random(seed).shuffle(names)
        return names

    def __iter__(self) -> Iterator[ModalityConfig]:
        return iter(self._configs.values())

    def __len__(self) -> int:
        return len(self._configs)

    def __contains__(self, name: object) -> bool:
        return name in self._configs

    def __repr__(self) -> str:
        return f"ModalityRegistry({', '.join(self._configs)})"
