"""`tandem evaluate`: what is wrong with the question is said before the work, not after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.commands.evaluate import Evaluate, _origin, _read, run
from shared.errors import BadInput
from tests.ranker import tiny

NOWHERE = Path("nowhere")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"users": -1}, "users=-1: 0 or more"),
        ({"order_users": -5}, "order_users=-5: 0 or more"),
        ({"protocol": "collm", "ranker": NOWHERE, "plots": Path("plots")}, "--plots and --lists belong to"),
        ({"protocol": "llara", "ranker": NOWHERE, "baselines": ("als",)}, "llara has none"),
        ({"protocol": "collm", "ranker": NOWHERE, "baselines": ("mf",)}, "go without --ranker"),
    ],
)
def test_what_would_be_ignored_is_refused(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said):
        run(Evaluate(data=NOWHERE, **asked))


def test_lists_do_not_take_the_names_of_our_own_rows() -> None:
    with pytest.raises(BadInput, match="lrurec is a row of our own"):
        _read(["lrurec=today.csv"], tiny.DATA)


@pytest.mark.parametrize(
    ("beside", "made"),
    [
        ('{"packages": {"rectools": "0.19.0"}}', {"packages": {"rectools": "0.19.0"}}),
        ('{"user_id": 1}\n{"user_id": 2}', None),
        ("[1]", None),
        (None, None),
    ],
)
def test_how_lists_were_made_is_taken_from_rectools_alone(tmp_path: Path, beside: str | None, made: object) -> None:
    (tmp_path / "today.csv").write_text("user_id,item_id\n")
    if beside is not None:
        (tmp_path / "today.json").write_text(beside)
    assert _origin(tmp_path / "today.csv")["made"] == made
