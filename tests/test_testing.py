"""The conformance kit finds what is wrong: each broken tokeniser fails the check it should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError

from lom_core.component import KINDS
from lom_core.errors import ConfigError
from lom_core.modality import ModalityConfig
from lom_core.roles import Position, Tokeniser, Tokens
from lom_core.testing import CHECKS, conforms, installed
from lom_core.testing.changes import changed, one_nan

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


class Normed(Right):
    """Divides each observation by what is nowhere kept; rounding aside it inverts."""

    bound = property(lambda self: 1e-5)

    def encode(self, value: Any) -> Tokens:
        return super().encode(value / np.float32(np.std(value)))


class Filled(Right):
    """Zeros where nothing was measured, as if it had been."""

    def encode(self, value: Any) -> Tokens:
        return super().encode(np.nan_to_num(value))


class Timed(Right):
    """Content in its place: a value is {"values": ..., "rate": Hz}, but decode forgets the rate."""

    rate: float = 20.0

    def encode(self, value: Any) -> Tokens:
        value = value if isinstance(value, dict) else {"values": value, "rate": 40.0}
        tokens = super().encode(value["values"])
        return Tokens(tokens.content, tokens.positions * np.float32(3 / value["rate"]))

    def decode(self, tokens: Tokens) -> Any:
        return {"values": super().decode(tokens), "rate": self.rate}


class Weighed(Right):
    def encode(self, value: Any) -> Tokens:
        tokens = super().encode(value["flux"])
        good = (value["ivar"] > 0).reshape(-1, 3).astype(np.float32)
        return Tokens(tokens.content, tokens.positions, good)

    def decode(self, tokens: Tokens) -> Any:
        return {"flux": super().decode(tokens), "ivar": tokens.observed.reshape(-1) * 1.0}


class Double(Right):
    def encode(self, value: Any) -> Tokens:
        tokens = super().encode(value)
        return Tokens(tokens.content, tokens.positions.astype(np.float64))


def outcomes(
    tokeniser: Tokeniser, values: Sequence[Any] = VALUES, **options: Any
) -> dict[str, str]:
    modality = ModalityConfig(name="x", input_size=3, tokeniser=tokeniser, position="mlp")
    found = {}
    for check in conforms(modality, values, **options):
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
        (Normed(), "check_keeps_units", "values twice as large give the same tokens"),
        (Filled(), "check_nan_never_passes", "a NaN became an observed value"),
        (Timed(), "check_inverts", "positions are off by"),
        (Double(), "check_tokens_keep_the_contract", "positions are float64: use float32"),
        (Wide(), "check_tokens_keep_the_contract", "float64 content: use float32"),
    ],
)
def test_what_is_wrong_is_found(tokeniser: Tokeniser, check: str, message: str) -> None:
    assert message in outcomes(tokeniser)[check]


def test_write_tells_where_it_wrote() -> None:
    class Silent(ModalityConfig):
        def write(self, value: Any, path: Path) -> Path:
            np.save(path, value)
            return None  # type: ignore[return-value]

    modality = Silent(name="x", input_size=3, tokeniser=Right(), position="mlp")
    check = next(c for c in conforms(modality, VALUES) if c.__name__ == "check_writes_files")
    with pytest.raises(AssertionError, match=r"write\(\) gave None, not the path"):
        check()


def test_values_are_changed_inside_whatever_holds_them() -> None:
    class Pair(NamedTuple):
        flux: Any
        band: str

    @dataclass(frozen=True)
    class Star:
        light: Any
        name: str = "SN"

    array = np.arange(3, dtype=np.float32)
    value = {"star": Star([Pair(array, "g"), (array, 1)]), "whole": array.astype(int)}
    copies = list(changed(value, one_nan))
    assert [[p[0].tolist()[1] for p in c["star"].light] for c in copies] == [
        [pytest.approx(np.nan, nan_ok=True), 1],
        [1, pytest.approx(np.nan, nan_ok=True)],
    ]
    assert copies[0]["star"].light[0].band == "g" and array[1] == 1


def test_channels_share_a_token_evenly() -> None:
    class Odd(Right):
        n_channels = property(lambda self: 2)

    with pytest.raises(ValidationError, match="has 3 values a token, which 2 channels cannot"):
        ModalityConfig(name="x", tokeniser=Odd())


def test_a_mask_or_an_error_may_weigh_without_a_unit() -> None:
    values = [{"flux": v, "ivar": np.ones(12, np.float32)} for v in VALUES]
    assert set(outcomes(Weighed(), values=values).values()) == {""}


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
