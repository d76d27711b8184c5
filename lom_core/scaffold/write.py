"""Fill the template in: names in its files and paths, and a sample to begin with."""

from __future__ import annotations

import re
from importlib import resources
from importlib.abc import Traversable
from pathlib import Path
from string import Template

import numpy as np

from lom_core import __version__
from lom_core.component import KINDS
from lom_core.errors import ConfigError

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
N_SAMPLES, LENGTH = {"train": 96, "val": 24}, 128


def write_plugin(name: str, into: Path) -> Path:
    """Write ``into/lom-NAME``; its modality is of kind NAME (with _ for -).

    Returns:
        The new folder.

    Errors:
        ConfigError: no such name for a distribution, a kind that is taken, or a folder that exists.
    """
    name = name.removeprefix("lom-")
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"a plugin cannot be named '{name}': lower-case letters and digits, in words joined "
            "by -, such as seismograms or radio-maps"
        )
    kind = name.replace("-", "_")
    if kind in KINDS.names("modality"):
        raise ConfigError(f"modality '{kind}' is installed already (`lom plugins`); take another")
    folder = into / f"lom-{name}"
    if folder.exists():
        raise ConfigError(f"{folder} exists already; take another name, or --into another folder")
    major, minor = __version__.split(".")[:2]
    words = {
        "name": name,
        "kind": kind,
        "module": f"lom_{kind}",
        "cls": "".join(word.capitalize() for word in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
        "low": f"{major}.{minor}",
        "high": f"{major}.{int(minor) + 1}",
    }
    try:
        for path, text in _files(resources.files("lom_core.scaffold") / "template", ()):
            at = [part.replace("module", words["module"]) for part in path]
            at[-1] = at[-1].removesuffix(".tmpl").replace("KIND", kind)
            target = folder.joinpath(*at)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(words), encoding="utf8")
        samples = folder / "src" / words["module"] / "samples"
        samples.mkdir()
        for seed, (split, n) in enumerate(N_SAMPLES.items()):
            (samples / f"{split}.csv").write_text(_made_up(n, seed), encoding="utf8")
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}") from None
    return folder


def _files(folder: Traversable, at: tuple[str, ...]) -> list[tuple[list[str], str]]:
    found = []
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if entry.is_dir():
            found += _files(entry, (*at, entry.name))
        elif entry.name.endswith(".tmpl"):
            found.append(([*at, entry.name], entry.read_text(encoding="utf8")))
    return found


def _made_up(n: int, seed: int) -> str:
    """n damped oscillations in noise, a line each, three decimals."""
    rng = np.random.default_rng(seed)
    t = np.arange(LENGTH) / LENGTH
    lines = []
    for _ in range(n):
        wave = np.exp(-rng.uniform(1, 4) * t) * np.sin(2 * np.pi * rng.uniform(3, 9) * t)
        lines.append(",".join(f"{x:.3f}" for x in wave + rng.normal(0, 0.03, LENGTH)))
    return "\n".join(lines) + "\n"
