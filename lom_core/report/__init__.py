"""The report of a run: one HTML file that needs nothing else, and the same pictures as PNGs."""

from __future__ import annotations

from lom_core.report.write import write_report

__all__ = ["write_report"]
