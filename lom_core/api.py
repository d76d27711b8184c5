"""A trained model to ask: ``model = lom_core.load("logs/demo")``."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch

from lom_core.checkpoint import find, load_model
from lom_core.config import RunConfig
from lom_core.data import Reader
from lom_core.device import pick_device
from lom_core.modality import ModalityRegistry
from lom_core.model import Lom
from lom_core.roles import Encoder
from lom_core.sources import ListSource


class LargeObservationModel:
    """A trained model with all that it needs to read observations and to answer in their units.

    Args:
        lom: the network, with its fitted scales, in evaluation mode.
        config: the run that it was trained in.
        checkpoint: the folder that it came from.
    """

    def __init__(self, lom: Lom, config: RunConfig, checkpoint: Path) -> None:
        self.lom, self.config, self.checkpoint = lom, config, checkpoint

    @property
    def modalities(self) -> ModalityRegistry:
        """The configs of the modalities that it knows, by name."""
        return self.lom.registry

    @property
    def device(self) -> torch.device:
        return self.lom.bos.device

    @cached_property
    def reader(self) -> Reader:
        """Turns records into tokens: ``reader.tokens(record)``; ``.over(source)`` for more."""
        return Reader(
            ListSource([]),
            self.modalities,
            self.config.data.block_size,
            leads=self.config.objective.leads,
        )

    @property
    def encoders(self) -> dict[str, Encoder]:
        """``encode`` and ``decode`` of each modality."""
        return self.reader.encoders

    def __repr__(self) -> str:
        return f"LargeObservationModel({', '.join(self.modalities.names())}; {self.checkpoint})"


def load(path: str | Path, device: str | None = None) -> LargeObservationModel:
    """The model of a checkpoint, or of a run's folder (its best checkpoint).

    Args:
        device: "cpu", "cuda" ...; that of the run if None ("auto": a GPU where there is one).

    Errors:
        CheckpointError: there is none, it is damaged, or it needs a plugin that is not installed.
        ConfigError: no such device.
    """
    checkpoint = find(path)
    lom, config, _ = load_model(checkpoint)
    system = (
        config.system if device is None else config.system.model_copy(update={"device": device})
    )
    return LargeObservationModel(lom.to(pick_device(system)), config, checkpoint)
