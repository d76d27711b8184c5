"""What a run tells: metrics.jsonl always, the terminal, and whichever trackers were asked for."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Sized
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import yaml
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table

from lom_core.config import RunConfig
from lom_core.data import Reader
from lom_core.errors import DataError, TrainingError
from lom_core.evaluate import Example, trivial_names
from lom_core.model import Lom
from lom_core.pictures import draw_png
from lom_core.progress import Progress
from lom_core.ratios import legend, tell
from lom_core.roles import Logger, PictureLogger, Source
from lom_core.tally import Tally


class Monitor:
    """A context: opens the log and the trackers, closes them whatever happens.

    Args:
        progress: of a checkpoint that is resumed. Lines of the log after its step are dropped, as
            they will be written again, and its trackers go on with their runs.
        main: of many processes one speaks and writes; the others keep silent.
    """

    def __init__(
        self, config: RunConfig, out_dir: Path, progress: Progress, main: bool = True
    ) -> None:
        self.config, self.out_dir, self.main = config, out_dir, main
        self.first, self.max_iters = progress.step, progress.max_iters
        self.run_ids = dict(progress.run_ids)
        self.console = Console(highlight=False, quiet=not main)
        self.is_terminal = self.console.is_terminal
        if not self.is_terminal:
            self.console.width = max(160, self.console.width)  # in a pipe rich assumes 80
        self.began = time.perf_counter()
        self.noted: dict[str, Tally] = {}
        self.trackers: dict[str, Logger] = {}
        self.files: dict[str, TextIO] = {}
        if main:
            self._open()
        self.bar = Bar(
            TextColumn("[bold]step {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            disable=not self.is_terminal or not main,
        )
        self.task: TaskID = self.bar.add_task(
            "train", total=self.max_iters, completed=self.first, text=""
        )

    def _open(self) -> None:
        out_dir, step, config = self.out_dir, self.first, self.config
        try:
            out_dir.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
            (out_dir / "config.yaml").write_text(text, encoding="utf8")
            names = ["metrics", "ledger"] if config.train.ledger else ["metrics"]
            if not config.train.eval_only:  # which adds its lines, and will write no others
                for name in names:
                    _drop_after(out_dir / f"{name}.jsonl", step)
            self.files = {
                name: (out_dir / f"{name}.jsonl").open("a", encoding="utf8") for name in names
            }
        except OSError as error:
            raise DataError(f"cannot write to out_dir={out_dir}: {error.strerror}") from None

    def __enter__(self) -> Self:
        settings = self.config.model_dump(mode="json")
        for t in self.config.logging.trackers if self.main else ():
            self.trackers[t.kind] = t.build(str(self.out_dir), settings, self.run_ids.get(t.kind))
        self.run_ids |= {k: t.run_id for k, t in self.trackers.items() if t.run_id}
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()
        for file in self.files.values():
            with suppress(OSError):  # what a full disk did not take was told as it was written
                file.close()
        for tracker in self.trackers.values():
            tracker.close()

    def introduce(self, model: Lom, source: Source, validation: Mapping[str, Reader]) -> None:
        """One line each: what is trained, and on what."""
        sizes = ", ".join(f"{k} {n:,}" for k, n in model.n_parameters().items())
        self.say(f"model: {sum(model.n_parameters().values()):,} parameters ({sizes})")
        sets = {"train": source, **{name: reader.source for name, reader in validation.items()}}
        self.say("records: " + ", ".join(f"{name} {length(s)}" for name, s in sets.items()))

    def log(self, split: str, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; losses also to the terminal; all of it to the trackers."""
        if not self.main:
            return
        seconds = round(time.perf_counter() - self.began, 3)
        line = {"step": step, "split": split, "seconds": seconds, **metrics}
        _append(self.files["metrics"], line)
        for tracker in self.trackers.values():
            tracker.log(step, {f"{split}/{k}": v for k, v in metrics.items()})
        losses = "  ".join(
            f"{k.removeprefix('loss/')} {v:.4f}"
            for k, v in metrics.items()
            if k.startswith("loss/")
        )
        if split != "train":
            self.say(f"step {step:>6}  {split}: {losses}")
            return
        left = self._left(step)
        text = f"{losses}  {metrics['tokens_per_second']:,.0f} tokens/s  {left} left"
        self.bar.update(self.task, completed=step, text=text)
        if not self.is_terminal:
            self.say(f"step {step:>6}  {text}")

    def note_records(self, step: int, ids: Iterable[list[str]]) -> None:
        """A line of ledger.jsonl for each step, from ``step`` on: the ids of its records."""
        for number, records in enumerate(ids, step):
            if self.main:
                _append(self.files["ledger"], {"step": number, "records": records})

    def draw(self, name: str, step: int, shown: Sequence[Example]) -> None:
        """Held-out objects beside their predictions: PNG files, and to trackers that show them."""
        if not self.main:
            return
        folder = self.out_dir / "pictures"
        folder.mkdir(exist_ok=True)
        drawn: Counter[str] = Counter()
        for example in shown:
            drawn[example.modality] += 1
            key = f"{name}_{example.modality}_{drawn[example.modality]}"
            path = folder / f"{key}_step-{step:08d}.png"
            config = self.config.modalities[example.modality]
            path.write_bytes(draw_png(config, example.truth, example.predicted))
            for tracker in self.trackers.values():
                if isinstance(tracker, PictureLogger):
                    tracker.picture(step, key, str(path))

    def note(self, name: str, tally: Tally) -> None:
        """Remember what became of a validation set's records, for the summary."""
        self.noted[name] = tally

    def summarise(self, metrics: Mapping[str, Mapping[str, float]], tally: Tally) -> None:
        """The last evaluation beside the trivial predictors, and every kind of bad record."""
        self.bar.stop()
        for name, values in metrics.items():
            self.console.print(results_table(name, values))
        for name, found in {"train": tally, **self.noted}.items():
            if found.n_bad:
                self.say(f"{name}: {found.n_bad} of {found.seen} records skipped:")
                for reason, n in sorted(found.bad.items(), key=lambda item: -item[1]):
                    self.say(f"  {n} x {reason}; the first: {found.examples[reason]}")
            if found.cropped:
                self.say(f"{name}: {found.cropped} of {found.seen} records cropped to block_size")
        self.say(f"written to {self.out_dir}")

    def say(self, text: str) -> None:
        if self.is_terminal:
            self.console.print(text, markup=False, emoji=False, soft_wrap=True)
        elif self.main:  # laying a line out takes rich longer than all else that a step adds
            print(text, file=self.console.file, flush=True)

    def _left(self, step: int) -> str:
        done = step - self.first
        seconds = (time.perf_counter() - self.began) / max(done, 1) * (self.max_iters - step)
        return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


