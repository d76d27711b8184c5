"""The data that a verb is given by name: a set of the run, or a file that describes one."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from lom_core.config import RunConfig
from lom_core.errors import ConfigError, nearest
from lom_core.loader import open_sources
from lom_core.roles import Dataset, Source
from lom_core.runfile import describe_errors, read_yaml


def open_named(config: RunConfig, data: str) -> Source:
    """Records of a data set.

    Args:
        data: ``train`` or the name of a validation set of the run; or a ``.yaml`` file with a data
            set as run files write it: ``{kind: galaxy_files, paths: new.txt}``.

    Errors:
        ConfigError: neither; lists the run's sets.
        DataError: it cannot be opened.
    """
    if data.endswith((".yaml", ".yml")):
        return _read(Path(data)).build(config.registry)
    train, named = open_sources(config.data, config.registry, config.train.seed)
    known = {"train": train, **named}
    if data not in known:
        raise ConfigError(
            f"no data set '{data}'{nearest(data, known)}; this run has {', '.join(known)}, or give "
            "a .yaml file with a data set: {kind: ..., paths: ...}"
        )
    return known[data]


def _read(path: Path) -> Dataset:
    try:
        tree = read_yaml(path.read_text(encoding="utf8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    try:
        return Dataset.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{path}: {describe_errors(error, tree)}") from None
