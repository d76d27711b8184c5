"""Objectives and trackers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lom_core.errors import ConfigError
from lom_core.roles import Logger, Objective, Tracker

if TYPE_CHECKING:
    from lom_core.batch import Batch, Layout, Row


class NextToken(Objective, kind="next_token"):
    """Each token is predicted from the tokens before it; the first one from BOS alone."""

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import next_token

        return next_token(rows, layouts)

    def condition(
        self, rows: Sequence[Row], layouts: Mapping[str, Layout], given: Collection[str]
    ) -> Batch:
        return self.prepare(rows, layouts)


class Masked(Objective, kind="masked"):
    """A share of each observation's tokens is hidden and predicted from all the others.

    Args:
        ratio: share of the tokens hidden, at least one token of each observation.
    """

    in_turn: ClassVar[bool] = False

    ratio: float = Field(default=0.5, gt=0, le=1)

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import masked

        return masked(rows, layouts, self.ratio)


class AnyOrder(Objective, kind="any_order"):
    """Next token, with the tokens of each observation in a seeded order of its own."""

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import any_order

        return any_order(rows, layouts)

    def condition(
        self, rows: Sequence[Row], layouts: Mapping[str, Layout], given: Collection[str]
    ) -> Batch:
        from lom_core.objectives import next_token

        return next_token(rows, layouts)  # one of the orders, the same for every record


class Prefix(Objective, kind="prefix"):
    """Some modalities are given, the others predicted from them, token by token.

    Args:
        given: names of modalities; they stand first and all see one another.
    """

    given: tuple[str, ...] = Field(min_length=1)

    @property
    def leads(self) -> tuple[str, ...]:
        return self.given

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import prefix

        unknown = sorted(set(self.given) - set(layouts))
        if unknown or set(self.given) >= set(layouts):
            raise ConfigError(
                f"objective prefix: given={list(self.given)} must be some, not all, of this run's "
                f"modalities: {', '.join(layouts)}"
            )
        return prefix(rows, layouts, self.given)

    def condition(
        self, rows: Sequence[Row], layouts: Mapping[str, Layout], given: Collection[str]
    ) -> Batch:
        from lom_core.objectives import prefix

        return prefix(rows, layouts, given)


class Wandb(Tracker, kind="wandb"):
    """Weights & Biases, offline unless told otherwise; a resumed run continues its own run.

    Args:
        project, name, entity: as W&B names them; the project defaults to "lom".
        mode: "offline" writes below the run's folder for a later ``wandb sync``.
    """

    project: str = "lom"
    name: str | None = None
    entity: str | None = None
    mode: Literal["online", "offline", "disabled"] = "offline"

    def build(self, out_dir: str, config: Mapping[str, Any], run_id: str | None) -> Logger:
        from lom_core.trackers import WandbLogger

        return WandbLogger(self, out_dir, config, run_id)


class Tensorboard(Tracker, kind="tensorboard"):
    """TensorBoard's event files, below the run's folder."""

    def build(self, out_dir: str, config: Mapping[str, Any], run_id: str | None) -> Logger:
        from lom_core.trackers import TensorboardLogger

        return TensorboardLogger(out_dir)


class Codecarbon(Tracker, kind="codecarbon"):
    """Energy, and the CO2 that it stands for, measured by CodeCarbon without the network.

    Args:
        country: ISO code of three letters (``GBR``); without one only the energy is told.
    """

    country: str = Field(default="", pattern="^([A-Z]{3})?$")

    def build(self, out_dir: str, config: Mapping[str, Any], run_id: str | None) -> Logger:
        from lom_core.trackers import CodecarbonLogger

        return CodecarbonLogger(self, out_dir)
