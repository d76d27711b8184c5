"""The core's own kinds: configs only, registered through the same hook as a plugin's."""

from __future__ import annotations

from collections.abc import Callable

from lom_core.builtin.datasets import Concat, Crossmatch, Hub, Table, Unavailable
from lom_core.builtin.parts import (
    MLP,
    Arcsinh,
    Categorical,
    Fourier,
    Gaussian,
    Huber,
    Identity,
    Index,
    Log,
    Mixture,
    Quantile,
    StudentT,
    ZScore,
)
from lom_core.builtin.tokenisers import Category, OneLabel, OneNumber, Ready, Scalar
from lom_core.builtin.training import (
    AnyOrder,
    Codecarbon,
    Masked,
    NextToken,
    Prefix,
    Tensorboard,
    Wandb,
)
from lom_core.component import Component
from lom_core.hookspecs import hookimpl
from lom_core.modality import ModalityConfig
from lom_core.roles import PythonDataset


@hookimpl
def lom_register(register: Callable[[type[Component]], None]) -> None:
    for cls in (
        *(ModalityConfig, Scalar, Category),
        *(Ready, OneNumber, OneLabel),
        *(Identity, ZScore, Arcsinh, Log),
        *(Index, Fourier, MLP),
        *(Huber, Gaussian, StudentT, Mixture, Quantile, Categorical),
        *(PythonDataset, Crossmatch, Concat, Table, Hub, Unavailable),
        *(NextToken, Masked, AnyOrder, Prefix),
        Wandb,
        Tensorboard,
        Codecarbon,
    ):
        register(cls)


__all__ = [
    "MLP",
    "AnyOrder",
    "Arcsinh",
    "Categorical",
    "Category",
    "Codecarbon",
    "Concat",
    "Crossmatch",
    "Fourier",
    "Gaussian",
    "Hub",
    "Huber",
    "Identity",
    "Index",
    "Log",
    "Masked",
    "Mixture",
    "NextToken",
    "OneLabel",
    "OneNumber",
    "Prefix",
    "Quantile",
    "Ready",
    "Scalar",
    "StudentT",
    "Table",
    "Tensorboard",
    "Unavailable",
    "Wandb",
    "ZScore",
    "lom_register",
]
