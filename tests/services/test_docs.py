"""docs/http.md and the code name the same variables, metrics, problems and degradations."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from services.gateway.settings import GatewaySettings
from services.http.problems import INVALID, KINDS, MALFORMED, TOO_LARGE
from services.http.settings import PREFIX
from services.ranking.settings import RankingSettings
from services.retrieval.settings import RetrievalSettings
from shared.wire import Degradation

PAGE = (Path(__file__).parents[2] / "docs" / "http.md").read_text()


def test_every_variable_is_documented_and_every_documented_one_exists() -> None:
    classes = (GatewaySettings, RetrievalSettings, RankingSettings)
    exist = {PREFIX + field.upper() for cls in classes for field in cls.model_fields}
    assert exist == set(re.findall(rf"{PREFIX}[A-Z_]+", PAGE))


def test_every_problem_is_documented() -> None:
    kinds = [*KINDS.values(), INVALID, MALFORMED, TOO_LARGE]
    assert [kind.slug for kind in kinds if f"`{kind.slug}`" not in PAGE] == []


def test_every_degradation_is_documented() -> None:
    assert [reason for reason in get_args(Degradation) if f"`{reason}`" not in PAGE] == []
