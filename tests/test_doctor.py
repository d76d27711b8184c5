"""``lom doctor`` and ``lom plugins``: what is here, what is wrong, what to do."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lom_core.cli import doctor, meet
from lom_core.errors import PluginError
from lom_core.plugins import PLUGINS, Plugin
from lom_core.runfile import load_run

from .test_cli import _here, _wide, lom  # noqa: F401  fixtures for all that is here


@pytest.fixture
def met(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes are started: they take seconds, and one test looks at them."""
    monkeypatch.setattr(doctor, "meeting", lambda _: nullcontext(lambda: ""))


@pytest.fixture
def broken_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Plugin(
        "lom-broken", "2.0", "broken", ">=9", error=str(PluginError("needs\nlom-core>=9"))
    )
    monkeypatch.setattr("lom_core.cli.plugins.installed_plugins", lambda: [*PLUGINS.found, broken])
    monkeypatch.setattr("lom_core.cli.doctor.installed_plugins", lambda: [*PLUGINS.found, broken])


def test_plugins_table(broken_plugin: None) -> None:
    shown = lom("plugins")
    assert shown.code == 0 and "\x1b" not in shown.out
    assert "objective: any_order, masked, next_token, prefix" in shown.out
    assert re.search(r"lom-broken +2\.0 +>=9 +does not load: needs", shown.out)
    assert lom("plugins", "list") == shown


def test_plugins_json(broken_plugin: None) -> None:
    shown = json.loads(lom("plugins", "--json").out)
    assert shown == json.loads(lom("plugins", "list", "--json").out)
    core, *_, broken = shown
    assert core["distribution"] == "lom-core" and core["kinds"]["objective"] == [
        "any_order",
        "masked",
        "next_token",
        "prefix",
    ]
    assert broken["error"] == "needs\nlom-core>=9" and broken["kinds"] == {}


def test_doctor_tells_versions_devices_and_limits() -> None:
    shown = lom("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(shown.out)}
    assert {
        "python",
        "torch",
        "numpy",
        "lom-core",
        "cpu",
        "bfloat16 on CPU",
        "C++ compiler",
    } <= set(checks)
    assert {"plugin lom-core", "open files", "disk here"} <= set(checks)
    assert all(check["advice"] for check in checks.values() if check["status"] != "ok")
    assert "build" in checks["torch"]["found"]
    assert checks["2 processes, gloo"]["found"] == "all_reduce and broadcast work"


def test_doctor_looks_at_what_a_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run("run.yaml", ["max_iters=5000", "num_workers=3", "n_embd=32"])
    checks = {c.name: c for c in doctor.limits(run)}
    assert checks["open files"].found.endswith("for num_workers=3")
    # Steps 1000 to 5000, the latest, the best and the one being written: 8; no folder was made.
    assert "up to 8 checkpoints of " in checks["disk at out"].found and not Path("out").exists()
    free = namedtuple("Usage", "total used free")(1000, 0, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    (short,) = [c for c in doctor.limits(run) if c.name == "disk at out"]
    assert short.status == "warning" and "set out_dir" in short.advice


def test_doctor_tells_why_processes_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "meeting", partial(broken_meeting, doctor.meeting))
    shown = lom("doctor", "--json")
    (check,) = [c for c in json.loads(shown.out) if c["name"] == "2 processes, gloo"]
    assert check["status"] == "warning" and "GLOO_SOCKET_IFNAME" in check["advice"]
    assert "no-such-device" in check["found"]
    assert shown.code == 0


@contextmanager
def broken_meeting(meeting: Any, _: str) -> Iterator[Callable[[], str]]:
    with meeting("no-such-device") as problem:
        yield problem


def test_processes_that_do_not_answer_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meet, "SECONDS", 0.01)
    with meet.meeting("cpu") as problem:
        assert problem() == meet.SILENCE


def test_the_most_telling_problem_is_told() -> None:
    assert meet._problem([meet.SILENCE, "a process ended with 1: x", ""]).endswith("x")
    assert meet._problem(["", ""]) == ""


def test_doctor_fails_for_a_plugin_that_does_not_load(broken_plugin: None, met: None) -> None:
    shown = lom("doctor")
    assert shown.out.count("ok ") >= 5
    assert shown.code == 1
    assert "broken" in shown.out and "-> `pip install -U lom-broken`" in shown.out


def test_doctor_warns_and_advises(monkeypatch: pytest.MonkeyPatch, met: None) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(doctor, "DISK", 1 << 80)
    monkeypatch.setattr(doctor, "FILES", 1 << 60)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: {"avx2"})
    checks = {c.name: c for c in [*doctor.cpu(), *doctor.compiler(), *doctor.limits()]}
    warned = {name for name, check in checks.items() if check.status == "warning"}
    assert {"C++ compiler", "disk here", "bfloat16 on CPU"} <= warned
    assert "dtype=float32" in checks["bfloat16 on CPU"].advice
    assert lom("doctor").code == 0  # warnings do not fail


# ----------------------------------------------------------------------------------- config
