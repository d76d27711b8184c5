"""What a plugin can add: one class per role, and the Tokens that pass between them.

A component config is light; its ``build`` makes the working object and imports what that needs.
For a role whose work needs no heavy import, ``build`` returns the config itself, so that a small
plugin is one class: subclass ``Tokeniser``, write ``encode`` and ``decode``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import SerializerFunctionWrapHandler, model_serializer

from lom_core.component import Component
from lom_core.errors import BadRecord, ConfigError

if TYPE_CHECKING:
    from torch import nn

    from lom_core.batch import Batch, Layout, Row
    from lom_core.modality import ModalityRegistry

Array = NDArray[Any]
Record = Mapping[str, Any]
"""What a data set yields: modality name -> raw observation, and optionally ``"id"`` and labels
(text or single numbers) under names that are no modality's."""


@dataclass(frozen=True)
class Tokens:
    """One modality of one observation, as the model reads it.

    Args:
        content: what was measured. (n,) int64 when discrete, (n, w) when continuous, in the dtype
            it was stored in (uint8, int16, float32 ...): scaling happens on the device.
        positions: where. (n, p) float32, in units that the modality documents.
        weights: how much each value counts. (n, w) or (n, 1) float32 >= 0, or None for all 1.
            0 means not observed (bad pixel, NaN, padding): never shown, never a target.
    """

    content: Array
    positions: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return int(self.content.shape[0])

    def __getitem__(self, index: slice | Array) -> Tokens:
        """The same tokens, fewer or in another order."""
        weights = None if self.weights is None else self.weights[index]
        return replace(
            self, content=self.content[index], positions=self.positions[index], weights=weights
        )

    @property
    def observed(self) -> Array:
        """(n, w) or (n, 1) bool: which values were observed."""
        if self.weights is None:
            return np.ones((len(self), 1), dtype=bool)
        return np.asarray(self.weights > 0)


def require_tokens(tokens: Any) -> None:
    """BadRecord for what is no Tokens of numpy arrays: a tuple, lists, tensors."""
    if not isinstance(tokens, Tokens):
        raise BadRecord("encode() gave no lom_core.Tokens", detail=type(tokens).__name__)
    for name, array in vars(tokens).items():
        if not isinstance(array, np.ndarray) and (array is not None or name != "weights"):
            raise BadRecord(f"no numpy array as {name}", detail=type(array).__name__)


class Tokeniser(Component, role="tokeniser"):
    """physical value <-> tokens, in numpy, in the loader's workers.

    ``width`` is the number of values in a token (1 when discrete), ``pos_width`` the number of
    coordinates of its position, ``vocab_size`` the number of different tokens when discrete, else
    0, ``n_channels`` how many quantities interleave in a token's values, last axis fastest
    (3 for an RGB patch): the statistics of the scaling are kept for each.

    ``encode`` raises BadRecord for a value that it cannot use. ``decode(encode(value))`` equals
    ``value`` within the tokeniser's documented bound wherever the weight is not 0.
    """

    @property
    def width(self) -> int:
        return 1

    @property
    def vocab_size(self) -> int:
        return 0

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Names of the tokens in the order of their numbers, by which a model keeps what it learnt
        of them when the vocabulary changes; empty where they have none."""
        return ()

    @property
    def n_channels(self) -> int:
        return 1

    @property
    def pos_width(self) -> int:
        return 1

    @property
    def fixed_positions(self) -> Array | None:
        """(n, p) where they are the same for every observation; None where they are not."""
        return None

    @property
    def bound(self) -> float:
        """Largest error in the observed content of ``encode(decode(tokens))``."""
        return 0.0

    def build(self) -> Encoder:
        if not isinstance(self, Encoder):
            raise ConfigError(f"tokeniser '{self.tag}' needs encode and decode, or a build()")
        return self


@runtime_checkable
class Encoder(Protocol):
    """What ``Tokeniser.build`` returns."""

    def encode(self, value: Any) -> Tokens: ...

    def decode(self, tokens: Tokens) -> Any: ...


@runtime_checkable
class SequenceEncoder(Encoder, Protocol):
    """An encoder whose positions follow from contents: text, music. It can be continued without
    being told where.
    """

    end: int | None
    """The token that closes an observation, if there is one."""

    def places(self, content: Array) -> Array:
        """(n, p) positions of tokens (n,)."""
        ...


class Scale(Component, role="scale"):
    """physical units <-> model units, fitted on data, stored in the checkpoint, invertible.

    ``build(width)`` returns a module with ``fit(content, weights, positions)`` (numpy, (n, w) and
    (n, p)), ``forward(x, positions)`` and ``inverse(y, positions)``, both (n, w) float32, and
    ``mean`` (w,), the training mean in model units (lom_core.scaling.ScaleModule).
    """

    def build(self, width: int, n_channels: int = 1) -> nn.Module:
        raise ConfigError(f"scale '{self.tag}' has no build()")


class Position(Component, role="position"):
    """position -> vector: ``build`` returns a module (n, p) float32 -> (n, n_embd)."""

    def check(self, positions: Array) -> str:
        """Why these positions (n, p) cannot be embedded, or an empty string."""
        return ""

    def build(self, n_embd: int, pos_width: int) -> nn.Module:
        raise ConfigError(f"position '{self.tag}' has no build()")


class Head(Component, role="head"):
    """hidden state -> answer: ``build`` returns a HeadModule (lom_core.heads)."""

    def build(self, n_embd: int, width: int, vocab_size: int = 0) -> nn.Module:
        raise ConfigError(f"head '{self.tag}' has no build()")


class Source(Protocol):
    """What ``Dataset.build`` returns: records by number."""

    def __getitem__(self, index: int, /) -> Record:
        """Record ``index``; raises BadRecord for one that cannot be used."""
        ...

    def __len__(self) -> int: ...


@runtime_checkable
class Identified(Protocol):
    """A source that tells its records' ids without reading them, as crossmatching by id needs."""

    def ids(self) -> list[str | None]:
        """The name of each record's object; None for one that was not observed."""
        ...


