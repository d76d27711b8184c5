"""The conformance kit: is this modality right? Named checks, for anybody's plugin.

    from lom_core.testing import conforms

    @pytest.mark.parametrize("check", conforms({"kind": "seismograms"}, traces))
    def test_conforms(check):
        check()

Each check is a function ``check_*`` of a :class:`Subject` (lom_core.testing.checks); it raises
AssertionError with what was expected and what was found. ``expect_failures={"check_inverts": "lossy
by design"}`` says which cannot pass, and why; one that then passes is an error too.

``lom plugins check NAME`` runs the same checks on every modality that a plugin registers, on values
that the modality makes up itself (``ModalityConfig.synth``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from pydantic import ValidationError

from lom_core.component import KINDS, Component
from lom_core.errors import ConfigError, LomError, nearest
from lom_core.modality import ModalityConfig
from lom_core.plugins import installed_plugins
from lom_core.testing.checks import CHECKS, Subject

N_SYNTH = 5


def conforms(
    modality: ModalityConfig | Mapping[str, Any],
    values: Sequence[Any],
    *,
    bound: float | None = None,
    expect_failures: Mapping[str, str] | None = None,
) -> list[Callable[[], None]]:
    """The checks as callables, to parametrise a test with; their names are the checks'.

    Args:
        modality: a config, or what a run file would say of it; ``name`` defaults to the kind's.
        values: at least three raw observations, as a data set yields them.
        bound: largest error of ``encode(decode(tokens))`` in the observed content; that which the
            tokeniser declares if left out.
        expect_failures: name of a check -> why it cannot pass.

    Errors:
        ConfigError: fewer than three values, an expected failure without a reason or of no check.
    """
    if isinstance(modality, Mapping):
        modality = ModalityConfig.model_validate(dict(modality))
    if len(values) < 3:
        raise ConfigError(f"conforms() needs at least 3 values, got {len(values)}")
    expected = dict(expect_failures or {})
    names = [check.__name__ for check in CHECKS]
    for name, reason in expected.items():
        if name not in names:
            raise ConfigError(
                f"no check '{name}'{nearest(name, names)}; there are: {', '.join(names)}"
            )
        if not reason.strip():
            raise ConfigError(f"expect_failures of '{name}' must say why")
    bound = modality.tokeniser.bound if bound is None else bound
    subject = Subject(modality, values, bound)
    return [_named(check, subject, expected.get(check.__name__)) for check in CHECKS]


def _named(
    check: Callable[[Subject], None], subject: Subject, why: str | None
) -> Callable[[], None]:
    run = partial(_run, check, subject, why)
    run.__name__ = check.__name__  # type: ignore[attr-defined]  # pytest shows it
    return run


def _run(check: Callable[[Subject], None], subject: Subject, why: str | None) -> None:
    try:
        check(subject)
    except AssertionError:
        if why is None:
            raise
        return
    assert why is None, f"{check.__name__} passes, though expected to fail: {why}"


@dataclass(frozen=True)
class Outcome:
    """What a check of an installed modality found; ``problem`` is empty where it passed."""

    modality: str
    check: str
    problem: str


def check_plugin(distribution: str) -> Iterator[Outcome]:
    """Run every check on every modality that an installed plugin registers.

    A modality whose fields have no defaults, or that makes up no values (``synth``), has the one
    outcome that says so.

    Errors:
        ConfigError: no such plugin, one that does not load, or one without a modality.
    """
    found = {plugin.distribution: plugin for plugin in installed_plugins()}
    if distribution not in found:
        known = [name for name in found if name != "lom-core"]
        raise ConfigError(
            f"no plugin '{distribution}'{nearest(distribution, known)}; "
            f"installed: {', '.join(known) or 'none'}"
        )
    plugin = found[distribution]
    if plugin.error:
        raise ConfigError(f"{distribution} {plugin.version} does not load: {plugin.error}")
    # The core's `tokens` holds what somebody else made: there is nothing of its own to check.
    kinds = [kind for role, kind in plugin.kinds if role == "modality" and kind != "tokens"]
    if not kinds:
        raise ConfigError(f"{distribution} registers no modality; the checks are of modalities")
    for kind in kinds:
        yield from _check_kind(kind)


def _check_kind(kind: str) -> Iterator[Outcome]:
    rng = np.random.default_rng(0)
    try:
        example = cast(type[ModalityConfig], KINDS.get("modality", kind)).example
        modality = ModalityConfig.model_validate({"kind": kind, "name": "checked", **example})
        values = [modality.synth(rng)[0] for _ in range(N_SYNTH)]
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) or e["msg"] for e in error.errors())
        yield Outcome(kind, "defaults", f"cannot be made from its kind alone: {fields}")
        return
    except LomError as error:
        yield Outcome(kind, "synth", str(error))
        return
    for check in conforms(modality, values):
        try:
            check()
        except Exception as error:  # noqa: BLE001  a stranger's code may fail in any way
            told = " ".join(str(error).split()) or "failed"
            told = told if isinstance(error, AssertionError) else f"{type(error).__name__}: {told}"
            yield Outcome(kind, check.__name__, told)
        else:
            yield Outcome(kind, check.__name__, "")


@contextmanager
def installed(*components: type[Component]) -> Iterator[None]:
    """The components as if a plugin had brought them, and gone afterwards."""
    KINDS.items()  # what is really installed comes first
    try:
        for cls in components:
            KINDS.add(cls, "lom-testing")
        yield
    finally:
        KINDS.drop("lom-testing")


__all__ = ["CHECKS", "Outcome", "Subject", "check_plugin", "conforms", "installed"]
