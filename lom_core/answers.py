"""How a trained model answers: given these tokens, what is at those positions?

A model that answers *in turn* (causal) is asked for one token after the other; each answer is shown
before the next is asked for. What a slot knows never changes once the question in it is known, so
that keys and values are kept and each step reads one new slot. A model that answers *at once*
(masked) reads all questions in one pass, as if the answers did not depend on one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from lom_core.attention import Past
from lom_core.batch import Batch, Layout, Observation, Span, pack, pack_row
from lom_core.heads import Draw
from lom_core.model import Lom, Parts
from lom_core.objectives import hide, next_token, prefix
from lom_core.roles import Array, Objective, SequenceEncoder, Tokens

Given = Mapping[str, Tokens]


@dataclass(frozen=True)
class Answer:
    """What a model answers about one observation, s times.

    Args:
        tokens: s Tokens (n_i, ...) in physical units, without what was given.
        h: (s, n, d) hidden states that the heads read; n is the longest of the n_i.
    """

    tokens: list[Tokens]
    h: Tensor


def pose(
    objective: Objective,
    layouts: Mapping[str, Layout],
    observations: Sequence[Observation],
    hidden: Mapping[str, int],
) -> Batch:
    """A batch that asks for the last ``hidden[m]`` tokens of each modality m, in each observation.

    Observations have the same lengths, modalities with hidden tokens last. In turn, all other
    tokens are asked for, too, as in training, and a hidden one is shown to those after it; at once
    nobody sees it.
    """
    rows = [pack_row([o], o.n_slots, list(layouts)) for o in observations]
    if objective.in_turn:
        leads = [name for name in objective.leads if name not in hidden]
        return prefix(rows, layouts, leads) if leads else next_token(rows, layouts)
    batch = pack(rows, layouts)

    def last(span: Span, n: int) -> Tensor:
        """(tokens,) True at the last n of each observation."""
        each = len(span.slots) // len(observations)
        return torch.arange(len(span.slots)) % max(each, 1) >= each - n

    return hide(batch, {m: last(span, hidden.get(m, 0)) for m, span in batch.spans.items()})


def at_once(
    model: Lom,
    objective: Objective,
    given: Given,
    target: str,
    positions: Array,
    draw: Draw | None,
    times: int = 1,
) -> Answer:
    """Answers of a model that reads all questions in one pass.

    Args:
        positions: (n, p) that are asked for.
        draw: how to sample; None takes the point.
    """
    part, n = model.part(target), len(positions)
    observation = _observed(given, target, _blank(part, positions))
    batch = pose(objective, model.layouts, [observation], {target: n}).to(model.bos.device)
    h = model.hidden(batch)[batch.spans[target].ask_slots]
    at = torch.as_tensor(positions, device=h.device)
    tokens = [Tokens(_numpy(_content(part, h, at, draw)), positions) for _ in range(times)]
    return Answer(tokens, repeat(h, "n d -> s n d", s=times))


def in_turn(
    model: Lom,
    objective: Objective,
    given: Given,
    target: str,
    where: Array | SequenceEncoder,
    draw: Draw | None,
    times: int = 1,
    longest: int = 0,
    cache: bool = True,
) -> Answer:
    """Answers of a causal model, each shown before the next is asked for.

    Args:
        given: all that is known, the first tokens of the target included.
        where: positions (n, p) that are asked for; or the encoder, which tells where the next
            token stands from those before it: until its end token, or ``longest`` tokens.
        draw: how to sample; None takes the point.
        times: roll-outs, which draw apart.
        cache: keep keys and values. False reads everything anew for each token: the same answers,
            slowly.
    """
    start = given.get(target)
    course = _Course(model.part(target), start, where, times)
    most = len(where) if isinstance(where, np.ndarray) else longest
    reader = (_Kept if cache else _Anew)(model, objective, given, target, course, most)
    hidden: list[Tensor] = []
    for i in range(most):
        h = reader.ask(i)  # (s, d)
        hidden.append(h)
        at = torch.as_tensor(course.asked(i), device=h.device)
        course.take(_numpy(_content(course.part, h, at, draw)))
        if course.closed.all():
            break
    return Answer(course.tokens(), torch.stack(hidden, dim=1))


class _Course:
    """What s roll-outs have answered so far: content (s, i, w) or (s, i), positions (s, i, p)."""

    def __init__(
        self, part: Parts, start: Tokens | None, where: Array | SequenceEncoder, times: int
    ) -> None:
        self.part, self.start, self.where, self.times = part, start, where, times
        self.content: list[Array] = []  # (s, w) or (s,) each
        self.positions: list[Array] = []  # (s, p) each
        self.closed = np.zeros(times, bool)
        self.lengths = np.zeros(times, np.int64)

    def asked(self, i: int) -> Array:
        """(s, p) float32: where token i is asked for; where contents tell, as of token 0."""
        if isinstance(self.where, np.ndarray):
            return np.repeat(self.where[i : i + 1], self.times, axis=0).astype(np.float32)
        return self._told(np.zeros(self.times, np.int64))

    def take(self, content: Array) -> None:
        """The answers (s, w) or (s,) to token i."""
        i = len(self.content)
        told = isinstance(self.where, np.ndarray)
        self.positions.append(self.asked(i) if told else self._told(content))
        self.content.append(content)
        self.lengths[~self.closed] += 1
        end = None if told else self.where.end  # type: ignore[union-attr]
        if end is not None:
            self.closed |= content == end

    def tokens(self) -> list[Tokens]:
        content, positions = np.stack(self.content, axis=1), np.stack(self.positions, axis=1)
        return [
            Tokens(content[s, :n], positions[s, :n].astype(np.float32))
            for s, n in enumerate(self.lengths)
        ]

    def _told(self, content: Array) -> Array:
        """(s, p): where tokens (s,) stand that follow those so far, which begin with the given."""
        assert not isinstance(self.where, np.ndarray)
        known = np.zeros(0, np.int64) if self.start is None else self.start.content
        places, found = self.where.places, []
        for s in range(self.times):
            mine = np.array([c[s] for c in self.content] + [content[s]], dtype=np.int64)
            at = places(np.concatenate([known, mine]))[-1]
            if self.start is not None:  # a window's clock may not begin at 0
                at = at + self.start.positions[-1] - places(known)[-1]
            found.append(at)
        return np.stack(found).astype(np.float32)


@dataclass
class _Anew:
    """Reads the whole observation for each question: slow, and plain to see that it is right."""

    model: Lom
    objective: Objective
    given: Given
    target: str
    course: _Course
    most: int  # questions that there can be

    def batch(self, i: int, times: int) -> Batch:
        course, n = self.course, i + 1
        content = [*course.content, _blank(course.part, course.asked(i)).content]
        positions = [*course.positions, course.asked(i)]
        observations = [
            _observed(
                self.given,
                self.target,
                Tokens(np.stack([c[s] for c in content]), np.stack([p[s] for p in positions])),
            )
            for s in range(times)
        ]
        batch = pose(self.objective, self.model.layouts, observations, {self.target: n})
        return batch.to(self.model.bos.device)

    def ask(self, i: int) -> Tensor:
        """(s, d): the answers to question i."""
        batch = self.batch(i, self.course.times)
        h = self.model.hidden(batch)
        slots = batch.spans[self.target].slots.reshape(self.course.times, -1)[:, -1]
        return h[slots - 1]


@dataclass
class _Kept(_Anew):
    """Reads what is given once, then one slot for each question."""

    def __post_init__(self) -> None:
        self.n_given = 1 + sum(len(t) for t in self.given.values())
        room = self.n_given + self.most
        self.pasts = [Past(self.course.times, room) for _ in self.model.body.blocks]

    def ask(self, i: int) -> Tensor:
        return self._first() if i == 0 else self._next(i)

    def _first(self) -> Tensor:
        """What is given, with the first question in its last slot; the same for all roll-outs."""
        batch, g = self.batch(0, 1), self.n_given
        x = self.model.embed(batch)[:g]
        starts, given = torch.tensor([0, g]).int(), batch.given[:1].clamp(max=g)
        places = torch.arange(g, device=x.device)
        h: Tensor = self.model.body(x, starts, given, places, self.pasts)
        return h[-1:].expand(self.course.times, -1)

    def _next(self, i: int) -> Tensor:
        """The slot of answer i - 1, with question i."""
        course, s = self.course, self.course.times
        every, device = torch.arange(s), self.model.bos.device
        known = Span(
            content=torch.as_tensor(course.content[-1]),
            positions=torch.as_tensor(course.positions[-1]),
            weights=torch.ones(s, 1),
            slots=every,
            shown=every,
            asked=every,
        )
        asked = replace(known, positions=torch.as_tensor(course.asked(i)))
        x = course.part.known(known.to(device)) + course.part.question(asked.to(device))
        starts, given = torch.arange(s + 1).int(), torch.zeros(s).int()
        places = torch.full((s,), self.n_given + i - 1, device=device)
        h: Tensor = self.model.body(x, starts, given, places, self.pasts)
        return h


def log_likelihood(
    model: Lom, objective: Objective, given: Given, hidden: Given
) -> dict[str, float]:
    """Nats of each hidden modality in physical units: ln p(hidden | given).

    In turn, each token's given those before it, whose sum is the logarithm of the joint density;
    at once, each token's given what is given alone. A (n, w) density is one of the values that were
    observed, in stored units: the scale's derivative is in it.

    Errors:
        ConfigError: a head has no likelihood.
    """
    observation = Observation("", {**given, **hidden})
    n_hidden = {name: len(tokens) for name, tokens in hidden.items()}
    batch = pose(objective, model.layouts, [observation], n_hidden).to(model.bos.device)
    h = model.hidden(batch)
    found = {}
    for name in hidden:
        part, span = model.part(name), batch.spans[name]
        target, weights = part.target(span)
        nats = part.head.log_prob(h[span.ask_slots], target)
        if not part.discrete:
            content, at = span.content[span.asked], span.positions[span.asked]
            nats = nats + part.scale.log_jacobian(content, at)
        seen = (weights > 0).expand_as(nats)
        found[name] = float(
            torch.where(seen, nats, torch.zeros_like(nats)).sum(dtype=torch.float64)
        )
    return found


def quantiles(part: Parts, h: Tensor, positions: Array, levels: Sequence[float]) -> Array:
    """(k, n, w) in physical units at levels (k,): scales rise, so quantiles stay quantiles."""
    found = part.head.quantiles(h, torch.tensor(levels, device=h.device))
    return physical(part, found, positions)


def physical(part: Parts, values: Tensor, positions: Array) -> Array:
    """Model units (k, n, w) -> physical ones."""
    at = torch.as_tensor(positions, device=values.device)
    return np.stack([_numpy(part.scale.inverse(one, at)) for one in values])


def _content(part: Parts, h: Tensor, positions: Tensor, draw: Draw | None) -> Tensor:
    """Answers (n, w) in physical units, or (n,)."""
    found = part.head.point(h) if draw is None else part.head.sample(h, draw)
    if part.discrete:
        return found
    out: Tensor = part.scale.inverse(found, positions)
    return out


def _blank(part: Parts, positions: Array) -> Tokens:
    """Tokens whose contents nobody knows, to be asked for."""
    n = len(positions)
    if part.discrete:
        return Tokens(np.zeros(n, np.int64), positions)
    return Tokens(np.zeros((n, part.scale.shift.shape[0]), np.float32), positions)


def _observed(given: Given, target: str, asked: Tokens) -> Observation:
    """What is given and then what is asked for, the target's own tokens last."""
    before = given.get(target)
    tokens = {name: t for name, t in given.items() if name != target}
    return Observation("", {**tokens, target: joined(before, asked)})


def joined(before: Tokens | None, after: Tokens) -> Tokens:
    """Tokens of one modality, one after the other."""
    if before is None or not len(before):
        return after
    discrete = after.content.ndim == 1
    dtype = np.int64 if discrete else np.float32
    width = 1 if discrete else after.content.shape[1]
    weights = None
    if before.weights is not None:
        weights = np.concatenate(
            [np.broadcast_to(before.weights, (len(before), width)), np.ones((len(after), width))]
        ).astype(np.float32)
    return Tokens(
        np.concatenate([before.content.astype(dtype), after.content.astype(dtype)]),
        np.concatenate([before.positions, after.positions]).astype(np.float32),
        weights,
    )


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.detach().cpu().numpy())
