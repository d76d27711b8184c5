"""Signals that ask a run to end: it finishes the step, saves, and leaves."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

# SIGUSR1 is what Slurm sends with `--signal=USR1@120`, before it ends a job.
ASKING = ("SIGINT", "SIGTERM", "SIGUSR1")


@dataclass
class Signals:
    """Whether one has come."""

    asked: bool = False


@contextmanager
def noted_signals() -> Iterator[Signals]:
    """Such a signal is noted; a second SIGINT, of a person at a keyboard, interrupts at once.

    Not a second SIGTERM: where Slurm asks all processes, torchrun asks its own ones once more.
    """
    signals = Signals()

    def note(number: int, frame: FrameType | None) -> None:
        if signals.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        signals.asked = True

    # Only the main thread may handle signals; elsewhere they do what they always did.
    main = threading.current_thread() is threading.main_thread()
    numbers = [getattr(signal, name) for name in ASKING if main and hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
