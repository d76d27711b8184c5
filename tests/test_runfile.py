"""Run files: composed, overridden, never executed, and refused with one line a problem."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lom_core.errors import ConfigError
from lom_core.runfile import _Dumper, load_run, override, read_yaml

BASE = """
modalities:
  images: {input_size: 12, patch_size: 4}
  spectra: {input_size: 5, patch_size: 5, position: {kind: fourier, n_frequencies: 8}}
data:
  dataset: {kind: crossmatch, of: {a: {kind: hub, path: somewhere, columns: {images: image}}}}
  block_size: 64
optimizer: {learning_rate: 6e-4}
objective: {kind: masked, ratio: 0.3}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a folder, a sys.path and a base.yaml of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("base.yaml").write_text(BASE)


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)
    return name


def problems(*args: Any) -> list[str]:
    """The lines of the ConfigError that ``load_run`` raises."""
    with pytest.raises(ConfigError) as caught:
        load_run(args[0], args[1:])
    return str(caught.value).splitlines()


# ------------------------------------------------------------------------------------- YAML


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("6E-4", 6e-4),
        ("+1.5e3", 1500.0),
        ("1e4", 1e4),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1:30", "1:30"),
        ("010", "010"),
        ("no", "no"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", 1000),
        ("0x10", 16),
        ("-3", -3),
        ("true", True),
        ("~", None),
        ("", None),
        ("[1, 2e-1]", [1, 0.2]),
        ("{a: 1, b: [c]}", {"a": 1, "b": ["c"]}),
        ("'1e-4'", "1e-4"),
        ("1e", "1e"),
        ("e5", "e5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    found = read_yaml(text, "here")
    assert found == value and type(found) is type(value)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.from_regex(r"[-+.0-9eEx_:nNyYaAofF~]{1,8}", fullmatch=True),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(plain)
@example({"a": "1e-4", "b": "no", "c": "1:30", "d": "010", "e": 1e-7, "f": "\x85\U0001f52d"})
def test_what_is_dumped_is_read_back(value: Any) -> None:
    assert read_yaml(yaml.dump(value, Dumper=_Dumper), "here") == value


@settings(max_examples=200, deadline=None)
@given(st.text() | st.from_regex(r"[\[\]{}:,&*!|>'\"%@`#\-? a-z0-9\n]{0,20}", fullmatch=True))
def test_any_text_is_read_or_refused_as_config_error(text: str) -> None:
    try:
        read_yaml(text, "here")
    except ConfigError as error:
        assert "\n" not in str(error) and str(error).startswith("here")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data: {a: 1}\nmodel: {}\ndata: {}\n", "run.yaml line 3: 'data' is given twice"),
        ("data:\n  seed: 1\n  seed: 2\n", "run.yaml line 3: 'seed' is given twice"),
        ("data: {a: [}\n", "run.yaml line 1: "),
        (
            "x: !!python/object/apply:os.system [touch pwned]\n",
            "run.yaml line 1: could not determine",
        ),
        ("[1, 2]", "run.yaml holds [1, 2]; possible keys: modalities, data"),
        ("just text", "run.yaml holds 'just text'; possible keys"),
        ("", "run.yaml is empty"),
        ("# only a comment\n", "run.yaml is empty"),
    ],
)
def test_yaml_problems_name_file_and_line(text: str, told: str) -> None:
    (line,) = problems(write("run.yaml", text))
    assert line.startswith(told)
    assert not Path("pwned").exists()


def test_files_that_cannot_be_read() -> None:
    assert problems("nope.yaml")[0].startswith("no such run file: nope.yaml (looked in ")
    assert "must end in .yaml, .yml, .py" in problems(write("run.txt", "a: 1"))[0]
    Path("folder.yaml").mkdir()
    assert problems("folder.yaml")[0].startswith("folder.yaml cannot be read: ")
    Path("latin.yaml").write_bytes(b"a: \xff\xfe")
    assert problems("latin.yaml")[0].startswith("latin.yaml cannot be read: ")


# ---------------------------------------------------------------------------------- Python


def test_the_guides_python_file_and_command_line() -> None:
    write(
        "config/astropt.py",
        '"""As in the guide."""\nout_dir = "logs/astropt"\nbatch_size = 32\nn_layer = 24  # deep\n'
        "n_head: int = 16\nn_embd = 1024\nlearning_rate = 1e-4\nbeta1 = -0.0\n",
    )
    run = load_run("base.yaml", ["config/astropt.py", "--batch_size=64"])
    assert (run.data.batch_size, run.model.n_layer, run.model.n_embd) == (64, 24, 1024)
    assert (run.system.out_dir, run.optimizer.learning_rate) == ("logs/astropt", 1e-4)


def test_order_of_files_and_overrides_decides() -> None:
    write("small.py", "batch_size = 2\n")
    assert load_run("base.yaml", ["batch_size=64", "small.py"]).data.batch_size == 2
    assert load_run("base.yaml", ["small.py", "batch_size=64"]).data.batch_size == 64


