"""Run the blocks of Markdown files that are marked to run: ```bash run, ```python run

Each file gets a folder of its own, its blocks run there in order, and any failing line stops it.

    python tests/run_docs.py README.md docs
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

BLOCK = re.compile(r"^```(bash|python) run\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def pages(arguments: list[str]) -> list[Path]:
    """The Markdown files named, and those below the folders named."""
    found: list[Path] = []
    for path in map(Path, arguments):
        found += sorted(path.rglob("*.md")) if path.is_dir() else [path]
    return found


def run(page: Path, root: Path) -> int:
    """Run a page's blocks; the number of blocks."""
    blocks = BLOCK.findall(page.read_text(encoding="utf8"))
    if blocks:
        print(f"-- {page}: {len(blocks)} blocks", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(root / "examples", Path(folder) / "examples")
            for language, block in blocks:
                strict = ["bash", "-euo", "pipefail", "-c"]
                command = strict if language == "bash" else [sys.executable, "-c"]
                subprocess.run([*command, block], cwd=folder, check=True)
    return len(blocks)


if __name__ == "__main__":
    total = sum(run(page, Path.cwd()) for page in pages(sys.argv[1:]))
    if not total:
        sys.exit("no block was found to run")
    print(f"{total} blocks ran")
