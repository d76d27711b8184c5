"""How a trained model answers: given these tokens, what is at those positions?

A model that answers *in turn* (causal) is asked for one token after the other; each answer is shown
before the next is asked for. What a slot knows never changes once the question in it is known, so
that keys and values are kept and each step reads one new slot. A model that answers *at once*
(masked) reads all questions in one pass, as if the answers did not depend on one another. Either
way many observations are asked about together, whatever their lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from lom_core.attention import Past
from lom_core.batch import Batch, Layout, Observation, Span, owners, pack, pack_row
from lom_core.heads import Draw
from lom_core.model import Lom, Parts
from lom_core.objectives import hide, next_token, prefix
from lom_core.roles import Array, Objective, SequenceEncoder, Tokens

Given = Mapping[str, Tokens]
Where = Array | SequenceEncoder


@dataclass(frozen=True)
class Question:
    """What is asked about one observation.

    Args:
        name: of the observation.
        given: all that is known, as it stood in training; the first tokens of the target come last.
        where: positions (n, p) that are asked for; or, in turn, the encoder, which tells where the
            next token stands from those before it: until its end token, or ``longest`` tokens.
        draw: how to sample; None takes the point.
    """

    name: str
    given: Given
    where: Where
    draw: Draw | None = None
    longest: int = 0

    @property
    def most(self) -> int:
        """Tokens that can be answered."""
        return len(self.where) if isinstance(self.where, np.ndarray) else self.longest


@dataclass(frozen=True)
class Answer:
    """What a model answers to one question, s times.

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
    hidden: Sequence[Mapping[str, int]],
) -> Batch:
    """A batch that asks for the last ``hidden[i][m]`` tokens of modality m in observation i.

    Modalities with hidden tokens stand last. In turn, all other tokens are asked for, too, as in
    training, and a hidden one is shown to those after it; at once nobody sees it.
    """
    rows = [pack_row([o], o.n_slots, list(layouts)) for o in observations]
    if objective.in_turn:
        leads = [name for name in objective.leads if not any(name in h for h in hidden)]
        return prefix(rows, layouts, leads) if leads else next_token(rows, layouts)
    batch = pack(rows, layouts)

    def last(name: str, span: Span) -> Tensor:
        """(n,) is the token among the hidden ones, the last of its observation?"""
        owner = owners(span.slots, batch.bos)
        ends = torch.bincount(owner, minlength=len(rows)).cumsum(0)
        first = ends - torch.tensor([h.get(name, 0) for h in hidden])
        return torch.arange(len(owner)) >= first[owner]

    return hide(batch, {name: last(name, span) for name, span in batch.spans.items()})


def at_once(
    model: Lom, objective: Objective, target: str, questions: Sequence[Question], times: int = 1
) -> list[Answer]:
    """Answers of a model that reads all questions, of positions, in one pass."""
    part, observations, hidden = model.part(target), [], []
    for question in questions:
        assert isinstance(question.where, np.ndarray)
        observations.append(_observed(question.given, target, _blank(part, question.where)))
        hidden.append({target: question.most})
    batch = pose(objective, model.layouts, observations, hidden).to(model.bos.device)
    every = model.hidden(batch)[batch.spans[target].ask_slots]
    found = []
    for question, h in zip(questions, torch.split(every, [q.most for q in questions]), strict=True):
        at = torch.as_tensor(question.where, device=h.device)
        drawn = [_numpy(_content(part, h, at, question.draw)) for _ in range(times)]
        tokens = [Tokens(content, np.asarray(question.where)) for content in drawn]
        found.append(Answer(tokens, repeat(h, "n d -> s n d", s=times)))
    return found


def in_turn(
    model: Lom,
    objective: Objective,
    target: str,
    questions: Sequence[Question],
    times: int = 1,
    cache: bool = True,
) -> list[Answer]:
    """Answers of a causal model, each shown before the next is asked for.

    Args:
        times: roll-outs of each question, which draw apart.
        cache: keep keys and values. False reads everything anew for each token: the same answers,
            slowly.
    """
    courses = [_Course(model.part(target), target, question, times) for question in questions]
    reader = (_Kept if cache else _Anew)(model, objective, target, courses, times)
    i = 0
    while not all(course.done for course in courses):
        for course, h in zip(courses, torch.split(reader.ask(i), times), strict=True):
            if not course.done:
                course.take(h)
        i += 1
    return [Answer(course.tokens(), torch.stack(course.h, dim=1)) for course in courses]