def test_a_python_file_can_hold_a_whole_run() -> None:
    write(
        "run.py",
        'modalities = [{"name": "a", "input_size": 3}, {"name": "b", "vocab_size": 5}]\n'
        'dataset = {"kind": "hub", "path": "p", "columns": {"a": "x"}, "data_files": ("f", "g")}\n'
        "patch_size = None\n",
    )
    assert problems("run.py") == [
        "run.py: patch_size is ambiguous: modalities.a.patch_size, modalities.b.patch_size"
    ]
    text = Path("run.py").read_text().replace("patch_size = None", "values = 1").splitlines()
    write("run.py", "\n".join(text[:2]) + "\nbatch_size = 3\n")
    run = load_run("run.py", ["a.patch_size=7"])
    assert list(run.modalities) == ["a", "b"] and run.modalities["a"].patch_size == 7
    assert run.data.dataset.model_dump()["data_files"] == ["f", "g"]


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.system('touch pwned')\n",
        "batch_size = __import__('os').system('touch pwned')\n",
        "batch_size = open('pwned', 'w').write('x')\n",
        "[open('pwned', 'w') for _ in '1']\n",
        "def f(x=open('pwned', 'w')): pass\n",
        "class A: open('pwned', 'w')\n",
        "batch_size: open('pwned', 'w') = 3\n",
        "if open('pwned', 'w'): pass\n",
        'batch_size = f\'{open("pwned", "w")}\'\n',
    ],
)
def test_python_files_are_never_executed(text: str) -> None:
    write("run.py", text)
    try:
        load_run("base.yaml", ["run.py"])
    except ConfigError as error:
        assert str(error).startswith("run.py line 1: ")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batch_size = 3\nimport os\n", "run.py line 2: 'import os': only `name = literal`"),
        ("batch_size = 2 * 3\n", "run.py line 1: batch_size = 2 * 3 is not a literal"),
        ("batch_size = {1, 2}\n", "run.py line 1: batch_size = {1, 2} is not a literal"),
        ("batch_size = b'x'\n", "run.py line 1: batch_size = b'x' is not a literal"),
        ("a = b = 3\n", "run.py line 1: 'a = b = 3': only"),
        ("a, b = 1, 2\n", "run.py line 1: "),
        ("batch_size = 1\nbatch_size = 2\n", "run.py line 2: 'batch_size' is given twice"),
        ("batch_size = = 2\n", "run.py line 1: invalid syntax"),
        ("n_chan = 3\n", "run.py: n_chan: unknown name; "),
        ("x = '\x00'\n", "run.py"),
    ],
)
def test_python_problems_name_file_and_line(text: str, told: str) -> None:
    (line,) = problems("base.yaml", write("run.py", text))
    assert line.startswith(told)


# ----------------------------------------------------------------------------- composition


def test_extends_merges_mappings_and_replaces_the_rest() -> None:
    write(
        "sub/child.yaml",
        "extends: ../base.yaml\ndata: {batch_size: 3}\nmodalities: {images: {loss_weight: 0.5}}\n",
    )
    run = load_run("sub/child.yaml")
    assert (run.data.batch_size, run.data.block_size) == (3, 64)
    assert run.modalities["images"].loss_weight == 0.5
    assert run.modalities["images"].input_size == 12
    assert list(run.modalities) == ["images", "spectra"]


def test_a_list_of_modalities_replaces() -> None:
    write("child.yaml", "extends: base.yaml\nmodalities: [{name: other, input_size: 2}]\n")
    assert list(load_run("child.yaml").modalities) == ["other"]


def test_extends_takes_a_list_and_the_last_wins() -> None:
    write("a.yaml", "data: {batch_size: 1, block_size: 10}\n")
    write("b.py", "batch_size = 2\n")
    write("c.yaml", "extends: [base.yaml, a.yaml, b.py]\ntrain: {seed: 5}\n")
    run = load_run("c.yaml")
    assert (run.data.batch_size, run.data.block_size, run.train.seed) == (2, 10, 5)


def test_one_base_may_be_reached_twice() -> None:
    write("a.yaml", "extends: base.yaml\n" + "train: {seed: 1}\n")
    write("b.yaml", "extends: [a.yaml, base.yaml]\n" + "data: {batch_size: 2}\n")
    assert load_run("b.yaml").train.seed == 1


def test_circles_are_refused() -> None:
    write("a.yaml", "extends: b.yaml\n")
    write("b.py", "extends = 'a.yaml'\n")
    write("b.yaml", "extends: b.py\n")
    assert problems("a.yaml") == [
        "run files extend one another in a circle: a.yaml -> b.yaml -> b.py -> a.yaml"
    ]
    write("self.yaml", "extends: self.yaml\n")
    assert problems("self.yaml") == [
        "run files extend one another in a circle: self.yaml -> self.yaml"
    ]


