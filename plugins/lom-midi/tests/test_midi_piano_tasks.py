"""piano_tasks: records of prompts and answers, on one clock, from any other data set."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from lom_midi.notes import as_notes
from lom_midi.task_kinds import PianoTasks, task_tokens
from lom_midi.tasks import TASKS
from pydantic import ValidationError

from lom_core import BadRecord, ConfigError, Dataset, ModalityConfig, ModalityRegistry, Record
from lom_core.testing import installed

COLUMNS = ("pitch", "velocity", "start", "end")


def piece(*cells: tuple[float, ...]) -> dict[str, Any]:
    """Notes of rows (pitch, velocity, start, end)."""
    return as_notes(dict(zip(COLUMNS, np.array(cells, dtype=float).T, strict=True)))


def rows(notes: dict[str, Any]) -> list[tuple[float, ...]]:
    return [tuple(map(float, row)) for row in zip(*(notes[c] for c in COLUMNS), strict=True)]


# -------------------------------------------------------------------------------- the data set


class Memory:
    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def long_piece(n: int, seed: int = 0) -> dict[str, Any]:
    """From 10 s on, one note and three at once in turn, of all pitches, velocities and lengths."""
    rng = np.random.default_rng(seed)
    start = 10 + 0.25 * (np.arange(n) // 4 * 2 + (np.arange(n) % 4 > 0))
    cells = (
        rng.integers(30, 100, n),
        rng.integers(1, 128, n),
        start,
        start + rng.uniform(0.05, 1, n),
    )
    return piece(*zip(*cells, strict=True))


RECORDS: list[Record] = [
    {"midi": {**long_piece(300), "specials": ["<BACH>"], "tempos": [[0, 90]]}, "id": "a"},
    {"midi": long_piece(10, 1)},
    {"id": "c"},
    {"midi": {"pitch": [1]}, "id": "d"},
    {"midi": {**long_piece(4), "pitch": [5, 6, 7, 120]}, "id": "e"},
]
PARTLY = {**long_piece(40, 2), "pitch": [20, 60, 70, 109] * 10}


class InMemory(Dataset, kind="in_memory_pieces"):
    modality: str = "midi"

    def build(self, registry: ModalityRegistry) -> Any:
        assert registry.get_config(self.modality).name == self.modality
        return Memory(
            [{self.modality if k == "midi" else k: v for k, v in r.items()} for r in RECORDS]
        )


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    import lom_midi

    from lom_core.component import KINDS

    mine: list[Any] = []
    lom_midi.lom_register(mine.append)
    known = {(role, kind) for role, kind, _ in KINDS.items()}
    new = [cls for cls in mine if (cls.role, cls.kind) not in known]
    with installed(InMemory, *new):
        yield


def registry(**specials: list[str]) -> ModalityRegistry:
    both = {"prompt": ["<END>", *task_tokens()], "answer": ["<GENAI>", "<END>"], **specials}
    return ModalityRegistry(
        [
            ModalityConfig.model_validate({"kind": "midi", "name": name, "specials": listed})
            for name, listed in both.items()
        ]
    )


def data(**fields: Any) -> Any:
    of = {"kind": "in_memory_pieces"}
    return Dataset.model_validate({"kind": "piano_tasks", "of": of, **fields})


def test_records() -> None:
    names = ["continuation", "denoise_all"]
    source = data(tasks=names).build(registry())
    assert len(source) == 10
    for i, name in enumerate(names):
        record = source[i]
        assert set(record) == {"prompt", "answer", "id"}
        assert record["id"] == f"a~{name}"
        assert record["prompt"]["specials"] == [f"<{name.upper()}>"]
        assert record["prompt"]["origin"] == record["answer"]["origin"]
        assert record["answer"]["specials"] == ["<GENAI>"]
        assert set(record["prompt"]) == {*COLUMNS, "specials", "origin"}
    first, second = source[0]["prompt"], source[0]["answer"]
    window = sorted(rows(first) + rows(second), key=lambda row: row[2])
    everything = rows(RECORDS[0]["midi"])
    at = everything.index(window[0])
    assert at > 0 and window == everything[at : at + 128]  # on the piece's own clock
    assert source[2]["id"] == "1~continuation"  # the number of a record without an id
    assert len(source[2]["answer"]["pitch"]) == 5
    assert source[-8]["id"] == source[2]["id"]
    with pytest.raises(IndexError):
        source[10]
    assert len(data().build(registry())) == 5 * len(TASKS)


def test_what_is_drawn_depends_on_seed_record_and_task_alone() -> None:
    def prompts(**fields: Any) -> list[Any]:
        source = data(**fields).build(registry())
        return [rows(source[i]["prompt"]) for i in range(len(source) * 2 // 5)]

    one = prompts(tasks=["denoise_all"])
    assert one == prompts(tasks=["denoise_all"])
    assert one == prompts(tasks=["loud", "denoise_all", "soft"])[1::3]
    assert one[0] != prompts(tasks=["denoise_all"], seed=1)[0]
    starts = {prompts(tasks=["performance"], seed=seed)[0][0][2] for seed in range(20)}
    assert len(starts) > 10  # windows differ


def test_windows() -> None:
    for size, n in ((16, 16), (0, 300), (300, 300), (1000, 300)):
        record = data(tasks=["performance"], notes_per_record=size).build(registry())[0]
        assert len(record["answer"]["pitch"]) == n


def test_a_window_is_of_the_keys_of_a_piano() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "RECORDS", [{"midi": PARTLY}])
        answer = data(tasks=["performance"], notes_per_record=16).build(registry())[0]["answer"]
    assert answer["pitch"].tolist() in ([60, 70] * 8, [70, 60] * 8)


def test_bad_records() -> None:
    source = data(tasks=["loud"]).build(registry())
    assert source[2] == {"id": "c"}  # was not observed
    with pytest.raises(BadRecord, match="d: no notes"):
        source[3]
    with pytest.raises(BadRecord, match="e: no piano task that fits the notes"):
        source[4]  # none on the keys of a piano


def test_a_task_that_does_not_fit_gives_way_to_the_next() -> None:
    quiet = {**long_piece(40, 2), "velocity": [30] * 40}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "RECORDS", [{"midi": quiet, "id": "q"}])
        source = data(tasks=["performance", "loud", "very_loud", "chords"]).build(registry())
        ids = [source[i]["id"] for i in range(len(source))]
    assert ids == ["q~performance", "q~chords", "q~chords", "q~chords"]


def test_prompt_and_answer_keep_one_clock_in_their_tokens() -> None:
    source = data(tasks=["right_hand"], notes_per_record=0).build(registry())
    record, modalities = source[0], registry()
    starts = []
    for name in ("prompt", "answer"):
        encoder = modalities.get_config(name).tokeniser.build()
        back = encoder.decode(encoder.encode(record[name]))
        assert (
            np.abs(back["start"] + record[name]["origin"] - record[name]["start"]).max() <= 0.0051
        )
        starts.append(back["start"][0])
    assert min(starts) == 0 and max(starts) > 0


def test_other_names() -> None:
    fields = {"source_modality": "music", "prompt": "question", "answer": "reply"}
    listed = {"question": ["<LOUD>"], "reply": ["<GENAI>"]}
    of = {"kind": "in_memory_pieces", "modality": "music"}
    source = data(of=of, tasks=["loud"], **fields).build(registry(**listed))
    assert set(source[0]) == {"question", "reply", "id"}


def test_configuration_mistakes() -> None:
    with pytest.raises(
        ValidationError, match=r"no piano task 'lod'; did you mean 'loud'\?; there are: ab"
    ):
        data(tasks=["lod"])
    with pytest.raises(ValidationError, match="tasks must differ: loud, loud"):
        data(tasks=["loud", "loud"])
    with pytest.raises(ValidationError, match="prompt and answer are both 'midi'"):
        data(prompt="midi", answer="midi")
    with pytest.raises(ConfigError, match="unknown modality 'promt'; did you mean 'prompt'"):
        data(prompt="promt").build(registry())
    with pytest.raises(ConfigError, match=r"needs <LOUD> among the specials of modality 'prompt'"):
        data(tasks=["loud"]).build(registry(prompt=["<SOFT>"]))
    with pytest.raises(ConfigError, match=r"needs <GENAI> among .*'answer', which are: none"):
        data(tasks=["loud"]).build(registry(answer=[]))
    ready = [{"name": n, "vocab_size": 9} for n in ("prompt", "answer")]
    with pytest.raises(ConfigError, match="tokeniser 'ready' of modality 'prompt' cannot list"):
        data().build(ModalityRegistry([ModalityConfig.model_validate(c) for c in ready]))


def test_a_config_comes_back() -> None:
    config = data(tasks=["loud", "soft"], seed=3)
    assert isinstance(config, PianoTasks)
    assert Dataset.model_validate(config.model_dump()) == config
    assert Dataset.model_validate_json(config.model_dump_json()) == config
    assert pickle.loads(pickle.dumps(config)) == config
    source = config.build(registry())
    again = pickle.loads(pickle.dumps(source))
    assert rows(again[1]["prompt"]) == rows(source[1]["prompt"])


@pytest.mark.parametrize("name", list(TASKS))
def test_records_become_tokens(name: str) -> None:
    """Of the plugin's own tokeniser, with the special token first."""
    modalities = registry()
    source = data(tasks=[name], notes_per_record=64).build(modalities)
    record = source[0]
    for part in ("prompt", "answer"):
        encoder = modalities.get_config(part).tokeniser.build()
        tokens = encoder.encode(record[part])
        found = encoder.decode(tokens)
        assert found["specials"] == list(record[part]["specials"])
        assert 0 < len(found["pitch"]) <= len(record[part]["pitch"])


