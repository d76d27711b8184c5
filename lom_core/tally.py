"""Tally: how many records were read, and what was wrong with those that cannot be used."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from lom_core.errors import BadRecord, TooManyBadRecords

MIN_SEEN = 100  # a fraction of bad records is taken of at least so many


@dataclass
class Tally:
    """What became of the records read: kept in metrics, printed in the summary."""

    seen: int = 0
    cropped: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def n_bad(self) -> int:
        return sum(self.bad.values())

    def note(self, error: BadRecord) -> None:
        self.bad[error.reason] = self.bad.get(error.reason, 0) + 1
        self.examples.setdefault(error.reason, str(error))

    def add(self, other: Tally) -> None:
        self.seen += other.seen
        self.cropped += other.cropped
        for reason, n in other.bad.items():
            self.bad[reason] = self.bad.get(reason, 0) + n
            self.examples.setdefault(reason, other.examples[reason])

    @classmethod
    def of(cls, parts: Iterable[Tally]) -> Tally:
        """What became of all records, from what each rank saw."""
        total = cls()
        for part in parts:
            total.add(part)
        return total

    def check(self, max_bad_fraction: float) -> None:
        """TooManyBadRecords past the cap (of at least MIN_SEEN records)."""
        if self.n_bad > max_bad_fraction * max(self.seen, MIN_SEEN):
            raise self.refusal(f"max_bad_fraction {max_bad_fraction:g}")

    def refusal(self, cap: str) -> TooManyBadRecords:
        worst = max(self.bad, key=lambda reason: self.bad[reason])
        return TooManyBadRecords(
            f"{self.n_bad} of {self.seen} records cannot be used ({cap}), most often: "
            f"{self.examples[worst]}; `lom data validate RUN` lists them all"
        )
