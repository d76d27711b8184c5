"""Plugins: found through entry points, loaded apart, described, and never a danger to one another."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
from lom_core import Position, hookimpl

class Depth(Position, kind="depth"):
    pass

@hookimpl
def lom_register(register):
    register(Depth)
"""
SAY = """
import json, warnings
from lom_core import installed_plugins
from lom_core.component import KINDS
from lom_core.errors import LomError
from lom_core.roles import Position
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = installed_plugins()
try:
    made, error = Position.model_validate("depth").tag, ""
except Exception as problem:
    made, error = "", str(problem)
print(json.dumps({
    "plugins": {p.distribution: [p.version, p.api, p.error, p.kinds] for p in found},
    "warnings": [str(w.message) for w in caught], "made": made, "error": error,
}))
"""


def install(folder: Path, name: str, code: str, requires: str = "lom-core>=0.1,<0.2") -> None:
    """What pip leaves behind for a distribution of one module."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: {requires}\n"
    )
    (info / "entry_points.txt").write_text(f"[lom]\nmain = {module}\n")


def ask(folder: Path, allowed: str | None = "lom-a,lom-b") -> dict[str, object]:
    """The answers of a fresh interpreter that has the folder on its path."""
    env = {"PYTHONPATH": f"{folder}:{Path(__file__).parent.parent}", "PATH": "/usr/bin"}
    if allowed is not None:
        env["LOM_PLUGINS"] = allowed
    done = subprocess.run(
        [sys.executable, "-c", SAY], env=env, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_an_installed_plugin_is_found(tmp_path: Path) -> None:
    install(tmp_path, "lom-a", GOOD)
    said = ask(tmp_path)
    assert said["made"] == "depth" and said["warnings"] == []
    assert said["plugins"]["lom-a"] == ["1.0", "<0.2,>=0.1", "", [["position", "depth"]]]


def test_lom_plugins_restricts_and_disables(tmp_path: Path) -> None:
    install(tmp_path, "lom-a", GOOD)
    for allowed in ("", "lom-other"):
        said = ask(tmp_path, allowed)
        assert "lom-a" not in said["plugins"] and "unknown position 'depth'" in said["error"]
    assert ask(tmp_path, "LOM_A")["made"] == "depth"  # names as pip compares them


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("raise RuntimeError('broken at import')", "RuntimeError: broken at import"),
        (
            GOOD.replace("lom_register(", "lom_regster("),
            "unknown hook lom_regster; the hooks are lom_commands, lom_register",
        ),
        (GOOD + "    register(Position)\n", "PluginError: lom-b: Position has no kind"),
        (GOOD.replace("@hookimpl", ""), "lom_b has no hook: write a function lom_register"),
        (GOOD + "    register(Depth())\n", "register() takes subclasses of lom_core's roles, not"),
    ],
)
def test_a_broken_plugin_warns_and_leaves_the_others_working(
    tmp_path: Path, code: str, reason: str
) -> None:
    install(tmp_path, "lom-a", GOOD)
    install(tmp_path, "lom-b", code.replace('kind="depth"', 'kind="height"'))
    said = ask(tmp_path)
    assert said["made"] == "depth"
    assert reason in said["plugins"]["lom-b"][2] and said["plugins"]["lom-b"][3] == []
    assert len(said["warnings"]) == 1 and "plugin lom-b 1.0 is left out" in said["warnings"][0]


def test_what_a_broken_plugin_would_have_brought_is_told(tmp_path: Path) -> None:
    install(tmp_path, "lom-b", "import no_such_thing")
    assert "lom-b is installed but does not load: ModuleNotFoundError" in ask(tmp_path)["error"]


def test_a_kind_that_two_plugins_claim_names_both(tmp_path: Path) -> None:
    install(tmp_path, "lom-a", GOOD)
    install(tmp_path, "lom-b", GOOD)
    said = ask(tmp_path)
    assert said["made"] == "depth"
    assert (
        "position 'depth' is provided twice, by lom-a and by lom-b" in said["plugins"]["lom-b"][2]
    )


def test_a_plugin_for_another_core_is_left_out(tmp_path: Path) -> None:
    install(tmp_path, "lom-a", GOOD, requires="lom-core>=7")
    said = ask(tmp_path)
    assert "needs lom-core>=7, installed is" in said["plugins"]["lom-a"][2]


def test_the_core_is_light() -> None:
    code = (
        "import sys, lom_core; lom_core.installed_plugins();"
        "heavy = {'torch', 'astropy', 'datasets', 'matplotlib', 'wandb', 'PIL'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
