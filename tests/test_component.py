"""Components: found by kind or path, refused with a list, whole after a round trip."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from lom_core import ModalityConfig, ModalityRegistry
from lom_core.builtin import Fourier, Index, Masked
from lom_core.component import KINDS, Kinds
from lom_core.errors import ConfigError, PluginError
from lom_core.roles import ROLES, Dataset, Objective, Position, PythonDataset, Tokeniser
from lom_core.testing import installed


def test_a_kind_a_mapping_and_an_instance_are_the_same() -> None:
    expected = Fourier(n_frequencies=32)
    for given in (
        "fourier",
        {"kind": "fourier"},
        {"kind": "fourier", "n_frequencies": 32},
        expected,
    ):
        assert Position.model_validate(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "fourrier",
            r"unknown position 'fourrier'; did you mean 'fourier'\?; installed: .*fourier, index, mlp",
        ),
        ({}, r"a position needs a kind; installed: .*fourier, index, mlp"),
        ({"kind": "fourier", "n_frequency": 3}, r"n_frequency"),
        ({"kind": "galaxy_nothing"}, r"unknown position 'galaxy_nothing'"),
        ("no_such_module:X", r"no module named 'no_such_module'; it must be importable from here"),
        ("json:Dekoder", r"json has no 'Dekoder'"),
        ("..json:Decoder", r"\.\.json:Decoder is no import path: write package.module:Class"),
        ({"kind": 5}, r"kind: 5 is no name of a kind; installed: .*fourier"),
        (
            "json:JSONDecoder",
            r"json:JSONDecoder is no position: make it a subclass of lom_core.Position",
        ),
        ("lom_core.builtin:Masked", r"lom_core.builtin:Masked is an objective, not a position"),
        (
            {"kind": "fourier", "min_period": 5, "max_period": 2},
            r"min_period 5.0 must be below max_period 2.0",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(given: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Position.model_validate(given)


def test_every_core_kind_survives_a_round_trip_and_pickling() -> None:
    for role, kind, dist in KINDS.items():
        cls = KINDS.get(role, kind)
        required = [name for name, field in cls.model_fields.items() if field.is_required()]
        if dist != "lom-core" or required or role == "modality":
            continue
        component = cls()
        dumped = json.loads(component.model_dump_json())
        assert dumped["kind"] == kind
        assert ROLES[role].model_validate(dumped) == component
        assert pickle.loads(pickle.dumps(component)) == component


def test_components_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Index().max_positions = 3  # type: ignore[misc]


def test_a_component_of_ones_own_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "from lom_core import Position\n\n\nclass Depth(Position):\n    metres: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Position.model_validate({"kind": "mine:Depth", "metres": 3})
    assert type(made).__name__ == "Depth" and made.model_dump() == {
        "kind": "mine:Depth",
        "metres": 3.0,
    }
    assert Position.model_validate(made.model_dump()) == made
    sys.modules.pop("mine")


def test_a_plain_dataset_becomes_a_component(waves: str) -> None:
    made = Dataset.model_validate({"kind": waves, "n": 7})
    assert made == PythonDataset(target=waves, arguments={"n": 7})
    assert Dataset.model_validate(json.loads(made.model_dump_json())) == made


def test_the_same_kind_twice_is_an_error_naming_both() -> None:
    kinds = Kinds()

    class One(Position, kind="depth"):
        pass

    class Two(Position, kind="depth"):
        pass

    kinds.add(One, "lom-one")
    kinds.add(One, "lom-one")  # the same class again is harmless
    with pytest.raises(
        PluginError, match=r"position 'depth' is provided twice, by lom-one and by lom-two"
    ):
        kinds.add(Two, "lom-two")
    assert kinds.get("position", "depth") is One


def test_a_class_without_a_kind_cannot_be_registered() -> None:
    class Nameless(Position):
        pass

    with pytest.raises(PluginError, match="Nameless has no kind"):
        Kinds().add(Nameless, "lom-x")


# ---------------------------------------------------------------------------------- modalities


def test_the_guides_constructor_call_works() -> None:
    images = ModalityConfig(
        name="images",
        input_size=768,
        patch_size=16,
        loss_weight=1.0,
        embed_pos=True,
        pos_input_size=1,
    )
    assert images.tokeniser.width == 768 and images.position == Index()
    spectra = ModalityConfig(
        name="spectra",
        input_size=256,
        patch_size=256,
        pos_input_size=256,
        loss_weight=0.5,
        embed_pos=False,
    )
    assert spectra.position.kind == "mlp" and spectra.tokeniser.pos_width == 256
    registry = ModalityRegistry([images, spectra])
    assert registry.names() == ["images", "spectra"] == registry.generate_sequence()
    assert registry.get_config("spectra") is spectra
    assert {tuple(registry.generate_sequence(shuf=True)) for _ in range(60)} == {
        ("images", "spectra"),
        ("spectra", "images"),
    }
    assert registry.generate_sequence(True, seed=3) == registry.generate_sequence(True, seed=3)


def test_a_resolved_config_gives_itself_again() -> None:
    config = ModalityConfig(name="x", vocab_size=7, loss_weight=0.5)
    assert config.head.kind == "categorical" and config.scale.kind == "identity"
    assert ModalityConfig.model_validate(json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "x"}, "modality 'x' needs input_size"),
        ({"name": "id", "input_size": 1}, "'id' cannot name a modality"),
        ({"name": "x_positions", "input_size": 1}, "cannot name a modality"),
        ({"name": "a b", "input_size": 1}, "pattern"),
        (
            {"name": "x", "input_size": 3, "tokeniser": {"kind": "ready", "values": 4}},
            r"input_size=3 of modality 'x' does not fit its tokeniser 'ready', which has 4",
        ),
        (
            {"name": "x", "input_size": 3, "kind": "galaxy_pictures"},
            "unknown modality 'galaxy_pictures'",
        ),
    ],
)
def test_impossible_modalities(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModalityConfig.model_validate(fields)


def test_registry_errors() -> None:
    x = ModalityConfig(name="wave", input_size=1)
    with pytest.raises(
        ConfigError, match=r"unknown modality 'wav'; did you mean 'wave'\?; this run has: wave"
    ):
        ModalityRegistry([x]).get_config("wav")
    with pytest.raises(ConfigError, match="two modalities are named 'wave'"):
        ModalityRegistry([x, x])
    with pytest.raises(ConfigError, match="at least one"):
        ModalityRegistry([])


def test_an_objective_and_a_tokeniser_say_what_they_lack() -> None:
    class Half(Tokeniser):
        pass

    with pytest.raises(ConfigError, match="needs encode and decode"):
        Half().build()
    assert Objective.model_validate({"kind": "masked", "ratio": 0.3}) == Masked(ratio=0.3)


class Wrapped(Tokeniser, kind="wrapped_for_a_test", takes="algorithm"):
    algorithm: str = "plain"


def test_a_kind_may_take_one_field_after_a_colon() -> None:
    with installed(Wrapped):
        found = Tokeniser.model_validate("wrapped_for_a_test:REMI")
        assert found == Wrapped(algorithm="REMI")
        assert found.model_dump() == {"kind": "wrapped_for_a_test", "algorithm": "REMI"}
        assert Tokeniser.model_validate(found.model_dump()) == found
        given = Tokeniser.model_validate({"kind": "wrapped_for_a_test:TSD"})
        assert given == Wrapped(algorithm="TSD")
        with pytest.raises(ValidationError, match=r"no module named .one_number."):
            Tokeniser.model_validate("one_number:x")  # a kind that takes nothing
