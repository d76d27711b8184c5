"""piano_tasks: records of a prompt and an answer, to be trained with the prefix objective."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import numpy as np
from pydantic import Field, field_validator, model_validator

from lom_core import (
    BadRecord,
    ConfigError,
    Dataset,
    ModalityConfig,
    ModalityRegistry,
    Record,
    Source,
)
from lom_core.seeds import mix
from lom_midi.notes import COLUMNS, Notes, as_notes, on_the_piano
from lom_midi.tasks import ANSWER, Task, find_tasks


def task_tokens(names: Iterable[str] = ()) -> tuple[str, ...]:
    """Special tokens of these tasks, of all of them by default, for a tokeniser's ``specials``.

    Errors:
        ConfigError: no such task.
    """
    return tuple(task.token for task in find_tasks(names))


class PianoTasks(Dataset, kind="piano_tasks"):
    """Each record of another data set as each of several tasks: a prompt, and the answer to it.

    Train with ``objective: {kind: prefix, given: [prompt]}``: the prompt's notes all see one
    another, the answer is predicted event by event, and only the answer counts. Record i is task
    i % n_tasks of record i // n_tasks; its prompt begins with the task's special token, its answer
    with ``<GENAI>``. What a task draws depends on the seed, on the number of the record that it is
    set on and on its own name alone.

    Where a task cannot be set, such as ``loud`` on a quiet piece, the next one that can takes its
    place; the record's id tells which. Prompt and answer keep one clock, ``origin``: that of the
    earlier of the two.

    Args:
        of: the data set of notes.
        source_modality: under which its records hold them.
        tasks: names; all of them by default (lom_midi.tasks.TASKS).
        notes_per_record: notes of the window that a task is set on, drawn by seed; 0 takes all.
        prompt, answer: names of two modalities of the run, whose tokeniser lists the tokens in its
            ``specials``, as that of kind ``midi`` does.
    """

    of: Dataset
    source_modality: str = "midi"
    tasks: tuple[str, ...] = ()
    notes_per_record: int = Field(default=128, ge=0)
    seed: int = 0
    prompt: str = "prompt"
    answer: str = "answer"

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: tuple[str, ...]) -> tuple[str, ...]:
        find_tasks(tasks)
        if len(set(tasks)) < len(tasks):
            raise ConfigError(f"tasks must differ: {', '.join(tasks)}; kind concat repeats records")
        return tasks

    @model_validator(mode="after")
    def _two(self) -> PianoTasks:
        if self.prompt == self.answer:
            raise ConfigError(f"prompt and answer are both '{self.prompt}': name two")
        return self

    def build(self, registry: ModalityRegistry) -> Source:
        prompt, answer = registry.get_config(self.prompt), registry.get_config(self.answer)
        tasks = find_tasks(self.tasks)
        _check_specials(prompt, [task.token for task in tasks])
        _check_specials(answer, [ANSWER])
        view = ModalityRegistry([prompt.model_copy(update={"name": self.source_modality})])
        return TaskSource(self, tasks, self.of.build(view))


def _check_specials(config: ModalityConfig, needed: list[str]) -> None:
    """ConfigError where a tokeniser would not know the tokens that piano_tasks puts first."""
    listed = getattr(config.tokeniser, "specials", None)
    if listed is None:
        raise ConfigError(
            f"piano_tasks needs special tokens, which tokeniser '{config.tokeniser.tag}' of "
            f"modality '{config.name}' cannot list; 'exponential' can"
        )
    missing = [token for token in needed if token not in listed]
    if missing:
        raise ConfigError(
            f"piano_tasks needs {', '.join(missing)} among the specials of modality "
            f"'{config.name}', which are: {', '.join(listed) or 'none'}; "
            "lom_midi.task_tokens() gives those of all tasks"
        )


class TaskSource:
    """Record i: task i % n of record i // n of another source."""

    def __init__(self, config: PianoTasks, tasks: list[Task], source: Source) -> None:
        self.config, self.tasks, self.source = config, tasks, source

    def __len__(self) -> int:
        return len(self.source) * len(self.tasks)

    def __getitem__(self, index: int) -> Record:
        number, which = divmod(range(len(self))[index], len(self.tasks))
        record = self.source[number]
        piece = record.get("id", number)
        value = record.get(self.config.source_modality)
        if value is None:
            return {"id": str(piece)}
        for wanted in (*self.tasks[which:], *self.tasks[:which]):
            # By the task's name: what one task draws does not depend on which others there are.
            rng = np.random.default_rng(mix(self.config.seed, number, crc32(wanted.name.encode())))
            try:
                notes = self.window(value, rng)
            except BadRecord as error:
                where = piece if error.file is None else error.file
                raise BadRecord(
                    error.reason, file=where, row=error.row, detail=error.detail
                ) from error
            try:
                prompt, answer = wanted(notes, rng)
            except BadRecord:
                continue  # it does not fit these notes
            origin = float(min(prompt["start"].min(), answer["start"].min()))
            return {
                self.config.prompt: {**prompt, "specials": [wanted.token], "origin": origin},
                self.config.answer: {**answer, "specials": [ANSWER], "origin": origin},
                "id": f"{piece}~{wanted.name}",
            }
        told = f"of {', '.join(task.name for task in self.tasks)}"
        raise BadRecord("no piano task that fits the notes", file=piece, detail=told[:200])

    def window(self, value: object, rng: np.random.Generator) -> Notes:
        """The notes of a window that is drawn: the four columns alone."""
        notes, _ = on_the_piano(as_notes(value))
        n, size = len(notes["pitch"]), self.config.notes_per_record
        which = np.arange(n)
        if size and n > size:
            which = which[:size] + int(rng.integers(0, n - size + 1))
        return {name: notes[name][which] for name in COLUMNS}
