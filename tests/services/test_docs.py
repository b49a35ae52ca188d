"""docs/http.md and the code name the same problems and degradations."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from services.http.problems import INVALID, KINDS, MALFORMED, TOO_LARGE
from shared.wire.base import Degradation

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def test_every_problem_is_documented() -> None:
    kinds = [*KINDS.values(), INVALID, MALFORMED, TOO_LARGE]
    assert [kind.slug for kind in kinds if f"`{kind.slug}`" not in PAGE] == []


def test_every_degradation_is_documented() -> None:
    assert [reason for reason in get_args(Degradation) if f"`{reason}`" not in PAGE] == []
