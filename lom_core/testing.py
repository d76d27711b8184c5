"""The conformance kit: is this modality right? Named checks, for anybody's plugin.

    from lom_core.testing import conforms

    @pytest.mark.parametrize("check", conforms({"kind": "seismograms"}, traces, bound=1e-6))
    def test_conforms(check):
        check()

Each check is a function ``check_*`` of a :class:`Subject`; it raises AssertionError with what was
expected and what was found. ``expect_failures={"check_inverts": "lossy by design"}`` says which
cannot pass, and why; one that then passes is an error too.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lom_core.component import KINDS, Component
from lom_core.errors import ConfigError, nearest
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Encoder, Tokens

HEAVY = ("torch", "astropy", "datasets", "matplotlib", "pandas", "xarray", "scipy", "PIL", "mido")


@dataclass(frozen=True)
class Subject:
    """What is checked: a modality, and raw values as its data sets yield them.

    Args:
        modality: the config.
        values: at least three observations.
        bound: largest error of ``decode(encode(value))`` in an observed value, physical units.
    """

    modality: ModalityConfig
    values: Sequence[Any]
    bound: float = 0.0

    @property
    def encoder(self) -> Encoder:
        return self.modality.tokeniser.build()

    def tokens(self) -> list[Tokens]:
        from lom_core.data import checked

        return [checked(self.encoder.encode(value), self.modality) for value in self.values]


def conforms(
    modality: ModalityConfig | Mapping[str, Any],
    values: Sequence[Any],
    *,
    bound: float = 0.0,
    expect_failures: Mapping[str, str] | None = None,
) -> list[Callable[[], None]]:
    """The checks as callables, to parametrise a test with; their names are the checks'.

    Args:
        modality: a config, or what a run file would say of it; ``name`` defaults to the kind's.
        values, bound: see :class:`Subject`.
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


# -------------------------------------------------------------------------------------- checks


def check_config_round_trip(subject: Subject) -> None:
    """The dumped config gives an equal one, through JSON and through pickle."""
    modality = subject.modality
    dumped = json.loads(modality.model_dump_json())
    again = ModalityConfig.model_validate(dumped)
    assert again == modality, f"{again} is not {modality}"
    again = pickle.loads(pickle.dumps(modality))  # noqa: S301  our own bytes
    assert again == modality, "pickling changes the config"


def check_imports_lightly(subject: Subject) -> None:
    """Importing the config's module imports nothing heavy: `lom --help` imports every plugin."""
    module = type(subject.modality).__module__
    code = f"import sys, {module}; print(*({set(HEAVY)!r} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert not shown.stdout.split(), f"import {module} imports {shown.stdout.strip()}"


def check_tokens_keep_the_contract(subject: Subject) -> None:
    """Shapes, dtypes, finite observed values, one position a token (docs/batch.md)."""
    for tokens in subject.tokens():
        assert len(tokens) > 0, "a value without any token"
        assert tokens.positions.dtype == np.float32, f"positions are {tokens.positions.dtype}"
        kind = tokens.content.dtype.kind
        discrete = subject.modality.tokeniser.vocab_size > 0
        assert kind in ("i" if discrete else "uif"), f"content is {tokens.content.dtype}"
        assert tokens.content.dtype.itemsize <= 8 - 4 * (kind == "f"), (
            "float64 content: use float32"
        )
        assert tokens.content.dtype.isnative, "content is not in the machine's byte order"


def check_is_deterministic(subject: Subject) -> None:
    """The same tokens twice, and from a pickled encoder (as loader workers have it)."""
    sent = pickle.loads(pickle.dumps(subject.encoder))  # noqa: S301  our own bytes
    for value, first in zip(subject.values, subject.tokens(), strict=True):
        for encoder in (subject.encoder, sent):
            again = encoder.encode(value)
            kept = np.broadcast_to(first.observed, first.content.reshape(len(first), -1).shape)
            same = first.content.reshape(kept.shape) == again.content.reshape(kept.shape)
            assert (same | ~kept).all(), "encoding twice gives other content"
            assert np.array_equal(first.positions, again.positions), "... other positions"


