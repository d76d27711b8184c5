"""LOM: train and use transformers on scientific observations of every kind.

    from lom_core import RunConfig
    from lom_core.train import train

    result = train(RunConfig.model_validate({...}))

Importing this package is light: torch comes in with lom_core.train, .model and the like.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lom_core.component import Component
from lom_core.config import RunConfig
from lom_core.errors import (
    BadRecord,
    CheckpointError,
    ConfigError,
    DataError,
    LomError,
    PluginError,
    TrainingError,
    UnknownKind,
)
from lom_core.files import FileDataset
from lom_core.hookspecs import hookimpl
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.plugins import installed_plugins
from lom_core.roles import (
    Dataset,
    Head,
    Objective,
    Position,
    Record,
    Scale,
    Source,
    Tokeniser,
    Tokens,
    Tracker,
)

if TYPE_CHECKING:
    from lom_core.api import load

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``lom_core.load`` brings torch in when it is first asked for."""
    if name == "load":
        from lom_core.api import load

        return load
    raise AttributeError(f"module 'lom_core' has no attribute '{name}'")


__all__ = [
    "BadRecord",
    "CheckpointError",
    "Component",
    "ConfigError",
    "DataError",
    "Dataset",
    "FileDataset",
    "Head",
    "LomError",
    "ModalityConfig",
    "ModalityRegistry",
    "Objective",
    "PluginError",
    "Position",
    "Record",
    "RunConfig",
    "Scale",
    "Source",
    "Tokeniser",
    "Tokens",
    "Tracker",
    "TrainingError",
    "UnknownKind",
    "hookimpl",
    "installed_plugins",
    "load",
]
