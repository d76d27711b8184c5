"""Loss curves per modality, from metrics.jsonl."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from lom_core.errors import DataError
from lom_core.evaluate import trivial_names
from lom_core.ratios import half_width

Lines = list[dict[str, Any]]
BLUE, DARK = "#9ec5fe", "#0b5ed7"
LEVELS = ("#d9822b", "#6b7280", "#2e8b57", "#8b5fbf")


def read_metrics(out_dir: Path) -> Lines:
    """The lines of metrics.jsonl; DataError where there are none."""
    path = out_dir / "metrics.jsonl"
    if not path.is_file():
        raise DataError(f"no {path}; a report is made of a run's out_dir")
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


def draw_curves(lines: Lines, modality: str) -> Any:
    """Training and validation loss over steps, the latter in its 95% interval over records, the
    trivial predictors as level lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.subplots()
    series: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for line in lines:
        if f"loss/{modality}" in line:
            key = f"loss/{modality}"
            series[line["split"]].append((line["step"], line[key], half_width(line, key) or 0))
    for split, points in series.items():
        steps, losses, halves = np.array(points).T
        if split == "train":
            axes.plot(steps, losses, color=BLUE, lw=1.2, label="training")
        else:
            axes.plot(steps, losses, "o-", color=DARK, lw=1.6, ms=3.5, label=f"held out ({split})")
            if halves.any():
                low, high, told = losses - halves, losses + halves, "its 95% over records"
                axes.fill_between(steps, low, high, color=DARK, alpha=0.12, lw=0, label=told)
    levels = {}
    for line in lines:
        if line["split"] != "train":
            levels.update(
                {b: line[k] for b in trivial_names(line) if (k := f"{b}/{modality}") in line}
            )
    for (baseline, loss), colour in zip(levels.items(), cycle(LEVELS), strict=False):
        axes.axhline(loss, color=colour, lw=1.1, ls="--", label=baseline.replace("_", " "))
    axes.set_xlabel("step")
    axes.set_ylabel("loss (model units)")
    axes.set_title(modality, loc="left", fontweight="bold")
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8)
    return figure
