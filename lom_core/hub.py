"""Hugging Face data sets as a Source; ``datasets`` is imported here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lom_core.data import Stream
from lom_core.errors import ConfigError, DataError, nearest
from lom_core.modality import ModalityRegistry
from lom_core.roles import Record, Source

if TYPE_CHECKING:
    from lom_core.builtin.datasets import Hub


def open_hub(config: Hub, registry: ModalityRegistry) -> Source:
    """Load or stream the data set and check its columns.

    Errors:
        ConfigError: ``datasets`` is not installed, or a column is missing (lists what there is).
        DataError: it cannot be found or reached.
    """
    try:
        import datasets
    except ImportError:
        raise ConfigError("dataset 'hub' needs `pip install lom-core[hub]`") from None
    for name in config.columns:
        registry.get_config(name)
    try:
        loaded = datasets.load_dataset(
            config.path,
            config.name,
            split=config.split,
            revision=config.revision,
            data_files=config.data_files,
            streaming=config.streaming,
        )
    except (OSError, ValueError, LookupError) as error:
        raise DataError(
            f"{config.path} ({config.split}): {' '.join(str(error).split())[:300]}"
        ) from error
    known = loaded.column_names
    for column in _columns(config):
        if known is not None and column not in known:
            raise ConfigError(
                f"{config.path} has no column '{column}'{nearest(column, known)}; "
                f"it has: {', '.join(known)}"
            )
    if config.streaming:
        return Stream(_Opener(loaded, config))
    return HubSource(loaded.with_format("numpy" if _all_numbers(loaded, config) else None), config)


def _columns(config: Hub) -> list[str]:
    found = [config.id_column] if config.id_column else []
    for column in config.columns.values():
        found += column.values() if isinstance(column, Mapping) else [column]
    return found


def _all_numbers(loaded: Any, config: Hub) -> bool:
    """Image features decode to pictures by themselves; everything else is faster as numpy."""
    import datasets

    return not any(isinstance(loaded.features[c], datasets.Image) for c in _columns(config))


def to_record(item: Mapping[str, Any], config: Hub, index: int) -> Record:
    """One row of the data set as a record; a null column is a modality that was not observed."""
    record: dict[str, Any] = {}
    for name, column in config.columns.items():
        if isinstance(column, Mapping):
            value: Any = {field: item[c] for field, c in column.items()}
            value = None if all(v is None for v in value.values()) else value
        else:
            value = item[column]
        if value is not None:
            record[name] = value
    record["id"] = str(item[config.id_column]) if config.id_column else str(index)
    return record


class HubSource:
    """A downloaded or local data set: random access."""

    def __init__(self, loaded: Any, config: Hub) -> None:
        self.loaded, self.config = loaded, config

    def __len__(self) -> int:
        return len(self.loaded)

    def __getitem__(self, index: int) -> Record:
        return to_record(self.loaded[index], self.config, index)


class _Opener:
    """Opens a stream at a record; a class, because workers are sent it."""

    def __init__(self, loaded: Any, config: Hub) -> None:
        self.loaded, self.config = loaded, config

    def __call__(self, start: int) -> Iterable[Record]:
        for index, item in enumerate(self.loaded.skip(start), start=start):
            yield to_record(item, self.config, index)
