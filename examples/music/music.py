"""Music of the game Freedoom: prepare its pieces, then score a model beside n-grams of its tokens.

python music.py prepare FOLDER_OF_WADS DATA   # then: lom train run.yaml
python music.py score RUN val                 # n-grams are chosen on val
python music.py score RUN val test.yaml       # the same, scored on the test: RUN/scores.json
python music.py draw RUN/scores.json GENERATED.mid SECONDS_THAT_WERE_GIVEN music.png
"""

from __future__ import annotations

import json
import struct
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

BASE = 220  # 219 tokens and the one before the first
SMOOTHINGS = {
    "kneser-ney": (0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
    "witten-bell": (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128),
}
Array = np.ndarray


# ------------------------------------------------------------------------------------- pieces


def lumps(path: Path) -> dict[str, bytes]:
    """Name -> MIDI file of a WAD, by its directory of (offset, size, name)."""
    data, found = path.read_bytes(), {}
    _, n, directory = struct.unpack("<4sii", data[:12])
    for i in range(n):
        at, size, name = struct.unpack_from("<ii8s", data, directory + 16 * i)
        if data[at : at + 4] == b"MThd":
            found[f"{path.stem}_{name.rstrip(bytes(1)).decode().lower()}"] = data[at : at + size]
    return found


def part_of(number: int) -> str:
    """Of the pieces in the order of their names, two of six are held out."""
    return {2: "val", 5: "test"}.get(number % 6, "train")


def prepare(wads: Path, out: Path) -> None:
    pieces: dict[str, bytes] = {}
    for path in sorted(wads.glob("freedoom?.wad")):
        pieces.update(lumps(path))
    for number, name in enumerate(sorted(pieces)):
        folder = out / part_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mid").write_bytes(pieces[name])
    print({part: len(list((out / part).iterdir())) for part in ("train", "val", "test")})


# ------------------------------------------------------------------------------------ n-grams


class Ngrams:
    """Interpolated n-grams, smoothed in one of two ways (Chen and Goodman 1999, section 2).

    With n(c.) kinds of token after context c, c' without its first token, and p_0 even:

    - Kneser-Ney: p(w | c) = (max(n(cw) - D, 0) + D n(c.) p(w | c')) / n(c), 0 <= D < 1
    - Witten-Bell: p(w | c) = (n(cw) + K n(c.) p(w | c')) / (n(c) + K n(c.))

    Below the highest order n counts in how many contexts a gram was seen, not how often. A gram is
    a number in base 220.
    """

    def __init__(self, texts: list[Array], order: int) -> None:
        self.order, self.grams = order, []
        kinds, counts = np.unique(
            np.concatenate([grams(text, order) for text in texts]), return_counts=True
        )
        for k in range(order, 0, -1):
            context, first = np.unique(kinds // BASE, return_index=True)
            totals = np.add.reduceat(counts, first)
            n_kinds = np.diff(np.append(first, len(kinds)))
            self.grams.insert(0, (kinds, counts, context, totals, n_kinds))
            # The token that stands furthest back is the highest digit.
            kinds, counts = np.unique(kinds % BASE ** (k - 1), return_counts=True)

    def bits(self, text: Array, smoothing: str, strength: float) -> float:
        """-log2 p of a text whose beginning is known to be one."""
        p = np.full(len(text), 1 / (BASE - 1))
        for k, (kinds, counts, context, totals, n_kinds) in enumerate(self.grams, 1):
            wanted = grams(text, k)
            n, seen = found(wanted, kinds, counts), found(wanted // BASE, context, totals)
            rest = strength * found(wanted // BASE, context, n_kinds)
            if smoothing == "kneser-ney":
                mixed = (np.maximum(n - strength, 0) + rest * p) / np.maximum(seen, 1)
            else:
                mixed = (n + rest * p) / np.maximum(seen + rest, 1e-9)
            p = np.where(seen > 0, mixed, p)
        return float(-np.log2(p).sum())


def grams(text: Array, k: int) -> Array:
    """(n,) each token with the k - 1 before it."""
    padded = np.concatenate([np.full(k - 1, BASE - 1), text]).astype(np.int64)
    return sum(padded[k - 1 - j : len(padded) - j] * BASE**j for j in range(k))


def found(wanted: Array, keys: Array, values: Array) -> Array:
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


# -------------------------------------------------------------------------------------- scores


def score(run: str, val: str, test: str | None = None) -> dict[str, Any]:
    """Bits of each piece under the model and under n-grams fitted to what the model was trained on.

    The order, the smoothing, and whether transposed copies count as training data are those that
    are best on ``val``: for the 1-gram and the 3-gram with their orders fixed.
    """
    import lom_core
    from lom_core.named import open_named

    model = lom_core.load(run)

    def texts(name: str) -> list[tuple[str, int, Array, dict[str, Any]]]:
        """Piece, notes, tokens and record of each window, as the model reads it."""
        source = open_named(model.config, name)
        read = [
            (r := source[i], model.reader.tokens(r)["midi"].content) for i in range(len(source))
        ]
        return [(r["id"].split("#")[0], len(r["midi"]["pitch"]), text, r) for r, text in read]

    train = texts("train")
    n_plain = sum("~" not in record["id"] for *_, record in train)
    held_out, tried = texts(val), []
    for order, copies in product((1, 2, 3, 4, 5), (False, True)):
        fitted = Ngrams([text for _, _, text, _ in train[: None if copies else n_plain]], order)
        for how in ((kind, k) for kind, strengths in SMOOTHINGS.items() for k in strengths):
            bits = sum(fitted.bits(text, *how) for _, _, text, _ in held_out)
            tried.append((bits, order, how, copies, fitted))
    best = {
        f"{order}-gram": min((t for t in tried if t[1] == order), key=lambda t: t[0])
        for order in (1, 3)
    }
    best["best n-gram"] = min(tried, key=lambda t: t[0])
    scored = texts(test) if test else held_out
    rows = []
    for piece, n_notes, text, record in scored:
        nats = model.log_likelihood(record)[0]["midi"]
        bits = {name: t[4].bits(text, *t[2]) for name, t in best.items()}
        rows.append(
            {
                "piece": piece,
                "notes": n_notes,
                "tokens": len(text),
                **bits,
                "model": -nats / np.log(2),
            }
        )
    chosen = {name: dict(order=t[1], smoothing=t[2], copies=t[3]) for name, t in best.items()}
    return {"set": test or val, "chosen on val": chosen, "pieces": by_piece(rows)}


def by_piece(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    pieces: dict[str, dict[str, float]] = {}
    for row in rows:
        piece = pieces.setdefault(row.pop("piece"), dict.fromkeys(row, 0.0))
        for name, value in row.items():
            piece[name] += value
    return pieces


def told(scores: dict[str, Any], draws: int = 10_000) -> None:
    """Bits a note and a token of all pieces together; intervals by drawing pieces again."""
    pieces = list(scores["pieces"].values())
    columns = {name: np.array([p[name] for p in pieces]) for name in pieces[0]}
    which = np.random.default_rng(0).integers(0, len(pieces), (draws, len(pieces)))
    notes, tokens = columns.pop("notes"), columns.pop("tokens")
    print(
        f"{scores['set']}: {len(pieces)} pieces, {notes.sum():.0f} notes, {tokens.sum():.0f} tokens"
    )
    print(json.dumps(scores["chosen on val"]))
    for name, bits in [
        *columns.items(),
        *((f"{n} - model", columns[n] - columns["model"]) for n in columns if n != "model"),
    ]:
        low, high = np.quantile(bits[which].sum(1) / notes[which].sum(1), [0.025, 0.975])
        print(
            f"{name:20} {bits.sum() / notes.sum():6.2f} bits a note [{low:.2f}, {high:.2f}]"
            f"  {bits.sum() / tokens.sum():6.3f} bits a token"
        )


# ------------------------------------------------------------------------------------- picture

INK, BLUE, RED, GREY = "#1b1f24", "#1f6feb", "#c2410c", "#8c959f"


def draw(scores: str, generated: str, prompt_s: str, out: str) -> None:
    """Bits a note of each piece, and the generated piece as a piano roll."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from lom_midi.reading import read_midi

    pieces = json.loads(Path(scores).read_text())["pieces"]
    order = sorted(pieces, key=lambda p: pieces[p]["model"] / pieces[p]["notes"])
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4), width_ratios=[1, 1.6], layout="constrained"
    )
    looks = {
        "1-gram": (GREY, "o", "1-gram"),
        "3-gram": (RED, "s", "3-gram"),
        "model": (BLUE, "D", "model"),
    }
    for name, (colour, marker, label) in looks.items():
        bits = [pieces[p][name] / pieces[p]["notes"] for p in order]
        left.plot(bits, range(len(order)), marker, color=colour, ms=6, label=label, mew=1.6)
    names = [p.removesuffix(".mid").replace("freedoom", "").replace("_d_", ": ") for p in order]
    left.set_yticks(range(len(order)), names, fontsize=8)
    left.set_xlim(0)
    left.grid(axis="x", color="#d8dee4", lw=0.6)
    left.set_xlabel("bits a note (less is better)")
    left.set_title("pieces never trained on", fontsize=10, loc="left")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    notes, begin = read_midi(Path(generated).read_bytes()), float(prompt_s)
    start, end, pitch = notes["start"], notes["end"], notes["pitch"]
    for mine, colour, label in (
        (start <= begin, GREY, "given"),
        (start > begin, BLUE, "written by the model"),
    ):
        right.barh(
            pitch[mine],
            (end - start)[mine],
            left=start[mine],
            height=0.8,
            color=colour,
            ec="white",
            lw=0.3,
            label=label,
        )
    right.axvline(begin, color=INK, lw=0.8, ls=":")
    low, high = int(pitch.min()), int(pitch.max())
    octaves = [key for key in range(low - 1, high + 2) if key % 12 == 0]
    right.set_yticks(octaves, [f"C{key // 12 - 1}" for key in octaves])
    right.set_xlim(0, float(end.max()))
    right.set_ylim(low - 2, high + 2)
    right.set_xlabel("time (s)")
    right.set_title(f"{Path(generated).name}: a held-out piece, continued", fontsize=10, loc="left")
    right.legend(frameon=False, fontsize=8, loc="upper right", ncols=2)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    verb, *given = sys.argv[1:]
    if verb == "prepare":
        prepare(Path(given[0]), Path(given[1]))
    elif verb == "score":
        scores = score(*given)
        told(scores)
        Path(given[0], "scores.json").write_text(json.dumps(scores, indent=1))
    else:
        draw(*given)
