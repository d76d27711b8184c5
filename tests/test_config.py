"""RunConfig: what a run file may hold, and what is said of one that holds something else."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from lom_core.cli.schema import schema
from lom_core.component import KINDS, Component
from lom_core.config import RunConfig, Section
from lom_core.errors import ConfigError
from lom_core.modality import ModalityConfig
from lom_core.roles import ROLES
from lom_core.runfile import SECTIONS, describe_errors, dump, load_run, override

BASE: dict[str, Any] = {
    "modalities": {
        "images": {"input_size": 12, "patch_size": 4},
        "spectra": {"input_size": 5, "position": {"kind": "fourier", "n_frequencies": 8}},
    },
    "data": {"dataset": {"kind": "hub", "path": "somewhere", "columns": {"images": "image"}}},
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("base.yaml").write_text(
        "modalities: {images: {input_size: 12, patch_size: 4}}\n"
        "data: {dataset: {kind: hub, path: somewhere, columns: {images: image}}}\n"
    )


def write(name: str, text: str) -> str:
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(text)
    return name


def problems(*args: Any) -> list[str]:
    """The lines of the ConfigError that ``load_run`` raises."""
    with pytest.raises(ConfigError) as caught:
        load_run(args[0], args[1:])
    return str(caught.value).splitlines()


def sections() -> dict[str, type[BaseModel]]:
    parts = {name: field.annotation for name, field in RunConfig.model_fields.items()}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, type) and issubclass(part, Section)
    }


# --------------------------------------------------------------------------------- the sections


def test_leaf_names_are_unique() -> None:
    assert (
        set(sections()) == SECTIONS == {"data", "model", "optimizer", "train", "system", "logging"}
    )
    leaves = [leaf for section in sections().values() for leaf in section.model_fields]
    twice = {leaf for leaf in leaves if leaves.count(leaf) > 1}
    assert not twice
    assert not set(leaves) & set(RunConfig.model_fields), "a leaf would hide behind a section"


def test_only_modalities_and_data_are_needed() -> None:
    run = RunConfig.model_validate(BASE)
    assert run.objective.kind == "next_token"
    assert run.registry.names() == ["images", "spectra"]
    assert run.modalities["images"].tokeniser.width == 12


def test_modalities_as_mapping_list_or_objects() -> None:
    listed = [{"name": name, **config} for name, config in BASE["modalities"].items()]
    made = [ModalityConfig(**config) for config in listed]
    runs = [
        RunConfig.model_validate({**BASE, "modalities": m})
        for m in (BASE["modalities"], listed, made)
    ]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize(
    ("modalities", "told"),
    [
        (
            [{"name": "a", "input_size": 1}, {"name": "a", "input_size": 2}],
            "two modalities are named 'a'",
        ),
        (["spectra"], r"'spectra' has no name; a list holds \{name: \.\.\., kind: \.\.\.\}"),
        ([{"input_size": 1}], r"\{'input_size': 1\} has no name"),
        ({"a": {"name": "b", "input_size": 1}}, "modality 'a' calls itself 'b'"),
        ({"id": {"input_size": 1}}, "'id' cannot name a modality"),
        ({"a_positions": {"input_size": 1}}, "'a_positions' cannot name a modality"),
        ({"a": {}}, "modality 'a' needs input_size"),
        ({"a": {"input_size": 3, "tokeniser": {"kind": "ready", "values": 4}}}, "does not fit"),
    ],
)
def test_wrong_modalities(modalities: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        override({**BASE, "modalities": modalities})


def test_a_value_of_no_possible_type_is_one_problem() -> None:
    with pytest.raises(ConfigError, match=r"^data.modality_dropout: 'a' is not a number or a map"):
        override(BASE, ["modality_dropout=a"])


def test_log_via_wandb_is_a_shorthand() -> None:
    run = override(BASE, ["log_via_wandb=true"])
    assert [tracker.kind for tracker in run.logging.trackers] == ["wandb"]
    assert override(run).logging == run.logging


def test_a_run_is_frozen() -> None:
    with pytest.raises(ValidationError):
        RunConfig.model_validate(BASE).data.batch_size = 3  # type: ignore[misc]


# ------------------------------------------------------------------------------ user's code


def test_classes_beside_the_run_file_are_found() -> None:
    write("elsewhere/beside_the_run.py", "class Mine:\n    def __init__(self, n, paths): ...\n")
    write(
        "elsewhere/run.yaml",
        "extends: ../base.yaml\n"
        "data: {dataset: {kind: 'beside_the_run:Mine', n: 3, paths: {images: a.txt}}}\n",
    )
    shown = load_run("elsewhere/run.yaml", ["dataset.n=5", "paths.images=b.txt"]).model_dump()
    assert shown["data"]["dataset"] == {
        "kind": "beside_the_run:Mine",
        "n": 5,
        "paths": {"images": "b.txt"},
    }


def test_a_component_of_the_users_own_has_named_fields() -> None:
    write(
        "own_objective.py",
        "from lom_core import Objective\nclass Half(Objective):\n    share: float = 0.5\n",
    )
    run = load_run("base.yaml", ["objective=own_objective:Half", "share=0.25"])
    assert run.objective.model_dump() == {"kind": "own_objective:Half", "share": 0.25}
    (line,) = problems("base.yaml", "objective=own_objective:Half", "objective={shar: 1}")
    assert line == "objective.shar: unknown key; did you mean 'share'?"
    (line,) = problems("base.yaml", "objective=own_objective:Hafl")
    assert line.startswith("objective: own_objective:Hafl: own_objective has no 'Hafl'")
    (line,) = problems("base.yaml", "dataset=not_there:X")
    assert line.startswith("data.dataset: not_there:X: no module named 'not_there'")


# ---------------------------------------------------------------------------------- errors


def test_one_line_for_each_problem() -> None:
    write(
        "bad.yaml",
        """
