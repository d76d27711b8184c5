"""Music keeps every promise of a modality, is drawn, trained and reported."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lom_midi import ExponentialTime
from lom_midi.datasets import sample_paths
from lom_midi.notes import (
    chosen,
    on_the_piano,
)
from lom_midi.reading import read_midi

from lom_core import (
    ModalityConfig,
    RunConfig,
)
from lom_core.testing import conforms

FILES = [Path(path) for split in ("train", "val") for path in sample_paths(split)]
PIECES = [on_the_piano(read_midi(path.read_bytes()))[0] for path in FILES]


VALUES = [chosen(notes, np.arange(120)) for notes in PIECES[:4]]


@pytest.mark.parametrize("tokeniser", ["exponential", {"kind": "remi", "resolution": 8}])
def test_conforms(tokeniser: Any) -> None:
    for check in conforms({"kind": "midi", "tokeniser": tokeniser}, VALUES):
        check()


def test_importing_is_light() -> None:
    heavy = {"torch", "symusic", "mido", "miditok", "matplotlib"}
    code = f"import sys, lom_midi; print(*({heavy!r} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "\n"
    )


def test_pictures_draw_nonsense_without_warnings() -> None:
    from matplotlib.figure import Figure

    encoder = ExponentialTime().build()
    truth = encoder.decode(encoder.encode(VALUES[0]))
    nothing = {name: np.zeros(0) for name in ("pitch", "velocity", "start", "end")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for predicted in (truth, nothing, {**truth, "end": truth["end"] + 100}):
            figure = Figure(figsize=(7.5, 2.7), layout="constrained")
            ModalityConfig.model_validate({"kind": "midi"}).picture(figure, truth, predicted)
            figure.canvas.draw()


def test_a_run_trains_and_reports(tmp_path: Path) -> None:
    from lom_core.report import write_report
    from lom_core.train import train

    config = RunConfig.model_validate(
        {
            "modalities": {"midi": {"kind": "midi"}},
            "data": {
                "dataset": {"kind": "midi_samples", "notes_per_record": 16},
                "eval": {"val": {"kind": "midi_samples", "split": "val", "notes_per_record": 16}},
                "block_size": 128,
                "batch_size": 2,
            },
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "train": {"max_iters": 2, "eval_iters": 2},
            "system": {"out_dir": str(tmp_path / "run"), "dtype": "float32", "device": "cpu"},
        }
    )
    result = train(config)
    assert 3 < result.metrics["val"]["unigram/midi"] < 5.4
    assert Path(write_report(config.system.out_dir, None, 1)).is_file()


def test_the_modality_reads_its_fields() -> None:
    config = ModalityConfig.model_validate({"kind": "midi", "specials": ["<BACH>"]})
    assert config.vocab_size == 218 and not config.reveal_position
    assert ModalityConfig.model_validate_json(config.model_dump_json()) == config
    assert ModalityConfig.model_validate({"kind": "midi", "tokeniser": "remi"}).vocab_size == 361
    with pytest.raises(ValueError, match="are not those of its tokeniser"):
        ModalityConfig.model_validate({"kind": "midi", "specials": ["<B>"], "tokeniser": "remi"})
    with pytest.raises(ValueError, match="specials must differ"):
        ModalityConfig.model_validate({"kind": "midi", "specials": ["<B>", "<B>"]})
