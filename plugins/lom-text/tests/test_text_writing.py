"""Generated text is a file in UTF-8; where tokens stand follows from their number."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lom_core import ModalityConfig
from lom_core.roles import SequenceEncoder


def test_written_text_is_read_back(tmp_path: Path) -> None:
    config = ModalityConfig.model_validate("text")
    path = config.write("Å and ☉\n", tmp_path / "text-q1.5")
    assert path.name == "text-q1.5.txt" and path.read_text(encoding="utf8") == "Å and ☉\n"


def test_places_follow_from_contents() -> None:
    encoder = ModalityConfig.model_validate("text").tokeniser.build()
    tokens = encoder.encode("a supernova")
    assert isinstance(encoder, SequenceEncoder) and tokens.content[-1] == encoder.end
    np.testing.assert_array_equal(encoder.places(tokens.content), tokens.positions)
