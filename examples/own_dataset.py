"""A data set of one's own: a plain torch Dataset that hands over ready tokens.

``kind: own_dataset:SpectrumStack`` in a run file constructs it with the fields beside the kind.
Each item holds content (n, w), positions (n, p) and weights (n, w) for the modality ``spectra``.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import numpy as np
import torch
from astropy.io import fits
from torch.utils.data import Dataset

from lom_core import ModalityRegistry


class SpectrumStack(Dataset[dict[str, Any]]):
    """The rows of an HDU FLUX over one HDU WAVELENGTH; without a file, those lom-spectra ships."""

    def __init__(self, modality_registry: ModalityRegistry, file: str | None = None) -> None:
        self.patch = modality_registry.get_config("spectra").patch_size
        shipped = resources.files("lom_spectra") / "samples" / "supernovae_train.fits"
        with fits.open(file or str(shipped), memmap=False) as hdus:
            self.wavelength = hdus["WAVELENGTH"].data.astype(np.float32) * 1e-4  # micron
            self.flux = hdus["FLUX"].data.astype(np.float32)

    def __len__(self) -> int:
        return len(self.flux)

    def __getitem__(self, index: int) -> dict[str, Any]:
        n = len(self.wavelength) // self.patch * self.patch
        flux = torch.from_numpy(self.flux[index, :n]).reshape(-1, self.patch)
        wavelength = torch.from_numpy(self.wavelength[:n]).reshape(-1, self.patch)
        return {
            "spectra": flux,
            "spectra_positions": wavelength.mean(dim=1),
            "spectra_weights": flux.isfinite().float(),  # NaN = not observed
            "idx": index,
        }
