"""The core's own kinds: configs only. The modules they build are in the file of the same role."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from lom_core.component import Component
from lom_core.errors import ConfigError
from lom_core.hookspecs import hookimpl
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import (
    Array,
    Dataset,
    Head,
    Logger,
    Objective,
    Position,
    PythonDataset,
    Scale,
    Source,
    Tokeniser,
    Tokens,
    Tracker,
)

if TYPE_CHECKING:
    from torch import nn

    from lom_core.batch import Batch, Layout, Row

# ---------------------------------------------------------------------------------- tokenisers


class Ready(Tokeniser, kind="ready"):
    """Values that are tokens already: an array, or a mapping content / positions / weights.

    Args:
        values: values in a token. Ignored when ``vocab`` is set.
        coordinates: coordinates in a position. Positions left out are 0, 1, 2 ...
        vocab: number of different tokens when discrete, else 0.
    """

    values: int = Field(default=1, ge=0)
    coordinates: int = Field(default=1, ge=1)
    vocab: int = Field(default=0, ge=0)

    @property
    def vocab_size(self) -> int:
        return self.vocab

    @property
    def width(self) -> int:
        return 1 if self.vocab else self.values

    @property
    def pos_width(self) -> int:
        return self.coordinates

    def encode(self, value: Any) -> Tokens:
        """Tokens from Tokens, an array (n, w) or (n,), or a mapping of arrays."""
        if isinstance(value, Tokens):
            return value
        parts = value if isinstance(value, Mapping) else {"content": value}
        content = np.asarray(parts["content"])
        if self.vocab:
            content = content.astype(np.int64)
        elif content.ndim == 1 and self.values == 1:
            content = content[:, None]
        positions = parts.get("positions")
        if positions is None:
            positions = np.arange(len(content))
        positions = np.asarray(positions, dtype=np.float32).reshape(len(content), -1)
        weights = parts.get("weights")
        if weights is not None:
            weights = np.asarray(weights, dtype=np.float32).reshape(len(content), -1)
        if weights is None and content.dtype.kind == "f" and not np.isfinite(content).all():
            weights = np.isfinite(content).astype(np.float32)
        return Tokens(content, positions, weights)

    def decode(self, tokens: Tokens) -> dict[str, Array]:
        """The arrays back: exact."""
        parts = {"content": tokens.content, "positions": tokens.positions}
        return parts if tokens.weights is None else {**parts, "weights": tokens.weights}


# -------------------------------------------------------------------------------------- scales


class Identity(Scale, kind="identity"):
    """Model units are physical units."""

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import IdentityScale

        return IdentityScale(width, n_channels)


class ZScore(Scale, kind="zscore"):
    """(x - mean) / standard deviation, both fitted per channel."""

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import ZScoreScale

        return ZScoreScale(width, n_channels)


class Arcsinh(Scale, kind="arcsinh"):
    """Z-score of arcsinh(x / softening): linear in the noise, logarithmic in bright sources.

    Args:
        softening: in physical units; None fits 1.4826 x the median absolute deviation per channel.
    """

    softening: float | None = Field(default=None, gt=0)

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import ArcsinhScale

        return ArcsinhScale(width, n_channels, self.softening)


class Log(Scale, kind="log"):
    """Z-score of ln(x), for contents that are positive. Fitting refuses values <= 0.

    A later value below the smallest one fitted is read as that smallest one.
    """

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        from lom_core.scaling import LogScale

        return LogScale(width, n_channels)


# ----------------------------------------------------------------------------------- positions


class Index(Position, kind="index"):
    """A learned vector for each position 0, 1, 2 ... (first coordinate).

    Args:
        max_positions: size of the table; a position beyond it is a bad record.
    """

    max_positions: int = Field(default=4096, ge=1)

    def check(self, positions: Array) -> str:
        first = positions[:, 0]
        if len(first) and not (first.min() >= 0 and first.max() < self.max_positions):
            return f"a position outside the index table of {self.max_positions} (max_positions)"
        return ""

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import IndexPosition

        return IndexPosition(n_embd, self.max_positions)


class Fourier(Position, kind="fourier"):
    """Sines and cosines of each coordinate at log-spaced periods, then a linear map.

    Args:
        n_frequencies: per coordinate.
        min_period, max_period: in the units of the positions. The shortest should be about twice
            the finest spacing that matters, the longest a few times the whole range.
    """

    n_frequencies: int = Field(default=32, ge=1)
    min_period: float = Field(default=0.01, gt=0)
    max_period: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Fourier:
        if self.min_period >= self.max_period:
            raise ConfigError(
                f"min_period {self.min_period} must be below max_period {self.max_period}"
            )
        return self

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import FourierPosition

        return FourierPosition(
            n_embd, pos_width, self.n_frequencies, self.min_period, self.max_period
        )


class MLP(Position, kind="mlp"):
    """A two-layer network on the coordinates, after (position - offset) / unit.

    Args:
        hidden: width of the hidden layer; 0 takes that of the model.
        offset, unit: bring the positions to about -1 .. 1; a network fed 3000 .. 10000 learns
            badly.
    """

    hidden: int = Field(default=0, ge=0)
    offset: float = 0.0
    unit: float = Field(default=1.0, gt=0)

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        from lom_core.positions import MLPPosition

        return MLPPosition(n_embd, pos_width, self.hidden or n_embd, self.offset, self.unit)


# --------------------------------------------------------------------------------------- heads


class Huber(Head, kind="huber"):
    """A point, scored by the Huber loss: squared below ``delta`` (model units), linear above."""

    delta: float = Field(default=1.0, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import HuberHead

        return HuberHead(n_embd, width, self.delta)


class Gaussian(Head, kind="gaussian"):
    """A mean and a standard deviation for each value, scored in nats.

    Args:
        min_sigma: smallest standard deviation, in model units.
    """

    min_sigma: float = Field(default=1e-3, gt=0)

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import GaussianHead

        return GaussianHead(n_embd, width, self.min_sigma)


class Categorical(Head, kind="categorical"):
    """One of ``vocab_size`` tokens, scored in nats (cross-entropy)."""

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        from lom_core.heads import CategoricalHead

        if not vocab_size:
            raise ConfigError("head 'categorical' needs a modality with a vocab_size")
        return CategoricalHead(n_embd, vocab_size)


# ------------------------------------------------------------------------------------ datasets


class Crossmatch(Dataset, kind="crossmatch"):
    """Several data sets of the same length, read side by side: record i is all their records i.

    ``{kind: crossmatch, of: {images: {kind: galaxy_files, ...}, spectra: {...}}}``. A data set
    that did not observe object i (an empty line or ``-`` in its path list) adds nothing to it.

    Errors:
        DataError: lengths that differ, before training starts.
    """

    of: dict[str, Dataset] = Field(min_length=1)

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import CrossmatchSource

        return CrossmatchSource({name: part.build(registry) for name, part in self.of.items()})


class Hub(Dataset, kind="hub"):
    """A Hugging Face data set: from the hub, streamed or not, or local parquet files.

    Args:
        path: ``Smith42/galaxies``, or a loader's name such as ``parquet`` with ``data_files``.
        columns: modality -> column. Several columns for one modality are passed as a mapping:
            ``{spectra: {flux: FLUX, wavelength: LAMBDA}}``.
        id_column: where records' ids stand; their number otherwise.
    """

    path: str
    columns: dict[str, str | dict[str, str]] = Field(min_length=1)
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: str | list[str] | None = None
    streaming: bool = False
    id_column: str | None = None

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.hub import open_hub

        return open_hub(self, registry)


class Concat(Dataset, kind="concat"):
    """The records of several data sets as one: ``{kind: concat, of: {galaxies: {...}, ...}}``.

    Args:
        of: data sets by a name of your choice, which prefixes their records' ids.
        times: how often an epoch holds each, by that name; 1 where left out.
    """

    of: dict[str, Dataset] = Field(min_length=1)
    times: dict[str, int] = {}

    @model_validator(mode="after")
    def _known(self) -> Concat:
        unknown = set(self.times) - set(self.of)
        if unknown:
            raise ConfigError(f"times names {sorted(unknown)}; the data sets are {sorted(self.of)}")
        return self

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import ConcatSource

        parts = {name: dataset.build(registry) for name, dataset in self.of.items()}
        return ConcatSource(parts, {name: self.times.get(name, 1) for name in self.of})


# ---------------------------------------------------------------------------------- objectives


class NextToken(Objective, kind="next_token"):
    """Each token is predicted from the tokens before it; the first one from BOS alone."""

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import next_token

        return next_token(rows, layouts)


class Masked(Objective, kind="masked"):
    """A share of each observation's tokens is hidden and predicted from all the others.

    Args:
        ratio: share of the tokens hidden, at least one token of each observation.
    """

    ratio: float = Field(default=0.5, gt=0, le=1)

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        from lom_core.objectives import masked

        return masked(rows, layouts, self.ratio)


# ------------------------------------------------------------------------------------ trackers


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


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (
        *(ModalityConfig, Ready),
        *(Identity, ZScore, Arcsinh, Log),
        *(Index, Fourier, MLP),
        *(Huber, Gaussian, Categorical),
        *(PythonDataset, Crossmatch, Concat, Hub),
        *(NextToken, Masked),
        Wandb,
    ):
        register(cls)