class Dataset(Component, role="dataset"):
    """Where records come from. ``build(registry)`` opens it and returns a Source.

    A data set that is only known by reading it (a stream) returns a
    :class:`lom_core.data.Stream` from ``build``.
    """

    def build(self, registry: ModalityRegistry) -> Source:
        raise ConfigError(f"dataset '{self.tag}' has no build()")

    @classmethod
    def adapt(cls, path: str, target: Any, fields: Mapping[str, Any]) -> Dataset:
        return PythonDataset(target=path, arguments=dict(fields))


class PythonDataset(Dataset, kind="python"):
    """Somebody's own ``torch.utils.data.Dataset``, unchanged.

    Written as ``{kind: my_module:MyDataset, paths: ..., transform: ...}``: everything but the kind
    goes to the constructor, and ``modality_registry`` too where the constructor takes it. Items
    are ready tokens in the flat form ``{"spectra": (n, w), "spectra_positions": (n, p),
    "idx": i}``, optionally with ``"spectra_weights"``, or records for the modalities' tokenisers.
    """

    target: str
    arguments: dict[str, Any] = {}

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.target, **self.arguments}  # as it is written in a run file

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import open_user_dataset

        return open_user_dataset(self.target, self.arguments, registry)


class Objective(Component, role="objective"):
    """From packed rows to a batch: which tokens are shown, which are asked for, and where.

    ``prepare(rows, layouts)`` packs them and sets on each Span ``shown`` and ``asked`` (indices of
    tokens) and ``ask_slots`` (where the question stands; the answer is read from the same slot),
    and on the batch ``given`` (how many leading slots of each observation all see one another). No
    slot may know of a token that is asked for there: ``testing.leaks`` checks it.
    """

    in_turn: ClassVar[bool] = True
    """True: a slot sees what stands before it, and a question stands one slot before what it asks
    for. False: everybody sees everybody, and questions stand in slots of their own."""

    def asks_for(self, name: str) -> bool:
        """Does training ask for this modality, or is it only ever given?"""
        return name not in self.leads

    @property
    def leads(self) -> tuple[str, ...]:
        """Modalities that must stand first in each observation."""
        return ()

    def prepare(self, rows: Sequence[Row], layouts: Mapping[str, Layout]) -> Batch:
        raise ConfigError(f"objective '{self.tag}' has no prepare()")

    def condition(
        self, rows: Sequence[Row], layouts: Mapping[str, Layout], given: Collection[str]
    ) -> Batch:
        """The given modalities are shown, all others asked for: how a trained model is questioned.

        With every modality given nothing is hidden: embeddings are read from that. Rows hold the
        given modalities first. An objective that asks at once needs none of its own; a causal one
        does, and may ask for given tokens, too, as in training.
        """
        if self.in_turn:
            raise ConfigError(f"objective '{self.tag}' has no condition()")
        from lom_core.objectives import masked_but

        return masked_but(rows, layouts, given)


class Tracker(Component, role="tracker"):
    """Where metrics go besides ``metrics.jsonl``: ``build`` starts it and returns a Logger."""

    def build(self, out_dir: str, config: Mapping[str, Any], run_id: str | None) -> Logger:
        raise ConfigError(f"tracker '{self.tag}' has no build()")


class Logger(Protocol):
    """A started tracker."""

    run_id: str | None

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


@runtime_checkable
class PictureLogger(Logger, Protocol):
    """One that shows pictures, too: PNG files of data beside predictions."""

    def picture(self, step: int, name: str, path: str) -> None: ...


ROLES: dict[str, type[Component]] = {
    cls.role: cls for cls in (Tokeniser, Scale, Position, Head, Dataset, Objective, Tracker)
}