def test_wrong_extends() -> None:
    write("a.yaml", "extends: gone.yaml\n")
    (line,) = problems("a.yaml")
    assert line.startswith("no such run file: gone.yaml, which ") and "a.yaml extends" in line
    write("b.yaml", "extends: 3\n")
    assert problems("b.yaml") == ["b.yaml: extends: 3 is not a file name or a list of them"]


@pytest.mark.parametrize(
    ("child", "expected"),
    [
        ("objective: {ratio: 0.7}", {"kind": "masked", "ratio": 0.7}),
        ("objective: {kind: masked}", {"kind": "masked", "ratio": 0.3}),
        ("objective: {kind: next_token}", {"kind": "next_token"}),
        ("objective: next_token", {"kind": "next_token"}),
    ],
)
def test_a_component_of_another_kind_replaces(child: str, expected: dict[str, Any]) -> None:
    write("child.yaml", f"extends: base.yaml\n{child}\n")
    assert load_run("child.yaml").objective.model_dump() == expected


def test_kinds_alone_merge_like_mappings() -> None:
    write(
        "short.yaml",
        "extends: base.yaml\nobjective: masked\nmodalities: {images: {position: mlp}}\n",
    )
    write("child.yaml", "extends: short.yaml\nobjective: {ratio: 0.9}\n")
    run = load_run("child.yaml", ["images.position.hidden=8"])
    assert run.objective.model_dump()["ratio"] == 0.9
    assert run.modalities["images"].position.model_dump()["hidden"] == 8


# ------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize("text", ["batch_size=64", "--batch_size=64", "data.batch_size=64"])
def test_three_ways_to_name_a_leaf(text: str) -> None:
    assert load_run("base.yaml", [text]).data.batch_size == 64


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("images.patch_size=8", "modalities.images.patch_size", 8),
        ("modalities.images.patch_size=8", "modalities.images.patch_size", 8),
        ("ratio=0.9", "objective.ratio", 0.9),
        ("n_frequencies=4", "modalities.spectra.position.n_frequencies", 4),
        ("spectra.position=index", "modalities.spectra.position.kind", "index"),
        ("columns.images=jpg", "data.dataset.of.a.columns.images", "jpg"),
        ("dataset.of.a.split=test", "data.dataset.of.a.split", "test"),
        ("lr_decay_iters=", "optimizer.lr_decay_iters", None),
        ("device=cuda:0", "system.device", "cuda:0"),
        ("trackers=[wandb]", "logging.trackers.0.kind", "wandb"),
        ("objective={kind: masked, ratio: 1}", "objective.ratio", 1.0),
        ("out_dir=a=b", "system.out_dir", "a=b"),
        ("modalities.more={input_size: 3}", "modalities.more.input_size", 3),
        ("eval.test={kind: hub, path: p, columns: {images: i}}", "data.eval.test.path", "p"),
    ],
)
def test_overrides_reach_sections_and_components(text: str, path: str, value: Any) -> None:
    found: Any = load_run("base.yaml", [text]).model_dump(mode="json")
    for key in path.split("."):
        found = found[int(key)] if isinstance(found, list) else found[key]
    assert found == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "patch_size=3",
            "patch_size is ambiguous: modalities.images.patch_size, modalities.spectra.patch_size",
        ),
        ("batch_szie=3", "batch_szie: unknown name; nearest: batch_size"),
        ("data.batch_szie=3", "data.batch_szie: unknown name; nearest: data.batch_size"),
        ("image.patch_size=3", "image.patch_size: unknown name; nearest: "),
        ("zzz=3", "zzz: unknown name; `lom config show RUN` lists the names"),
        ("max_positions=3", "max_positions: unknown name"),  # that of a kind not in this run
        ("batch_size.x=3", "batch_size.x: unknown name"),
        ("batch_size", "cannot read 'batch_size': an override is name=value"),
        ("--compile", "cannot read '--compile': an override is name=value"),
        ("=3", "cannot read '=3'"),
        ("extends=base.yaml", "cannot read 'extends=base.yaml'"),
        ("batch_size=[", "batch_size line 1: "),
        ("gone.yaml", "no such run file: gone.yaml"),
    ],
)
def test_wrong_overrides(text: str, told: str) -> None:
    (line,) = problems("base.yaml", text)
    assert line.startswith(told)


def test_a_run_can_be_changed_without_a_file() -> None:
    run = load_run("base.yaml")
    assert override(run) == run
    changed = override(run, ["batch_size=3", "ratio=0.9"])
    assert (changed.data.batch_size, changed.objective.model_dump()["ratio"]) == (3, 0.9)
    assert override({**yaml.safe_load(BASE), "optimizer": {}}, ["seed=4"]).train.seed == 4


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12), st.text(max_size=12))
def test_any_override_is_taken_or_refused(name: str, value: str) -> None:
    try:
        override(read_yaml(BASE, "base"), [f"{name}={value}"])
    except ConfigError as error:
        assert str(error)
