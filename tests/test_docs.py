"""The documents keep up with the code: links lead somewhere, named things exist."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("plugins/*/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf8")):
        assert (page.parent / target).exists(), target


def test_the_walk_names_real_functions() -> None:
    """Each hop names code in backticks beside the file it links to."""
    hops = [
        line
        for line in (ROOT / "docs/walk.md").read_text().splitlines()
        if re.match(r"\| \d", line)
    ]
    assert len(hops) == 8
    n_checked = 0
    for hop in hops:
        where = hop.split("|")[3]
        for names, module in re.findall(r"((?:`[\w.]+`,? ?)+)in \[(\w+)\.py\]", where):
            for name in re.findall(r"`([\w.]+)`", names):
                found = importlib.import_module(f"lom_core.{module}")
                for part in name.split("."):
                    found = getattr(found, part)
                n_checked += 1
    assert n_checked >= 8


def test_the_contract_names_real_fields() -> None:
    from lom_core.batch import Batch, Span
    from lom_core.roles import Tokens

    text = (ROOT / "docs/batch.md").read_text()
    for cls in (Tokens, Batch, Span):
        for field in cls.__dataclass_fields__:
            assert f"`{field}`" in text or f"`{field}[" in text, f"{cls.__name__}.{field}"


def test_changelog_has_an_unreleased_part() -> None:
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()