def test_the_loss_is_on_the_answer(tmp_path: Any) -> None:
    """Trained as the docstring says, on the records that fit, with the prompt only given."""
    from lom_core.config import RunConfig
    from lom_core.train import train

    pieces = {"kind": "in_memory_pieces"}
    tasks = {"kind": "piano_tasks", "of": pieces, "tasks": ["right_hand"], "notes_per_record": 16}
    config = RunConfig.model_validate(
        {
            "modalities": [
                {"kind": "midi", "name": "prompt", "specials": ["<END>", *task_tokens()]},
                {"kind": "midi", "name": "answer"},
            ],
            "data": {
                "dataset": tasks,
                "eval": {"val": tasks},
                "block_size": 256,
                "batch_size": 2,
                "max_bad_fraction": 1.0,
            },
            "objective": {"kind": "prefix", "given": ["prompt"]},
            "model": {"n_layer": 1, "n_head": 1, "n_embd": 16},
            "optimizer": {"warmup_iters": 1, "lr_decay_iters": 2},
            "train": {"max_iters": 2, "eval_interval": 2, "log_interval": 1},
            "system": {"out_dir": str(tmp_path / "run"), "dtype": "float32", "device": "cpu"},
        }
    )
    metrics = train(config).metrics["val"]
    assert np.isfinite(metrics["loss/answer"])
    assert "loss/prompt" not in metrics
