"""The command line: light to start, clear when refused, complete in its help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from lom_core.cli import build
from lom_core.cli.common import size
from lom_core.cli.evaluate import by_metric
from lom_core.errors import DataError
from lom_core.hookspecs import hookimpl
from lom_core.plugins import PLUGINS
from lom_core.runfile import load_run

Result = namedtuple("Result", "code out err")

RUN = """
modalities:
  wave: {input_size: 1, position: {kind: fourier, min_period: 0.3, max_period: 30}, head: gaussian}
  word: {vocab_size: 5, position: {kind: index, max_positions: 16}}
data: {dataset: {kind: "waves_data:Waves"}, block_size: 24, batch_size: 4, max_bad_fraction: 0.1}
model: {n_layer: 1, n_head: 2, n_embd: 16}
train: {max_iters: 2, eval_interval: 2}
system: {out_dir: out, dtype: float32, device: cpu}
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that run side by side inherit a narrow terminal, in which tables wrap."""
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(autouse=True)
def _here(waves: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a run file on the waves of conftest.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("run.yaml").write_text(RUN)


def lom(*args: str) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(build(), list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Result(result.exit_code, result.stdout, result.stderr)


def python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


# ------------------------------------------------------------------------------------ start

HEAVY = "torch", "astropy", "datasets", "mido", "wandb", "matplotlib", "scipy"


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["plugins"], ["train", "--help"]])
def test_light_commands_import_nothing_heavy(args: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['lom', *{args!r}]\n"
        "from lom_core.cli import main\n"
        "try: main()\n"
        f"finally: print('HEAVY', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_checking_a_run_file_imports_nothing_heavy() -> None:
    Path("core.yaml").write_text(
        RUN.replace('"waves_data:Waves"', "hub, path: p, columns: {wave: w}")
    )
    done = python(
        "import sys; from lom_core.runfile import load_run; load_run('core.yaml', ['batch_size=3'])\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_python_m_lom_core_is_lom() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lom_core", "--version"], capture_output=True, text=True, check=True
    )
    assert re.fullmatch(r"lom-core \d+\.\d+\.\d+\n", done.stdout)


# ------------------------------------------------------------------------------------- help


def commands(command: Any, path: str = "lom") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from commands(sub, f"{path} {name}")


def test_every_command_option_and_argument_has_a_help_text() -> None:
    found = dict(commands(typer.main.get_command(build())))
    assert {"lom train", "lom eval", "lom report", "lom doctor", "lom plugins list"} <= set(found)
    assert {f"lom data {verb}" for verb in ("list", "validate", "inspect")} <= set(found)
    assert {"lom config show", "lom config schema"} <= set(found)
    for path, command in found.items():
        assert len(command.help or "") > 10, path
        for parameter in command.params:
            assert len(getattr(parameter, "help", "") or "") > 5, f"{path} {parameter.name}"


def test_help_is_printed_for_every_command() -> None:
    for path, _ in commands(typer.main.get_command(build())):
        shown = lom(*path.split()[1:], "--help")
        assert shown.code == 0 and "Usage:" in shown.out


# ----------------------------------------------------------------------------------- errors


def test_a_users_mistake_is_one_line_a_problem_and_exit_code_2() -> None:
    shown = lom("config", "show", "run.yaml", "n_layer=x", "--val_fraction=2")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.splitlines() == [
        "error: data.val_fraction: 2 is not possible: it must be below 1",
        "error: model.n_layer: 'x' is not a whole number",
    ]


def test_no_traceback_reaches_the_user() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lom_core", "train", "gone.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: no such run file: gone.yaml")
        and "Traceback" not in done.stderr
    )


def test_unknown_options_are_overrides_and_misspelt_ones_are_told() -> None:
    shown = lom("config", "show", "run.yaml", "--batch_size=64")
    assert "batch_size: 64" in shown.out
    assert lom("data", "list", "run.yaml", "--jsn").err.startswith("error: cannot read '--jsn'")
    assert lom("plugins", "--nope").code == 2


class Failing:
    """A plugin whose commands end in various ways."""

    @staticmethod
    @hookimpl
    def lom_commands(cli: typer.Typer) -> None:
        @cli.command("fail")
        def fail(how: str) -> None:
            """Fail."""
            raise {
                "data": DataError("no good\nat all"),
                "stop": KeyboardInterrupt(),
                "bug": ZeroDivisionError(),
                "end": EOFError("of a file"),
            }[how]


@pytest.fixture
def plugin() -> Iterator[Callable[[object], None]]:
    """Register plugins for the length of a test."""
    registered: list[object] = []

    def register(module: object) -> None:
        PLUGINS.manager.register(module, name=f"lom-tested:{len(registered)}")
        registered.append(module)

    yield register
    for module in registered:
        PLUGINS.manager.unregister(module)


def test_plugins_add_commands_whose_errors_are_handled_alike(
    plugin: Callable[[object], None],
) -> None:
    plugin(Failing)
    assert lom("fail", "data") == Result(2, "", "error: no good\nerror: at all\n")
    assert lom("fail", "stop").code == 130
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        lom("fail", "bug")
    with pytest.raises(RuntimeError, match="ended early") as caught:  # no bare "Aborted."
        lom("fail", "end")
    assert isinstance(caught.value.__cause__, EOFError)


def test_a_plugin_whose_commands_fail_leaves_the_others(
    plugin: Callable[[object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        @hookimpl
        def lom_commands(self, cli: typer.Typer) -> None:
            raise RuntimeError("no luck")

    plugin(Broken())
    plugin(Failing)
    assert lom("fail", "stop").code == 130
    assert (
        capsys.readouterr().err
        == "warning: commands of plugin lom-tested:0 are left out: RuntimeError: no luck\n"
    )


# -------------------------------------------------------------------------------- estimate


def test_estimate_shows_what_a_run_needs() -> None:
    shown = lom("estimate", "run.yaml", "--steps=3", "--processes=4", "max_iters=50")
    assert shown.code == 0 and "\x1b" not in shown.out
    for title in ("Parameters", "Tokens per record", "Memory of each of 4 processes", "The run"):
        assert title in shown.out
    assert re.search(r"^ zero2 +[\d.]+ KiB", shown.out, re.MULTILINE)
    assert "50 steps" in shown.out and "estimated" in shown.out and "training" in shown.out
    assert not Path("out").exists()


def test_estimate_as_json_and_without_a_probe() -> None:
    shown = json.loads(lom("estimate", "run.yaml", "--steps", "0", "--json", "n_embd=32").out)
    assert shown["probe"] is None and shown["processes"] == 8
    assert set(shown["memory"]) == {"ddp", "zero1", "zero2", "fsdp", "fsdp, cpu_offload"}
    assert "training alone" not in lom("estimate", "run.yaml", "--steps=0").out


def test_estimate_of_a_wrong_run_is_one_line() -> None:
    shown = lom("estimate", "run.yaml", "n_embed=3")
    assert shown.code == 2 and shown.err.count("\n") == 1 and "n_embd" in shown.err


# -------------------------------------------------------------------------- plugins and doctor


def test_config_show_prints_a_run_file_of_the_same_run() -> None:
    shown = lom("config", "show", "run.yaml", "batch_size=7", "dataset.n=30")
    Path("shown.yaml").write_text(shown.out)
    assert load_run("shown.yaml") == load_run("run.yaml", ["batch_size=7", "dataset.n=30"])
    assert lom("config", "show", "shown.yaml").out == shown.out


def test_config_schema_is_json() -> None:
    assert json.loads(lom("config", "schema").out)["title"] == "RunConfig"


# ------------------------------------------------------------------------------------- data


def test_data_list() -> None:
    shown = lom("data", "list", "run.yaml", "dataset.n=60", "val_fraction=0.5")
    assert re.search(r"train +30 +wave 100%, word \d+%", shown.out)
    assert re.search(r"val +30 +wave 100%, word \d+%", shown.out)


def test_data_validate_names_bad_records_and_counts_reasons() -> None:
    broken = ["dataset.broken=[3, 4, 5]", "val_fraction=0.5", "max_bad_fraction=0.2"]
    shown = lom("data", "validate", "run.yaml", *broken)
    assert shown.code == 0
    assert shown.out.count("cosmic ray in record") == 3
    assert re.search(r"\w+\[\d+\]: waves_data:Waves row 3: cannot be read", shown.out)
    assert "cannot be read" in shown.out.splitlines()[-2]


def test_data_validate_fails_past_max_bad_fraction() -> None:
    few = ["dataset.broken=[3]", "max_bad_fraction=0"]
    shown = lom("data", "validate", "run.yaml", *few)
    assert shown.code == 1
    assert shown.err.startswith("more than max_bad_fraction=0 is bad in: ")
    assert lom("data", "validate", "run.yaml").code == 0


def test_data_validate_one_set_and_at_most_n() -> None:
    shown = lom("data", "validate", "run.yaml", "--set", "val", "--max", "2")
    assert re.search(r"val +2 +0 +\d", shown.out) and "train" not in shown.out
    shown = lom("data", "validate", "run.yaml", "--set", "vall")
    assert (
        shown.err
        == "error: this run has no set 'vall'; did you mean 'val'?; possible: train, val\n"
    )


def test_data_inspect() -> None:
    shown = lom("data", "inspect", "run.yaml", "2", "block_size=16", "val_fraction=0")
    assert "record 2" in shown.out
    assert re.search(r"wave +\d+ +1 +float32 +\S+\.\.\S+ +-\S+ +\S+ +\S+ +0\.0%", shown.out)
    assert re.search(r"word +6 +1 +int64 +0\.\.5 +2 +2 +2 +0\.0%", shown.out)
    assert re.search(r"slots \(tokens \+ BOS\) +40 ", shown.out)
    cropped = re.search(r"block_size=16, so cropped: (\S+)% of records", shown.out)
    assert cropped is not None and 30 < float(cropped[1]) < 100
    packing = re.search(r"packing: (\d+) records in 8 rows, (\S+)% of the slots used", shown.out)
    assert packing is not None and 80 < float(packing[2]) <= 100


def test_data_inspect_refuses_what_is_not_there() -> None:
    assert lom("data", "inspect", "run.yaml", "99").err == (
        "error: no record 99: the set has 36, numbered from 0\n"
    )
    shown = lom("data", "inspect", "run.yaml", "dataset.broken=[2]", "2", "val_fraction=0")
    assert shown.err.startswith("error: cannot read '2'")
    shown = lom("data", "inspect", "run.yaml", "2", "dataset.broken=[2]", "val_fraction=0")
    assert shown.code == 2 and "cosmic ray in record 2" in shown.err


def test_nothing_observed_is_shown_as_such() -> None:
    shown = lom("data", "inspect", "run.yaml", "0", "val_fraction=0")  # record 0 has no word
    assert re.search(r"word +not observed +-", shown.out)


# ------------------------------------------------------------------------ train, eval, report


def test_metrics_become_rows_and_columns() -> None:
    metrics = {"loss/b": 2.0, "loss_se/b": 0.1, "training_mean/b": 3.0, "loss/a": 4.0, "loss": 1.0}
    columns, rows = by_metric({**metrics, "r2/a": 0.5, "records/a": 1})
    assert columns == ["", "a", "b", "all"]
    assert rows == [
        ["records", "1", "", ""],
        ["loss", "4", "2.00 ± 0.20", "1"],
        ["training mean", "", "3", ""],
        ["r2", "0.5", "", ""],
    ]


def test_train_then_eval_then_report() -> None:
    trained = lom("train", "run.yaml", "--max_iters=2", "out_dir=here")
    assert trained.code == 0, trained.err
    assert Path("here/metrics.jsonl").is_file()
    table = lom("eval", "here")
    assert "val; ±: 95% interval over records" in table.out
    assert re.search(r" loss .* ± .*\n training mean .* ± ", table.out), table
    metrics = json.loads(lom("eval", "here", "--json").out)
    assert {"loss", "loss/wave", "training_mean/wave"} <= set(metrics["val"])
    shown = lom("report", "here", "--out", "page", "--objects", "1")
    assert Path(shown.out.strip()).exists()


def test_sizes() -> None:
    assert [size(n) for n in (10, 2048, 3.5 * 1024**3, 2 * 1024**4)] == [
        "10 B",
        "2 KiB",
        "3.5 GiB",
        "2.0 TiB",
    ]
