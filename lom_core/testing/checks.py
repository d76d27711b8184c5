"""The checks: each is a promise that a modality keeps, tried on raw values of it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lom_core.errors import BadRecord
from lom_core.modality import ModalityConfig, ModalityRegistry
from lom_core.roles import Encoder, SequenceEncoder, Tokens
from lom_core.testing.changes import all_nan, changed, n_observed, one_nan, same, table
from lom_core.testing.tiny import build, fit, prepare

N_LATENT, N_HELD_OUT = 256, 64
HEAVY = ("torch", "astropy", "datasets", "matplotlib", "pandas", "xarray", "scipy", "PIL", "mido")


@dataclass(frozen=True)
class Subject:
    """What is checked: a modality, and raw values as its data sets yield them.

    Args:
        modality: the config.
        values: at least three observations.
        bound: largest error of ``encode(decode(tokens))`` in the observed content.
    """

    modality: ModalityConfig
    values: Sequence[Any]
    bound: float = 0.0

    @property
    def encoder(self) -> Encoder:
        return self.modality.tokeniser.build()

    def encode(self, value: Any, encoder: Encoder | None = None) -> Tokens:
        """Tokens as a reader passes them on: checked, in the contract's dtypes."""
        from lom_core.data import checked

        return checked((encoder or self.encoder).encode(value), self.modality)

    def tokens(self) -> list[Tokens]:
        return [self.encode(value) for value in self.values]


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
    for value in subject.values:
        subject.encode(value)  # shapes, and what is finite
        tokens = subject.encoder.encode(value)
        assert len(tokens) > 0, "a value without any token"
        for name in ("positions", "weights"):
            dtype = getattr(getattr(tokens, name), "dtype", np.float32)  # weights may be None
            assert dtype == np.float32, f"{name} are {dtype}: use float32"
        kind = tokens.content.dtype.kind
        discrete = subject.modality.tokeniser.vocab_size > 0
        assert kind in ("i" if discrete else "uif"), f"content is {tokens.content.dtype}"
        assert tokens.content.dtype.itemsize <= 8 - 4 * (kind == "f"), (
            "float64 content: use float32"
        )
        assert tokens.content.dtype.isnative, "content is not in the machine's byte order"


def check_is_deterministic(subject: Subject) -> None:
    """The same tokens twice, from a pickled encoder, and in a spawned worker process."""
    from lom_core.data import checked

    sent = pickle.loads(pickle.dumps(subject.encoder))  # noqa: S301  our own bytes
    for encoder in (subject.encoder, sent):
        again = [subject.encode(value, encoder) for value in subject.values]
        for first, second in zip(subject.tokens(), again, strict=True):
            _assert_same(first, second, "encoding twice gives")
    # As a spawned worker has it: nothing but what pickle carries. (A pool would wait for ever for
    # a worker that cannot start.)
    elsewhere = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE],
        input=pickle.dumps((sys.path, pickle.dumps((sent, list(subject.values))))),
        capture_output=True,
    )
    assert elsewhere.returncode == 0, elsewhere.stderr.decode(errors="replace")[-500:]
    raw = pickle.loads(elsewhere.stdout)  # noqa: S301  our own bytes
    again = [checked(tokens, subject.modality) for tokens in raw]
    for first, second in zip(subject.tokens(), again, strict=True):
        _assert_same(first, second, "a spawned worker gives")


_ELSEWHERE = """
import pickle, sys
sys.path[:], sent = pickle.load(sys.stdin.buffer)
encoder, values = pickle.loads(sent)
sys.stdout.buffer.write(pickle.dumps([encoder.encode(value) for value in values]))
"""


def _assert_same(first: Tokens, second: Tokens, told: str) -> None:
    shape = first.content.reshape(len(first), -1).shape
    kept = np.broadcast_to(first.observed, shape)
    assert len(first) == len(second), f"{told} another number of tokens"
    same = first.content.reshape(shape) == second.content.reshape(shape)
    assert (same | ~kept).all(), f"{told} other content"
    assert np.array_equal(first.positions, second.positions), f"{told} other positions"


def check_nan_never_passes(subject: Subject) -> None:
    """A value with a NaN in it is refused, or its NaN gets weight 0; all NaN is refused."""
    for value, tokens in zip(subject.values[:3], subject.tokens(), strict=False):
        for change in (one_nan, all_nan):
            for broken in changed(value, change):
                try:
                    found = subject.encode(broken)
                except BadRecord:
                    continue
                assert not (change is all_nan and isinstance(value, np.ndarray)), (
                    "nothing but NaN is no observation"
                )
                fewer = n_observed(found) < n_observed(tokens)
                assert fewer or same(tokens, found), "a NaN became an observed value"