def results_table(name: str, metrics: Mapping[str, float]) -> Table:
    """A named set's losses, a modality a row, beside the trivial predictors, the best one first."""
    parts = (f"{name}: mean loss (model units)", legend(metrics))
    table = Table(title="; ".join(filter(None, parts)), title_justify="left")
    table.add_column("modality", no_wrap=True)
    table.add_column("model", justify="right", no_wrap=True)
    table.add_column("in physical units")
    table.add_column("without a model")
    table.add_column("gain on the best", justify="right", no_wrap=True)
    for modality in (k.removeprefix("loss/") for k in metrics if k.startswith("loss/")):
        found = {b: metrics.get(f"{b}/{modality}") for b in trivial_names(metrics)}
        known = sorted((loss, b.replace("_", " ")) for b, loss in found.items() if loss is not None)
        told = ", ".join(f"{b} {loss:.4f}" for loss, b in known)
        loss, gain = (tell(metrics, f"{key}/{modality}") for key in ("loss", "gain"))
        table.add_row(modality, loss, errors(metrics, modality), told, gain)
    return table


def errors(metrics: Mapping[str, float], modality: str) -> str:
    """``rmse 3.21 ± 0.16, r2 0.870 ± 0.012``, or ``accuracy 0.31``."""
    keys = {k: f"{k}/{modality}" for k in ("rmse", "r2", "accuracy")}
    return ", ".join(f"{k} {tell(metrics, key)}" for k, key in keys.items() if key in metrics)


def length(source: Source) -> str:
    """How many records there are, for people; nobody knows it of a stream."""
    return (
        f"{len(source):,}"
        if isinstance(source, Sized) and not hasattr(source, "open_at")
        else "a stream"
    )


def _append(file: TextIO, line: Mapping[str, Any]) -> None:
    try:
        file.write(json.dumps(line) + "\n")
        file.flush()
    except OSError as error:
        raise TrainingError(
            f"cannot write {file.name}: {error.strerror}; init_from=resume goes on"
        ) from None


def _drop_after(path: Path, step: int) -> None:
    """Cut off a log what an interrupted run wrote after its last checkpoint, where it stands: a
    kill or a full disk meanwhile loses none of the rest, however long it is."""
    if not path.exists():
        return
    end = 0
    with path.open("rb+") as file:
        for line in file if step else ():
            try:
                if json.loads(line)["step"] > step or not line.endswith(b"\n"):
                    break
            except ValueError:
                break  # the line that a kill cut short: nothing after it counts
            end += len(line)
        file.truncate(end)