class _Course:
    """What s roll-outs of a question have answered so far: content (s, i, w) or (s, i), positions
    (s, i, p), and the hidden states h (s, i, d) that they were read from."""

    def __init__(self, part: Parts, target: str, question: Question, times: int) -> None:
        self.part, self.target, self.question, self.times = part, target, question, times
        self.start = question.given.get(target)
        self.content: list[Array] = []  # (s, w) or (s,) each
        self.positions: list[Array] = []  # (s, p) each
        self.h: list[Tensor] = []  # (s, d) each
        self.closed = np.zeros(times, bool)
        self.lengths = np.zeros(times, np.int64)

    @property
    def done(self) -> bool:
        return len(self.content) >= self.question.most or bool(self.closed.all())

    def asked(self, i: int) -> Array:
        """(s, p) float32: where token i is asked for; where contents tell, as of token 0."""
        where = self.question.where
        if isinstance(where, np.ndarray):  # others may go on when this one is done
            at = where[min(i, len(where) - 1)]
            return np.repeat(at[None], self.times, axis=0).astype(np.float32)
        return self._told(np.zeros(self.times, np.int64))

    def take(self, h: Tensor) -> None:
        """The next answers, read from h (s, d)."""
        i, where = len(self.content), self.question.where
        at = torch.as_tensor(self.asked(i), device=h.device)
        content = _numpy(_content(self.part, h, at, self.question.draw))
        told = isinstance(where, np.ndarray)
        self.positions.append(self.asked(i) if told else self._told(content))
        self.content.append(content)
        self.h.append(h)
        self.lengths[~self.closed] += 1
        end = None if isinstance(where, np.ndarray) else where.end
        if end is not None:
            self.closed |= content == end

    def tokens(self) -> list[Tokens]:
        content, positions = np.stack(self.content, axis=1), np.stack(self.positions, axis=1)
        return [
            Tokens(content[s, :n], positions[s, :n].astype(np.float32))
            for s, n in enumerate(self.lengths)
        ]

    def observation(self, s: int) -> Observation:
        """What roll-out s has answered so far, and the next question as a token to fill."""
        asked = self.asked(len(self.content))
        content = [*self.content, _blank(self.part, asked).content]
        tokens = Tokens(
            np.stack([c[s] for c in content]), np.stack([p[s] for p in [*self.positions, asked]])
        )
        return _observed(self.question.given, self.target, tokens)

    def _told(self, content: Array) -> Array:
        """(s, p): where tokens (s,) stand that follow those so far, which begin with the given."""
        assert not isinstance(self.question.where, np.ndarray)
        known = np.zeros(0, np.int64) if self.start is None else self.start.content
        places, found = self.question.where.places, []
        for s in range(self.times):
            mine = np.array([c[s] for c in self.content] + [content[s]], dtype=np.int64)
            at = places(np.concatenate([known, mine]))[-1]
            if self.start is not None:  # a window's clock may not begin at 0
                at = at + self.start.positions[-1] - places(known)[-1]
            found.append(at)
        return np.stack(found).astype(np.float32)


@dataclass
class _Anew:
    """Reads whole observations for each question: slow, and plain to see that it is right."""

    model: Lom
    objective: Objective
    target: str
    courses: list[_Course]
    times: int

    def batch(self, times: int) -> Batch:
        observations = [course.observation(s) for course in self.courses for s in range(times)]
        hidden = [{self.target: 1}] * len(observations)  # and those after the first, as if given
        batch = pose(self.objective, self.model.layouts, observations, hidden)
        return batch.to(self.model.bos.device)

    def ask(self, i: int) -> Tensor:
        """(s, d): the answers to question i, by course and then roll-out."""
        batch = self.batch(self.times)
        ends = batch.starts[1:].long() - 1  # where the token stands that is asked for
        return self.model.hidden(batch)[ends.to(self.model.bos.device) - 1]


@dataclass
class _Kept(_Anew):
    """Reads what is given once, then one slot for each question."""

    def __post_init__(self) -> None:
        given = [1 + sum(map(len, course.question.given.values())) for course in self.courses]
        most = [course.question.most for course in self.courses]
        room = max(given) + max(most)  # who is done stays until the last one is
        self.n_given = torch.tensor(given)
        segments = len(given) * self.times
        self.pasts = [Past(segments, room) for _ in self.model.body.blocks]

    def ask(self, i: int) -> Tensor:
        return self._first() if i == 0 else self._next(i)

    def _first(self) -> Tensor:
        """What is given, with the first question in its last slot; the same for all roll-outs."""
        batch, device = self.batch(1), self.model.bos.device
        asked = batch.starts[1:].long() - 1  # slots of tokens that nobody knows yet
        known = torch.ones(batch.n_slots, dtype=torch.bool).index_fill_(0, asked, False)
        x = self.model.embed(batch)[known.to(device)]
        starts = batch.starts - torch.arange(len(batch.starts)).int()
        places = torch.cat([torch.arange(int(g)) for g in self.n_given]).to(device)
        given = torch.minimum(batch.given, self.n_given.int())
        h: Tensor = self.model.body(x, starts, given, places, self.pasts)
        ends = starts[1:].long() - 1
        return repeat(h[ends.to(device)], "b d -> (b s) d", s=self.times)

    def _next(self, i: int) -> Tensor:
        """The slots of answers i - 1, with questions i."""
        courses, device = self.courses, self.model.bos.device
        part, s = courses[0].part, len(courses) * self.times
        every = torch.arange(s)
        known = Span(
            content=torch.as_tensor(np.concatenate([c.content[-1] for c in courses])),
            positions=torch.as_tensor(np.concatenate([c.positions[-1] for c in courses])),
            weights=torch.ones(s, 1),
            slots=every,
            shown=every,
            asked=every,
        )
        at = torch.as_tensor(np.concatenate([course.asked(i) for course in courses]))
        asked = replace(known, positions=at)
        x = part.known(known.to(device)) + part.question(asked.to(device))
        starts, given = torch.arange(s + 1).int(), torch.zeros(s).int()
        places = repeat(self.n_given + i - 1, "b -> (b s)", s=self.times).to(device)
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
    batch = pose(objective, model.layouts, [observation], [n_hidden]).to(model.bos.device)
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