def check_inverts(subject: Subject) -> None:
    """What is decoded encodes to the same observed content, within the bound."""
    encoder = subject.encoder
    for tokens in subject.tokens():
        again = encoder.encode(encoder.decode(tokens))
        n = len(tokens)
        assert len(again) == n, f"{n} tokens decode and encode to {len(again)}"
        kept = np.broadcast_to(tokens.observed, tokens.content.reshape(n, -1).shape)
        one, two = (t.content.reshape(n, -1).astype(np.float64) for t in (tokens, again))
        worst = float(np.abs(np.where(kept, one - two, 0)).max())
        assert worst <= subject.bound, (
            f"content is off by {worst:g}, the bound is {subject.bound:g}"
        )


def check_picture_draws(subject: Subject) -> None:
    """``picture`` draws an observation beside itself."""
    from matplotlib.figure import Figure

    value = subject.encoder.decode(subject.tokens()[0])
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    subject.modality.picture(figure, value, value)
    assert figure.get_axes() or figure.subfigs, "nothing was drawn"


def check_packed_equals_unpacked(subject: Subject) -> None:
    """Losses do not depend on what stands beside an observation, nor on the order."""
    model, rows = _model_and_rows(subject)
    alone = sum(_loss(model, [row], subject) for row in rows)
    for several in (rows, rows[::-1]):
        together = _loss(model, several, subject)
        assert abs(together - alone) <= 1e-4 * max(1.0, abs(alone)), f"{together} is not {alone}"


def check_what_is_not_observed_changes_nothing(subject: Subject) -> None:
    """A value of weight 0 may be anything: losses stay the same to the bit."""
    if subject.modality.tokeniser.vocab_size:
        return  # discrete tokens are observed or left out
    losses = set()
    for value in (0, 100):
        changed = []
        for tokens in subject.tokens():
            given = 1.0 if tokens.weights is None else tokens.weights
            weights = np.array(np.broadcast_to(given, tokens.content.shape), np.float32)
            content = tokens.content.copy()
            weights[::2, 0], content[::2, 0] = 0, value
            if weights.any():
                changed.append(Tokens(content, tokens.positions, weights))
        model, rows = _model_and_rows(subject, changed)
        losses.add(_loss(model, rows, subject))
    assert len(losses) == 1, f"losses differ: {losses}"


def check_absent_has_zero_gradients(subject: Subject) -> None:
    """In a batch that lacks the modality its parameters get zeros, not None."""
    from lom_core.batch import pack_row
    from lom_core.roles import Objective

    model, _ = _model_and_rows(subject)
    name = subject.modality.name
    batch = Objective.model_validate("next_token").prepare([pack_row([], 8, [name])], model.layouts)
    sum(model(batch).values()).backward()
    for key, parameter in model.part(name).named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert not parameter.grad.any(), f"{key} has a gradient from nothing"


def check_learns(subject: Subject) -> None:
    """A tiny model, trained on the values for a few seconds, predicts them better than at first."""
    import torch

    from lom_core.roles import Objective

    model, rows = _model_and_rows(subject)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = _loss(model, rows, subject)
    for _ in range(40):
        batch = Objective.model_validate("next_token").prepare(rows, model.layouts)
        loss = sum(model(batch).values()) / max(batch.counts[subject.modality.name], 1e-12)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = _loss(model, rows, subject)
    assert after < before, f"the loss went from {before:g} to {after:g}"


CHECKS: tuple[Callable[[Subject], None], ...] = tuple(
    check for name, check in list(globals().items()) if name.startswith("check_")
)


def _model_and_rows(subject: Subject, samples: Sequence[Tokens] | None = None) -> tuple[Any, Any]:
    """A small model with fitted scales, and a row for each observation."""
    import torch

    from lom_core.batch import Observation, pack_row
    from lom_core.config import ModelConfig
    from lom_core.model import Lom

    name = subject.modality.name
    samples = subject.tokens() if samples is None else samples
    torch.manual_seed(0)
    model = Lom(ModalityRegistry([subject.modality]), ModelConfig(n_layer=1, n_head=2, n_embd=32))
    model.fit_scales({name: list(samples)})
    observations = [Observation(str(i), {name: t}, seed=i) for i, t in enumerate(samples)]
    return model, [pack_row([o], o.n_slots, [name]) for o in observations]


def _loss(model: Any, rows: Any, subject: Subject) -> float:
    """The summed next-token loss."""
    import torch

    from lom_core.roles import Objective

    with torch.no_grad():
        batch = Objective.model_validate("next_token").prepare(rows, model.layouts)
        return float(model(batch)[subject.modality.name])
