"""LOM: train and use transformers on scientific observations of every kind.

    from lom_core import ModalityConfig, ModalityRegistry, RunConfig, train

Importing this package is light: torch comes in with the first thing that needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lom_core.component import Component
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

__version__ = "0.1.0"
