"""The model card: what a model is, what it saw, how well it does, how to load it. Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from lom_core import __version__
from lom_core.component import KINDS
from lom_core.evaluate import measures
from lom_core.ratios import legend, tell


def card(state: Mapping[str, Any], checkpoint: Path) -> str:
    """The card of an exported model.

    Args:
        state: its config, lock, metrics, step and tokens.
        checkpoint: where it comes from: the run's ``emissions.json`` is beside it.
    """
    config, lock = state["config"], state["lock"]
    name = Path(config["system"]["out_dir"]).name
    n_tokens = f"{state.get('tokens', 0):,}"
    parts = [
        f"---\ntags: [lom, {', '.join(lock)}]\n---\n\n# {name}",
        f"A large observation model of {', '.join(lock)}, trained with the objective "
        f"`{_kind(config['objective'])}` for {state['step']:,} steps on {n_tokens} tokens.",
        _loading(lock),
        _modalities(config, lock),
        *(_metrics(title, found) for title, found in state.get("metrics", {}).items()),
        _data(config),
        _energy(checkpoint.parent.parent / "emissions.json"),
        f"## Training\n\nThe whole run, as `config.json` has it:\n\n```json\n"
        f"{json.dumps({k: config[k] for k in ('model', 'optimizer', 'train')}, indent=1)}\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _loading(lock: Mapping[str, Mapping[str, str]]) -> str:
    versions = {entry["distribution"]: entry["version"] for entry in lock.values()}
    versions = {"lom-core": __version__, **versions}
    pip = " ".join(f"{k}=={v}" for k, v in versions.items() if k and v)
    return (
        f"## How to load\n\n```\npip install {pip}\n```\n\n```python\n"
        "from lom_core.api import LargeObservationModel\n\n"
        'model = LargeObservationModel.from_pretrained("this folder, or its name on the hub")\n```'
    )


def _modalities(config: Mapping[str, Any], lock: Mapping[str, Mapping[str, str]]) -> str:
    rows = []
    for name, m in config["modalities"].items():
        kinds = [f"`{_kind(part)}`" for part in (m, m["tokeniser"], m["head"])]
        rows.append([name, *kinds, f"{lock[name]['distribution']} {lock[name]['version']}"])
    return "## Modalities\n\n" + _table(["", "kind", "tokeniser", "head", "from"], rows)


def _metrics(title: str, found: Mapping[str, float]) -> str:
    names = [key.removeprefix("loss/") for key in found if key.startswith("loss/")]
    told = measures(found)
    rows = [[name, *(tell(found, f"{k}/{name}") for k in told)] for name in names]
    head = ["", *(k.replace("_", " ") for k in told)]
    sure = _SURE if legend(found) else ""
    return (
        f"## Held-out set “{title}”\n\nLosses in model units, beside those of predictors that need "
        f"no model; RMSE and MAE in physical units.{sure}\n\n{_table(head, rows)}"
    )


_SURE = (
    " Gain: by how much the loss is below that of the best of them. ± is the 95% interval if as "
    "many records were drawn anew (by their spread and the normal approximation, which wants some "
    "30 of them). Several records of one object, such as windows cut from it, count as "
    "independent: for those it is too narrow. Nor is in it what another training run would change."
)


def _data(config: Mapping[str, Any]) -> str:
    """The data sets of the run, and what the packages that carry data say of its licences."""
    kinds = sorted({_kind(part) for part in _components(config["data"])})
    providers = {kind: dist for role, kind, dist in KINDS.items() if role == "dataset"}
    lines = [
        f"- `{kind}`" + (f" of {providers[kind]}" if kind in providers else "") for kind in kinds
    ]
    notes = []
    for dist in sorted({providers[kind] for kind in kinds if kind in providers} - {"lom-core"}):
        text = metadata.distribution(dist).read_text("licenses/DATA_LICENSES")
        if text and any(
            kind.endswith("_samples") and providers.get(kind) == dist for kind in kinds
        ):
            notes.append(
                f"<details><summary>Licences of the data in {dist}</summary>\n\n```\n{text.strip()}"
                "\n```\n\n</details>"
            )
    return "\n\n".join(["## Data", "\n".join(lines), *notes])


def _energy(path: Path) -> str:
    if not path.is_file():
        return ""
    found = json.loads(path.read_text(encoding="utf8"))
    carbon = f", {found['co2_kg']:.3g} kg of CO2 ({found['country']})" if "co2_kg" in found else ""
    return (
        f"## Energy\n\n{found['energy_kwh']:.3g} kWh in {found['hours']:.3g} hours{carbon}, as "
        "CodeCarbon measured."
    )


def _components(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every mapping with a kind, however deep."""
    if isinstance(value, Mapping):
        if "kind" in value:
            yield value
        for part in value.values():
            yield from _components(part)
    elif isinstance(value, list):
        for part in value:
            yield from _components(part)


def _kind(component: Any) -> str:
    return str(component.get("kind", "modality") if isinstance(component, Mapping) else component)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
