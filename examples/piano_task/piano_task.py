"""Velocities of held-out notes, answered by a model of denoise_velocity and by simpler rules.

python piano_task.py RUN val         # rules are fitted on train and chosen on val
python piano_task.py RUN test.yaml   # and, once, tried on the test: RUN/velocities-test.json
python piano_task.py draw RUN/velocities-test.json piano_task.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lom_midi.exponential import EDGES, MIDPOINTS, TIME, VELOCITY

import lom_core
from lom_core.batch import Observation, pack_row
from lom_core.named import open_named
from lom_core.objectives import prefix
from lom_core.roles import Tokens

Array = np.ndarray
Window = dict[str, Any]
SHARES = np.linspace(0, 1, 11)


def windows(model: lom_core.api.LargeObservationModel, data: str) -> list[Window]:
    """Piece, record's tokens, and of each note what was asked (prompt's) and what is right."""
    source, found = open_named(model.config, data), []
    for i in range(len(source)):
        record = source[i]
        tokens = model.reader.tokens(record)
        content = {name: tokens[name].content for name in ("prompt", "answer")}
        at = {name: np.flatnonzero((c >= VELOCITY) & (c < TIME)) for name, c in content.items()}
        # Prompt and answer hold the same notes in the same order, velocities apart.
        keys = [np.delete(content[name][1:], at[name] - 1) for name in content]
        assert np.array_equal(*keys)
        found.append(
            {
                "piece": record["id"].split("#")[0].split("~")[0],
                "tokens": tokens,
                "at": at["answer"],
                "prompt": content["prompt"][at["prompt"]] - VELOCITY,
                "truth": content["answer"][at["answer"]] - VELOCITY,
                "key": content["answer"][at["answer"] + 1],
            }
        )
    return found


@torch.no_grad()
def by_model(model: lom_core.api.LargeObservationModel, some: list[Window]) -> None:
    """Adds ``model``: the bins (n,) that it answers, and ``middle``, the medians.

    Times and keys of the answer are those of the prompt; each velocity is asked for when those
    before it are the model's own most probable ones. Windows are answered side by side.
    """
    said = [window["tokens"]["answer"].content.copy() for window in some]
    for window in some:
        window["model"], window["middle"] = (np.zeros_like(window["truth"]) for _ in range(2))
    for j in range(max(len(window["at"]) for window in some)):
        left = [i for i, window in enumerate(some) if j < len(window["at"])]
        rows = []
        for i in left:
            prompt, answer, n = (
                some[i]["tokens"]["prompt"],
                some[i]["tokens"]["answer"],
                some[i]["at"][j] + 1,
            )
            # The last token is the one that is asked for; its content is not shown to its question.
            observation = Observation(
                str(i), {"prompt": prompt, "answer": Tokens(said[i][:n], answer.positions[:n])}
            )
            rows.append(pack_row([observation], observation.n_slots, ["prompt", "answer"]))
        batch = prefix(rows, model.lom.layouts, ["prompt"]).to(model.device)
        span = batch.spans["answer"]
        last = np.cumsum([some[i]["at"][j] + 1 for i in left]) - 1
        h = model.lom.hidden(batch)[span.ask_slots[last]]
        chances = model.lom.part("answer").head.probabilities(h)[:, VELOCITY:TIME]
        best = chances.argmax(1).cpu().numpy()
        middle = (chances.cumsum(1) < chances.sum(1, keepdim=True) / 2).sum(1).cpu().numpy()
        for i, bin_, median in zip(left, best, middle, strict=True):
            said[i][some[i]["at"][j]] = VELOCITY + bin_
            some[i]["model"][j], some[i]["middle"][j] = bin_, median


def shrunk(window: Window, share: float, keyed: bool) -> Array:
    """Between a note's velocity in the prompt and the mean of the window, or of its key there."""
    prompt = MIDPOINTS[window["prompt"]].astype(float)
    same = np.ones((len(prompt), len(prompt)))
    if keyed:
        same = (window["key"][:, None] == window["key"]).astype(float)
    return share * prompt + (1 - share) * same @ prompt / same.sum(1)


def error(velocity: Array, window: Window) -> Array:
    return np.abs(velocity - MIDPOINTS[window["truth"]])


def right(velocity: Array, window: Window) -> Array:
    bins = np.searchsorted(EDGES, np.clip(velocity, 1, 127), side="right") - 1
    return (bins == window["truth"]).astype(float)


