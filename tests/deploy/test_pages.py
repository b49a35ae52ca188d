"""Pages name files that are there, and link to pages and sections that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT
from tests.deploy.test_rules import anchors

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = "shared|retriever|ranker|services|docker|deploy|tests"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(str(there.relative_to(ROOT))), target


@pytest.mark.parametrize("name", ["architecture", "operations", "scale"])
def test_files_that_are_named_are_there(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    named = set(re.findall(rf"`((?:{ROOMS})/[\w./-]*)`", page))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
