"""Data sets made of others, and Hugging Face's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lom_core.errors import ConfigError, DataError
from lom_core.modality import ModalityRegistry
from lom_core.roles import Dataset, Source


class Crossmatch(Dataset, kind="crossmatch"):
    """Several data sets of the same objects, read side by side.

    ``{kind: crossmatch, of: {images: {kind: galaxy_files, ...}, spectra: {...}}}``. By ``row``
    (the default), record i is all their records i; a data set that did not observe object i (an
    empty line or ``-`` in its path list) adds nothing to it. By ``id``, a record is what they hold
    of one id: the name of a file without its ending, a table's ``id_column``, the
    ``object_column`` of light curves. An object that only some of them hold has only that.

    Errors:
        DataError: before training starts, for lengths that differ, or the same ids in another
            order; by ``id``, for an id that one of them has twice, or if no two share any.
    """

    of: dict[str, Dataset] = Field(min_length=1)
    by: Literal["row", "id"] = "row"

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import CrossmatchSource

        parts = {name: part.build(registry) for name, part in self.of.items()}
        return CrossmatchSource(parts, self.by)


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


class Table(Dataset, kind="table"):
    """Columns of a CSV file: labels and numbers, a row an object.

    ``{kind: table, path: labels.csv, columns: {redshift: Z}}``; crossmatch it with the files that
    the rows stand for. An empty cell, ``nan``, ``null``, ``-`` or ``--`` is a modality that
    was not observed.

    Args:
        path: the file; its first line names the columns.
        columns: modality -> column.
        id_column: where records' ids stand; their number otherwise.
        where: only rows with these values: ``{split: train}``.
    """

    path: str
    columns: dict[str, str] = Field(min_length=1)
    id_column: str | None = None
    where: dict[str, str] = {}

    def build(self, registry: ModalityRegistry) -> Source:
        from lom_core.sources import open_table

        for name in self.columns:
            registry.get_config(name)
        return open_table(self.path, self.columns, self.id_column, self.where)


class Unavailable(Dataset, kind="unavailable"):
    """Stands in a checkpoint's config for a data set whose plugin is not installed here.

    Args:
        reason: what opening it says.
    """

    reason: str

    def build(self, registry: ModalityRegistry) -> Source:
        raise DataError(self.reason)


class Concat(Dataset, kind="concat"):
    """The records of several data sets as one: ``{kind: concat, of: {galaxies: {...}, ...}}``.

    Args:
        of: data sets by a name of your choice, which prefixes their records' ids.
        times: how often an epoch holds each, by that name; 1 where left out.
    """

    of: dict[str, Dataset] = Field(min_length=1)
    times: dict[str, Annotated[int, Field(ge=0)]] = {}

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
