"""Gather a run's curves, numbers and held-out examples into report.html and PNG files."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from lom_core.checkpoint import find, load_model
from lom_core.config import RunConfig
from lom_core.evaluate import (
    Example,
    Metrics,
    evaluate,
    examples,
    trivial_names,
    validation_readers,
)
from lom_core.model import Lom
from lom_core.monitor import errors
from lom_core.pictures import draw_png, png
from lom_core.ratios import legend, tell
from lom_core.report.curves import draw_curves, read_metrics
from lom_core.tally import Tally


def write_report(path: str | Path, out: str | Path | None = None, n_objects: int = 6) -> Path:
    """Write the report of a run, or of one of its checkpoints.

    Args:
        path: a run's ``out_dir`` (its best checkpoint is shown) or a checkpoint.
        out: the folder to write to; ``report`` in the run's folder by default.
        n_objects: held-out objects of each modality to draw.

    Returns:
        The path of ``report.html``; the PNG files lie beside it.

    Errors:
        CheckpointError, DataError: there is nothing to report on.
    """
    checkpoint = find(path)
    out_dir = checkpoint.parent.parent
    target = Path(out) if out else out_dir / "report"
    target.mkdir(parents=True, exist_ok=True)
    model, config, state = load_model(checkpoint)
    lines = read_metrics(out_dir)
    sections = []
    for name, reader in validation_readers(config)[1].items():
        metrics, tally = evaluate(model, reader, config, config.train.eval_iters)
        parts = (f"{tally.seen - tally.n_bad} records", legend(metrics))
        sections.append(_heading(f"Held-out set “{name}”", "; ".join(filter(None, parts))))
        sections.append(_numbers(metrics))
        for example_set in _by_modality(examples(model, reader, config, n_objects), config).items():
            sections.append(_examples(*example_set, config, target, name))
    curves = [
        _figure(png(draw_curves(lines, m)), target / f"loss_{m}.png", m) for m in config.modalities
    ]
    page = _page(config, state, model, "".join(curves), "".join(sections))
    report = target / "report.html"
    report.write_text(page, encoding="utf8")
    return report


def _by_modality(found: Any, config: RunConfig) -> dict[str, list[Example]]:
    grouped: dict[str, list[Example]] = {name: [] for name in config.modalities}
    for example in found:
        grouped[example.modality].append(example)
    return {name: group for name, group in grouped.items() if group}


def _examples(name: str, group: list[Example], config: RunConfig, target: Path, split: str) -> str:
    shown = []
    for i, example in enumerate(group):
        picture = draw_png(config.modalities[name], example.truth, example.predicted)
        shown.append(_figure(picture, target / f"{split}_{name}_{i}.png", example.id))
    how = _HOW.get(config.objective.kind, "Each token predicted as the objective asks.")
    return f"<h3>{_e(name)}</h3><p class=note>{_e(how)}</p><div class=grid>{''.join(shown)}</div>"


_HOW = {
    "next_token": "Input, prediction and residual in physical units. Each token is predicted from "
    "the tokens before it in the same object; the first from nothing.",
    "masked": "Input, prediction and residual in physical units. Hidden tokens are predicted from "
    "the visible ones; visible tokens are shown as they are.",
}


def _figure(picture: bytes, path: Path, caption: str) -> str:
    """Save the PNG and return it as an inline figure."""
    path.write_bytes(picture)
    data = base64.b64encode(picture).decode()
    return (
        f'<figure><img alt="{_e(caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_e(caption)}</figcaption></figure>"
    )


def _numbers(metrics: Metrics) -> str:
    """A table of losses; the lowest of each row is set in bold. How sure the model's is, its gain
    tells best: there what the records share with a predictor is gone."""
    keys = {"loss": "this model", **{b: b.replace("_", " ") for b in trivial_names(metrics)}}
    head = "".join(f"<th>{_e(label)}</th>" for label in keys.values())
    rows = []
    for name in (k.removeprefix("loss/") for k in metrics if k.startswith("loss/")):
        values = [metrics.get(f"{key}/{name}") for key in keys]
        best = min(v for v in values if v is not None)
        cells = "".join(
            f"<td{' class=best' if v == best else ''}>{'' if v is None else f'{v:.4f}'}</td>"
            for v in values
        )
        told = (tell(metrics, f"gain/{name}"), errors(metrics, name))
        cells += "".join(f"<td>{_e(text)}</td>" for text in told)
        rows.append(f"<tr><th>{_e(name)}</th>{cells}</tr>")
    return (
        f"<table><thead><tr><th>mean loss, model units</th>{head}<th>gain on the best</th>"
        "<th>in physical units</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _page(config: RunConfig, state: Mapping[str, Any], model: Lom, curves: str, body: str) -> str:
    style = resources.files("lom_core.report").joinpath("style.css").read_text(encoding="utf8")
    tally = Tally(**state["tally"])
    facts = {
        "parameters": f"{sum(model.n_parameters().values()):,}",
        "modalities": ", ".join(config.modalities),
        "objective": config.objective.tag,
        "step": f"{state['step']:,} of {config.train.max_iters:,}",
        "tokens seen": f"{state['tokens']:,}",
        "records read": f"{tally.seen:,} ({tally.n_bad} skipped)",
    }
    told = "".join(f"<div><dt>{_e(k)}</dt><dd>{_e(v)}</dd></div>" for k, v in facts.items())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>{_e(Path(config.system.out_dir).name)}: report</title><style>{style}</style>"
        f"<main><header><p class=kicker>Large observation model</p>"
        f"<h1>{_e(Path(config.system.out_dir).name)}</h1><dl>{told}</dl></header>"
        f"<h2>Loss</h2><p class=note>Dashed: predictors that need no model, scored by the same "
        f"loss.</p><div class=grid>{curves}</div>{body}</main></html>"
    )


def _heading(title: str, note: str) -> str:
    return f"<h2>{_e(title)}</h2><p class=note>{_e(note)}</p>"


def _e(text: object) -> str:
    return html.escape(str(text))