extends: base.yaml
modalities:
  images: {input_size: twelve, loss_weight: -1, sprial: true}
  music: {kind: musik}
  "1x": {input_size: 3}
data: {batch_szie: 3, batch_size: x, val_fraction: 1.5, max_bad_fraction: lots}
model: {n_layer: 1.5, norm: layre, bias: maybe}
train: 3
objective: {kind: masked, ratio: 0}
batch_size: 4
""",
    )
    lines = problems("bad.yaml")
    for told in (
        "modalities.images.input_size: 'twelve' is not a whole number",
        "modalities.images.loss_weight: -1 is not possible: it must be at least 0",
        "modalities.images.sprial: unknown key; possible: ",
        "modalities.music: unknown modality 'musik'; installed: ",
        "modalities.1x.name: '1x': string should match pattern",
        "data.batch_szie: unknown key; did you mean 'batch_size'?",
        "data.batch_size: 'x' is not a whole number",
        "data.val_fraction: 1.5 is not possible: it must be below 1",
        "data.max_bad_fraction: 'lots' is not a number",
        "model.n_layer: 1.5 is not a whole number",
        "model.norm: 'layre' is not possible; did you mean 'layer'?; possible: 'rms' or 'layer'",
        "model.bias: 'maybe' is not true or false",
        "train: 3 is not a mapping",
        "objective.ratio: 0 is not possible: it must be above 0",
        "batch_size: unknown key; did you mean 'data.batch_size'?",
    ):
        assert any(line.startswith(told) for line in lines), told
    assert len(lines) == 15
    assert not any("Value error" in line or "http" in line or "Input" in line for line in lines)


def test_errors_of_whole_sections_unions_and_missing_keys() -> None:
    assert problems("base.yaml", "n_head=5") == [
        "model: n_embd=384 is no multiple of n_head=5; nearest: 380"
    ]
    assert problems("base.yaml", "columns.images=3") == [
        "data.dataset.columns.images: 3 is not text or a mapping"
    ]
    assert problems("base.yaml", "trackers=[wandb, wandbb]")[0].startswith(
        "logging.trackers.1: unknown tracker 'wandbb'; did you mean 'wandb'?"
    )
    assert problems("base.yaml", "modalities=[]") == [
        "modalities: {} is too short: it needs at least 1"
    ]
    lines = problems(write("part.yaml", "data: {}\n"))
    assert lines[0].startswith("modalities: missing")
    assert lines[1].startswith("data.dataset: missing, and it has no default; installed: ")


def test_describe_errors_of_any_model() -> None:
    class Model(BaseModel):
        a: int
        b: list[str] | str

    with pytest.raises(ValidationError) as caught:
        Model.model_validate({"a": "x", "b": 3})
    assert describe_errors(caught.value).splitlines() == [
        "a: 'x' is not a whole number",
        "b: 3 is not a list or text",
    ]


# -------------------------------------------------------------------------------- round trip


def test_what_is_shown_gives_the_same_run() -> None:
    run = load_run("base.yaml", ["log_via_wandb=true", "out_dir='1e-4'", "learning_rate=1e-5"])
    write("shown.yaml", dump(run))
    assert load_run("shown.yaml") == run
    assert "kind: zscore" in dump(run) and run.system.out_dir == "1e-4"


finite = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "optimizer": st.fixed_dictionaries(
                {"learning_rate": st.floats(1e-300, 1e300), "min_lr": st.none() | st.floats(0, 1)}
            ),
            "system": st.fixed_dictionaries({"out_dir": st.text(), "device": st.text()}),
            "objective": st.sampled_from(["next_token", {"kind": "masked", "ratio": 0.1}]),
            "data": st.fixed_dictionaries(
                {
                    "dataset": st.fixed_dictionaries(
                        {"kind": st.just("json:JSONDecoder"), "a": finite}
                    )
                }
            ),
        },
    )
)
def test_any_run_survives_show_and_load(changes: dict[str, Any]) -> None:
    run = RunConfig.model_validate({**BASE, **changes})
    with tempfile.TemporaryDirectory() as folder:
        shown = Path(folder) / "shown.yaml"
        shown.write_text(dump(run))
        assert load_run(shown) == run


# ------------------------------------------------------------------------------------ schema


def refs(value: Any) -> list[str]:
    """Every ``$ref`` in a schema."""
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [ref for item in value.values() for ref in refs(item)]
    return [ref for item in value for ref in refs(item)] if isinstance(value, list) else []


def test_schema_lists_the_installed_kinds_of_each_role() -> None:
    found = schema()
    definitions = found["$defs"]
    assert {ref.removeprefix("#/$defs/") for ref in refs(found)} <= set(definitions)
    roles: list[type[Component]] = [ModalityConfig, *ROLES.values()]
    for cls in roles:
        *kinds, by_path, by_name = definitions[cls.__name__]["oneOf"]
        named = [
            definitions[k["$ref"].removeprefix("#/$defs/")]["properties"]["kind"] for k in kinds
        ]
        assert named == [{"const": kind} for kind in KINDS.names(cls.role)]
        assert by_path["required"] == ["kind"] and by_name["anyOf"][0]["enum"] == KINDS.names(
            cls.role
        )
    assert definitions["Masked"]["properties"]["ratio"]["maximum"] == 1
    assert definitions["Masked"]["required"] == ["kind"]
    assert definitions["modality.tokens"]["required"] == []
    assert set(found["properties"]) == {*RunConfig.model_fields, "extends"}
    assert found["additionalProperties"] is False
