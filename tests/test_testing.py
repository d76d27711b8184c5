"""The conformance kit finds what is wrong: each broken tokeniser fails the check it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lom_core.component import KINDS
from lom_core.errors import ConfigError
from lom_core.modality import ModalityConfig
from lom_core.roles import Position, Tokeniser, Tokens
from lom_core.testing import CHECKS, conforms, installed

RNG = np.random.default_rng(0)
VALUES = [np.sin(np.linspace(0, 9, 12) + i).astype(np.float32) + 0.1 * i for i in range(5)]


class Right(Tokeniser):
    """Three values a token."""

    width = property(lambda self: 3)

    def encode(self, value: Any) -> Tokens:
        content = np.asarray(value, dtype=np.float32).reshape(-1, 3)
        return Tokens(content, np.arange(len(content), dtype=np.float32)[:, None])

    def decode(self, tokens: Tokens) -> Any:
        return tokens.content.reshape(-1)


class Lossy(Right):
    def decode(self, tokens: Tokens) -> Any:
        return tokens.content.reshape(-1).round(1)


class Fickle(Right):
    def encode(self, value: Any) -> Tokens:
        return super().encode(value + RNG.normal(size=value.shape).astype(np.float32))


class Wide(Right):
    def encode(self, value: Any) -> Tokens:
        tokens = super().encode(value)
        return Tokens(tokens.content.astype(np.float64), tokens.positions)


def outcomes(tokeniser: Tokeniser, **options: Any) -> dict[str, str]:
    modality = ModalityConfig(name="x", input_size=3, tokeniser=tokeniser, position="mlp")
    found = {}
    for check in conforms(modality, VALUES, **options):
        try:
            check()
            found[check.__name__] = ""
        except AssertionError as error:
            found[check.__name__] = str(error) or "failed"
    return found


def test_a_right_modality_passes_every_check() -> None:
    assert outcomes(Right()) == {check.__name__: "" for check in CHECKS}
    assert len(CHECKS) >= 10


@pytest.mark.parametrize(
    ("tokeniser", "check", "message"),
    [
        (Lossy(), "check_inverts", "content is off by 0.0"),
        (Fickle(), "check_is_deterministic", "encoding twice gives other content"),
        (Wide(), "check_tokens_keep_the_contract", "float64 content: use float32"),
    ],
)
def test_what_is_wrong_is_found(tokeniser: Tokeniser, check: str, message: str) -> None:
    assert message in outcomes(tokeniser)[check]


def test_a_bound_and_an_expected_failure_say_what_cannot_be() -> None:
    assert outcomes(Lossy(), bound=0.051)["check_inverts"] == ""
    lossy = {"check_inverts": "one decimal is kept"}
    assert outcomes(Lossy(), expect_failures=lossy)["check_inverts"] == ""
    assert (
        "passes, though expected to fail: one decimal"
        in outcomes(Right(), expect_failures=lossy)["check_inverts"]
    )


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"check_inverts": " "}, "must say why"),
        ({"check_invert": "x"}, r"no check 'check_invert'; did you mean 'check_inverts'\?"),
    ],
)
def test_expected_failures_are_checked(failures: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        outcomes(Right(), expect_failures=failures)


def test_installed_lends_a_kind() -> None:
    class Depth(Position, kind="depth_for_a_test"):
        pass

    with installed(Depth):
        assert KINDS.get("position", "depth_for_a_test") is Depth
    assert "depth_for_a_test" not in KINDS.names("position")