def rules(train: list[Window], val: list[Window]) -> dict[str, Any]:
    """What needs no model, each window -> velocities (n,); their one number is the best on val."""
    truth = MIDPOINTS[np.concatenate([window["truth"] for window in train])]
    often, median = np.bincount(truth).argmax(), np.median(truth)

    def best(keyed: bool) -> float:
        errors = [
            np.concatenate([error(shrunk(w, s, keyed), w) for w in val]).mean() for s in SHARES
        ]
        return float(SHARES[int(np.argmin(errors))])

    window_share, key_share = best(False), best(True)
    print(
        f"share of a note's own velocity in a mean, chosen on val: {window_share:.1f} of the "
        f"window's, {key_share:.1f} of its key's"
    )
    return {
        "prompt, as it is": lambda w: MIDPOINTS[w["prompt"]],
        "training's most frequent": lambda w: np.full(len(w["truth"]), often),
        "training's median": lambda w: np.full(len(w["truth"]), median),
        "mean of the window's prompt": lambda w: shrunk(w, window_share, False),
        "mean of the key's prompt": lambda w: shrunk(w, key_share, True),
        "model, most probable": lambda w: MIDPOINTS[w["model"]],
        "model, median": lambda w: MIDPOINTS[w["middle"]],
    }


def told(found: dict[str, Any], held_out: list[Window], draws: int = 10_000) -> dict[str, Any]:
    """Mean absolute error and share of right bins; intervals by drawing pieces again."""
    pieces = sorted({window["piece"] for window in held_out})
    n = np.array([sum(len(w["truth"]) for w in held_out if w["piece"] == p) for p in pieces])
    which = np.random.default_rng(0).integers(0, len(pieces), (draws, len(pieces)))
    print(f"{len(pieces)} pieces, {len(held_out)} windows, {n.sum()} notes")
    results: dict[str, Any] = {"notes": n.tolist()}
    for name, rule in found.items():
        results[name] = {}
        for what, measure in (("error", error), ("right", right)):
            sums = np.array(
                [
                    sum(measure(rule(w), w).sum() for w in held_out if w["piece"] == p)
                    for p in pieces
                ]
            )
            low, high = np.quantile(sums[which].sum(1) / n[which].sum(1), [0.025, 0.975])
            results[name][what] = (sums.sum() / n.sum(), low, high, (sums / n).tolist())
        e, r = results[name]["error"], results[name]["right"]
        print(
            f"{name:28} error {e[0]:5.2f} [{e[1]:.2f}, {e[2]:.2f}]"
            f"  right {r[0]:5.1%} [{r[1]:.1%}, {r[2]:.1%}]"
        )
    mine = np.array(results["model, median"]["error"][3]) * n
    for name in found:
        more = np.array(results[name]["error"][3]) * n - mine
        low, high = np.quantile(more[which].sum(1) / n[which].sum(1), [0.025, 0.975])
        print(
            f"{name:28} error {more.sum() / n.sum():+.2f} [{low:+.2f}, {high:+.2f}] of the model's"
        )
    return {"pieces": pieces, **results}


def main(run: str, val: str, data: str) -> None:
    model = lom_core.load(run)
    held_out = windows(model, data)
    for first in range(0, len(held_out), 16):
        by_model(model, held_out[first : first + 16])
    found = rules(windows(model, "train"), held_out if data == val else windows(model, val))
    results = told(found, held_out)
    Path(run, f"velocities-{Path(data).stem}.json").write_text(json.dumps(results, indent=1))


def draw(results: str, out: str) -> None:
    """The error of each piece under the model and two of the rules."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = json.loads(Path(results).read_text())
    pieces, model = found["pieces"], "model, median"
    order = np.argsort(found[model]["error"][3])
    names = [pieces[i].removesuffix(".mid").replace("freedoom", "") for i in order]
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    for name, colour, marker in (
        ("prompt, as it is", "#8c959f", "o"),
        ("training's most frequent", "#c2410c", "s"),
        (model, "#1f6feb", "D"),
    ):
        errors = np.array(found[name]["error"][3])[order]
        axes.plot(errors, range(len(order)), marker, color=colour, ms=6, label=name)
    axes.set_yticks(range(len(order)), [n.replace("_d_", ": ") for n in names], fontsize=8)
    axes.set_xlim(-0.5)
    axes.grid(axis="x", color="#d8dee4", lw=0.6)
    axes.set_xlabel("mean error in velocity (less is better)")
    axes.set_title("pieces never trained on", fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    if sys.argv[1] == "draw":
        draw(*sys.argv[2:])
    else:
        main(sys.argv[1], "val", sys.argv[2])
