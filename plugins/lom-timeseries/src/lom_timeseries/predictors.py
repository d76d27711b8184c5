"""Guesses that need no model: what a series did last."""

from __future__ import annotations

import numpy as np
from einops import rearrange

from lom_core import Tokens
from lom_core.roles import Array


def last_of_group(tokens: Tokens, group: Array) -> Array:
    """For each token the last value that was observed in earlier tokens of its group.

    Args:
        tokens: n tokens of w values; the last observed one of each token is what it leaves.
        group: (n,) numbers, such as the band's.

    Returns:
        (n, w) float64, NaN where the group has no earlier value.
    """
    seen = np.broadcast_to(tokens.observed, tokens.content.shape)
    n, w = seen.shape
    latest = w - 1 - seen[:, ::-1].argmax(axis=1)  # (n,) place of each token's last value
    value = np.take_along_axis(tokens.content, latest[:, None], axis=1)[:, 0].astype(np.float64)
    guess = np.full(n, np.nan)
    for each in np.unique(group):
        at = np.flatnonzero(group == each)
        held = np.where(seen[at].any(axis=1), np.arange(len(at)), -1)
        last = np.concatenate([[-1], np.maximum.accumulate(held)[:-1]])  # of the tokens before
        guess[at] = np.where(last >= 0, value[at][last], np.nan)
    return np.repeat(guess[:, None], w, axis=1)


def last_of_leads(tokens: Tokens, n_leads: int) -> Array:
    """The same where a token holds all leads, (n, patch * leads), leads fastest.

    Returns:
        (n, patch * leads) float64, NaN where the lead has no earlier value.
    """
    weights = np.broadcast_to(tokens.observed, tokens.content.shape)
    pattern = "n (p c) -> (n c) p"
    content, seen = (rearrange(x, pattern, c=n_leads) for x in (tokens.content, weights))
    lead = np.tile(np.arange(n_leads), len(tokens))
    positions = np.zeros((len(lead), 1), np.float32)
    guess = last_of_group(Tokens(content, positions, seen.astype(np.float32)), lead)
    return np.asarray(rearrange(guess, "(n c) p -> n (p c)", c=n_leads))
