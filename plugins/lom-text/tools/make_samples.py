"""Make the samples that ship: paragraphs of astropy's docstrings (DATA_LICENSES).

    python tools/make_samples.py ASTROPY

The argument is the folder of the package astropy 8.0.2. Its sources are read as text, never run.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).parent.parent / "src" / "lom_text" / "samples"
TRAIN = (
    "constants",
    "convolution",
    "cosmology",
    "io",
    "modeling",
    "stats",
    "table",
    "time",
    "units",
    "wcs",
)
VAL = ("coordinates", "nddata", "timeseries", "uncertainty", "visualization")
SHORTEST, LONGEST, N_TRAIN, N_VAL = 120, 500, 700, 120


def paragraphs(folder: Path) -> dict[str, str]:
    """id -> paragraph: prose only, the first that fits of each documented object."""
    found: dict[str, str] = {}
    seen = set()
    for path in sorted(folder.rglob("*.py")):
        if "tests" in path.parts or "extern" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                continue
            doc = (ast.get_docstring(node) or "").split("\nParameters\n")[0].split("\nReturns\n")[0]
            for paragraph in doc.split("\n\n"):
                text = " ".join(paragraph.split())
                prose = re.fullmatch(r"[A-Z][\w\s.,;:'\"()`/*+=<>~^-]+[.]", text)
                if prose and SHORTEST <= len(text) <= LONGEST and text not in seen:
                    seen.add(text)
                    name = getattr(node, "name", "module")
                    found[f"{path.relative_to(folder.parent)}:{name}"] = text
                    break
    return found


def write(split: str, folder: Path, parts: tuple[str, ...], n: int) -> None:
    texts = {k: v for part in parts for k, v in paragraphs(folder / part).items()}
    kept = list(texts.items())[:: max(1, len(texts) // n)][:n]
    lines = [json.dumps({"id": f"astropy/{k}", "text": v}, ensure_ascii=False) for k, v in kept]
    (OUT / f"astropy_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf8")
    print(split, len(texts), "found", len(kept), "kept", sum(len(v) for _, v in kept), "characters")


if __name__ == "__main__":
    write("train", Path(sys.argv[1]), TRAIN, N_TRAIN)
    write("val", Path(sys.argv[1]), VAL, N_VAL)