def check_keeps_units(subject: Subject) -> None:
    """Values twice as large are other tokens: what was divided out could not be decoded."""
    for value, tokens in zip(subject.values[:3], subject.tokens(), strict=False):
        twins = zip(
            changed(value, lambda array: array * 2),
            changed(value, lambda array: -array),
            strict=True,
        )
        for twice, minus in twins:
            try:
                alike = same(tokens, subject.encode(twice))
                # Errors and masks may only weigh; what changes with its sign is content.
                weighs = same(tokens, subject.encode(minus))
            except BadRecord:
                continue
            assert weighs or not alike, (
                "values twice as large give the same tokens: decode cannot know the unit (leave "
                "scaling to the modality's scale, or put the factor into a token)"
            )


def check_inverts(subject: Subject) -> None:
    """What is decoded encodes to the same observed content, within the bound, in its places."""
    encoder = subject.encoder
    for tokens in subject.tokens():
        again = subject.encode(encoder.decode(tokens))
        n = len(tokens)
        assert len(again) == n, f"{n} tokens decode and encode to {len(again)}"
        kept = np.broadcast_to(tokens.observed, table(tokens).shape)
        one, two = (table(t).astype(np.float64) for t in (tokens, again))
        worst = float(np.abs(np.where(kept, one - two, 0)).max())
        assert worst <= subject.bound, (
            f"content is off by {worst:g}, the bound is {subject.bound:g}"
        )
        places, told = (t.positions[kept.any(axis=1)] for t in (tokens, again))
        assert np.allclose(places, told, rtol=1e-5, atol=1e-6), (
            f"positions are off by {np.abs(places - told).max():g}: decode loses where values stood"
        )


