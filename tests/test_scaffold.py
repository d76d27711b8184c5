"""`lom plugins new` and `check`: what is written is complete, and what is wrong is told.

CI builds a new plugin into a wheel, installs it in a fresh venv and trains with it (.ci/run).
"""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lom_core import ConfigError, Dataset, ModalityConfig, ModalityRegistry, Tokeniser
from lom_core.cli import build
from lom_core.plugins import PLUGINS, Plugin
from lom_core.scaffold import write_plugin
from lom_core.testing import check_plugin, conforms, installed

RUNNER = CliRunner()


def test_a_new_plugin_is_complete_and_keeps_every_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_plugin("radio-maps", tmp_path)
    assert folder == tmp_path / "lom-radio-maps"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "pyproject.toml",
        "run.yaml",
        "src/lom_radio_maps/__init__.py",
        "src/lom_radio_maps/datasets.py",
        "src/lom_radio_maps/py.typed",
        "src/lom_radio_maps/samples/train.csv",
        "src/lom_radio_maps/samples/val.csv",
        "src/lom_radio_maps/tokeniser.py",
        "tests/test_radio_maps.py",
    }
    left = [n for n in names if "$" in (folder / n).read_text(encoding="utf8").replace('*$"', "")]
    assert not left, "every name was filled in"
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.setenv("PYTHONPATH", str(folder / "src"))  # for the checks' subprocesses
    module = importlib.import_module("lom_radio_maps")
    try:
        kinds = [
            getattr(module, f"RadioMaps{part}") for part in ("", "Windows", "Files", "Samples")
        ]
        with installed(*kinds):
            registry = ModalityRegistry([ModalityConfig.model_validate({"kind": "radio_maps"})])
            source = Dataset.model_validate({"kind": "radio_maps_samples"}).build(registry)
            values = [source[i]["radio_maps"] for i in range(4)]
            for check in conforms({"kind": "radio_maps"}, values):
                check()
    finally:
        sys.modules.pop("lom_radio_maps")


def test_samples_in_folders_are_packed_too(tmp_path: Path) -> None:
    folder = write_plugin("radio-maps", tmp_path)
    package = folder / "src/lom_radio_maps"
    (package / "samples/val").mkdir()
    (package / "samples/val/one.fits").touch()
    written = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf8"))
    patterns = written["tool"]["setuptools"]["package-data"]["lom_radio_maps"]
    packed = {str(p.relative_to(package)) for pattern in patterns for p in package.glob(pattern)}
    assert {"py.typed", "samples/train.csv", "samples/val/one.fits"} <= packed


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Radio", "cannot be named 'Radio'"),
        ("../x", r"cannot be named '\.\./x'"),
        ("scalar", "modality 'scalar' is installed already"),
        ("old", "exists already; take another name"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "lom-old").mkdir()
    with pytest.raises(ConfigError, match=message):
        write_plugin(name, tmp_path)
    assert not (tmp_path / f"lom-{name}" / "pyproject.toml").exists()


def test_check_on_the_command_line() -> None:
    done = RUNNER.invoke(build(), ["plugins", "check", "lom-core"])
    assert done.exit_code == 0, done.output
    assert "check_recovers_the_latent" in done.output and "36 passed, 0 failed" in done.output
    done = RUNNER.invoke(build(), ["plugins", "check", "lom-cor"])
    assert done.exit_code == 2
    assert "no plugin 'lom-cor'; did you mean" in done.output


class Drifting(Tokeniser, kind="drifting_for_a_test"):
    def encode(self, value: object) -> object:
        raise RuntimeError("no such instrument")

    def decode(self, tokens: object) -> object:
        return None


class Shy(ModalityConfig, kind="shy_for_a_test"):
    name: str = "shy"

    def defaults(self) -> dict[str, object]:
        return {"tokeniser": Drifting()}


class Loud(Shy, kind="loud_for_a_test"):
    def synth(self, rng: object) -> tuple[float, float]:
        return 1.0, 1.0


def test_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Plugin("lom-shy", "1", "shy", kinds=[(c.role, c.kind) for c in (Shy, Loud)])
    monkeypatch.setattr(PLUGINS, "found", [*PLUGINS.found, plugin])
    with installed(Shy, Loud, Drifting):
        outcomes = list(check_plugin("lom-shy"))
    assert outcomes[0].check == "synth" and "makes up no observations" in outcomes[0].problem
    problems = {o.check: o.problem for o in outcomes[1:]}
    assert problems["check_inverts"] == "RuntimeError: no such instrument"
    assert problems["check_config_round_trip"] == ""