def check_short_observations(subject: Subject) -> None:
    """Windows of an observation decode too, and one token alone has a loss and a gradient.

    Observations longer than a row are cropped, so any window may be what the model gets.
    """
    for tokens in subject.tokens():
        for window in (tokens[:1], tokens[len(tokens) // 2 :], tokens[len(tokens) - 1 :]):
            if window.observed.any():
                subject.encoder.decode(window)
    model, rows = _model_and_rows(subject, [tokens[:1] for tokens in subject.tokens()])
    loss = _summed_loss(model, rows, subject)
    assert bool(loss.isfinite()), "one token alone has no finite loss"
    loss.backward()
    gradients = [p.grad for p in model.part(subject.modality.name).parameters()]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients), "nor a gradient"


def check_picture_draws(subject: Subject) -> None:
    """``picture`` draws an observation beside itself."""
    from matplotlib.figure import Figure

    value = subject.encoder.decode(subject.tokens()[0])
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    subject.modality.picture(figure, value, value)
    assert figure.get_axes() or figure.subfigs, "nothing was drawn"


def check_writes_files(subject: Subject) -> None:
    """A decoded observation is written under the path that is asked for, dots and all."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "observation-q0.05"
        written = subject.modality.write(subject.encoder.decode(subject.tokens()[0]), path)
        assert isinstance(written, Path), f"write() gave {written!r}, not the path of its file"
        assert written.is_file() and written.stat().st_size, f"{written} was not written"
        assert written.name.startswith(path.name), f"{written.name} is not {path.name} + an ending"


def check_places_follow_from_contents(subject: Subject) -> None:
    """An encoder that says where tokens stand from their contents says what it encodes."""
    encoder = subject.encoder
    if not isinstance(encoder, SequenceEncoder):
        return
    for tokens in subject.tokens():
        told = encoder.places(tokens.content) - tokens.positions
        assert np.allclose(told, told[:1]), "places() and the positions of encode() differ"


def check_predictors_guess_from_before(subject: Subject) -> None:
    """``predictors`` names the same guesses for every observation, each from earlier tokens."""
    guess_of, names = subject.modality.predictors, None
    for tokens in subject.tokens():
        half = tokens[: (len(tokens) + 1) // 2]
        found, before = guess_of(tokens), guess_of(half)
        names = list(found) if names is None else names
        assert list(found) == list(before) == names, f"{list(found)}, elsewhere {names}"
        for name, guess in found.items():
            shape = tokens.content.shape
            assert guess.shape == shape, f"'{name}' is {guess.shape}, the content {shape}"
            same = np.array_equal(guess[: len(half)], before[name], equal_nan=True)
            assert same, f"'{name}' changes with what comes later"


def check_packed_equals_unpacked(subject: Subject) -> None:
    """Losses do not depend on what stands beside an observation, nor on the order."""
    model, rows = _model_and_rows(subject)
    alone = sum(_loss(model, [row], subject) for row in rows)
    for several in (rows, rows[::-1]):
        together = _loss(model, several, subject)
        assert abs(together - alone) <= 1e-4 * max(1.0, abs(alone)), f"{together} is not {alone}"


def check_what_is_not_observed_changes_nothing(subject: Subject) -> None:
    """A value of weight 0 may be anything: losses and answers stay the same to the bit."""
    if subject.modality.tokeniser.vocab_size:
        return  # discrete tokens are observed or left out
    losses, answers = set(), []
    for value in (0, 100):
        changed = []
        for tokens in subject.tokens():
            given = 1.0 if tokens.weights is None else tokens.weights
            weights = np.array(np.broadcast_to(given, tokens.content.shape), np.float32)
            content = tokens.content.copy()
            weights[::2, 0], content[::2, 0] = 0, value
            if weights.any():
                changed.append(Tokens(content, tokens.positions, weights))
        if not changed:
            return  # one value an observation: without it there is none
        model, rows = _model_and_rows(subject, changed)
        losses.add(_loss(model, rows, subject))
        answers.append(model.predict(prepare(model, rows))[subject.modality.name])
    assert len(losses) == 1, f"losses differ: {losses}"
    assert bool((answers[0] == answers[1]).all()), "answers differ"


def check_absent_has_zero_gradients(subject: Subject) -> None:
    """In a batch that lacks the modality its parameters get zeros, not None."""
    from lom_core.batch import pack_row

    model, _ = _model_and_rows(subject)
    name = subject.modality.name
    sum(model(prepare(model, [pack_row([], 8, [name])])).values()).backward()
    for key, parameter in model.part(name).named_parameters():
        assert parameter.grad is not None, f"{key} has no gradient"
        assert not parameter.grad.any(), f"{key} has a gradient from nothing"


def check_missing_is_allowed(subject: Subject) -> None:
    """Beside a modality that every object has, an object without this one is an observation."""
    from lom_core.builtin import Scalar
    from lom_core.data import Reader
    from lom_core.sources import ListSource

    name = subject.modality.name
    registry = ModalityRegistry([subject.modality, Scalar(name="other")])
    records = [{name: subject.values[0], "other": 1.0}, {"other": 2.0}, {name: None, "other": 3.0}]
    reader = Reader(ListSource(records), registry, block_size=1 << 20)
    for index, expected in enumerate([{name, "other"}, {"other"}, {"other"}]):
        found = set(reader.read(index, None).tokens)
        assert found == expected, f"an observation of {found}, expected {expected}"


def check_learns(subject: Subject) -> None:
    """A tiny model, trained on the values for a few seconds, predicts them better than at first."""

    model, rows = _model_and_rows(subject)
    before = _loss(model, rows, subject)
    fit(model, rows, subject.modality.name, "next_token", steps=40, lr=3e-3)
    after = _loss(model, rows, subject)
    assert after < before, f"the loss went from {before:g} to {after:g}"


def check_recovers_the_latent(subject: Subject) -> None:
    """From made-up observations a tiny model tells the number that each was made from.

    Seconds on a CPU, on objects that it was not trained on, and better than the best constant. A
    modality that makes up nothing (``synth``) has nothing to recover.
    """
    from lom_core.builtin import Scalar

    if type(subject.modality).synth is ModalityConfig.synth:
        return
    rng = np.random.default_rng(1)
    made = [subject.modality.synth(rng) for _ in range(N_LATENT + N_HELD_OUT)]
    name = subject.modality.name
    latent = Scalar(name=f"latent_of_{name}")
    label = latent.tokeniser.build()
    samples = [{name: subject.encode(v), latent.name: label.encode(z)} for v, z in made]
    model, rows = build([subject.modality, latent], samples, n_fit=N_LATENT)
    fit(model, rows[:N_LATENT], latent.name, _given(name), steps=120, lr=1e-2)
    batch = prepare(model, rows[N_LATENT:], _given(name))
    answers = model.eval().predict(batch)[latent.name].flatten().double().numpy()
    truth = np.array([z for _, z in made])
    error = float(np.sqrt(np.mean((answers - truth[N_LATENT:]) ** 2)))
    chance = float(np.sqrt(np.mean((truth[:N_LATENT].mean() - truth[N_LATENT:]) ** 2)))
    assert error < 0.9 * chance, f"off by {error:.3g} on new objects, a constant by {chance:.3g}"


def _given(name: str) -> dict[str, Any]:
    return {"kind": "prefix", "given": [name]}


CHECKS: tuple[Callable[[Subject], None], ...] = tuple(
    check for name, check in list(globals().items()) if name.startswith("check_")
)


def _model_and_rows(subject: Subject, samples: Sequence[Tokens] | None = None) -> tuple[Any, Any]:
    """A small model with fitted scales, and a row for each observation."""
    samples = subject.tokens() if samples is None else samples
    return build([subject.modality], [{subject.modality.name: tokens} for tokens in samples])


def _summed_loss(model: Any, rows: Any, subject: Subject) -> Any:
    """The summed next-token loss, a tensor."""
    return model(prepare(model, rows))[subject.modality.name]


def _loss(model: Any, rows: Any, subject: Subject) -> float:
    import torch

    with torch.no_grad():
        return float(_summed_loss(model, rows, subject))
