"""Rankers side by side, out of what the service answered."""

from __future__ import annotations

from typing import Any

from services.commands.demo import RANKERS, shipped
from services.commands.orders import Column, columns, said, table
from shared.artifact import open_artifact
from tests.ranker import tiny

DATA = tiny.DATA


def answer(items: list[int]) -> dict[str, Any]:
    return {"items": [{"item_id": DATA.catalog[i].id, "rank": rank} for rank, i in enumerate(items, start=1)]}


def own(items: list[int]) -> dict[str, int]:
    return {DATA.catalog[i].id: place for place, i in enumerate(items, start=1)}


def test_each_line_has_the_place_as_served_and_the_language_models_own() -> None:
    rankers = [Column("collm", 0.3, {}, own([13, 11, 12])), Column("llara", 0.0, {}, own([12, 13, 11]))]
    ranked = {"collm": answer([11, 13, 12]), "llara": answer([11, 12, 13])}
    lines = [line.split() for line in table(DATA, answer([11, 12, 13]), ranked, rankers)]
    assert lines[0] == ["retrieved", "collm", "llara"]
    assert [line[-4:] for line in lines[1:]] == [
        ["1", "(2)", "1", "(3)"],
        ["3", "(3)", "2", "(1)"],
        ["2", "(1)", "3", "(2)"],
    ]


def test_a_blend_of_0_is_said_in_words_and_another_with_what_it_gained() -> None:
    gain = {"mean": 0.004, "low": -0.001, "high": 0.01}
    lines = said([Column("llara", 0.0, gain, {}), Column("recllm", 0.25, gain, {})])
    assert "added nothing to the retriever" in lines[0]
    assert "blend 0.25, +0.0040 NDCG@10 on validation users, 95 % -0.0010 to +0.0100" in lines[1]


def test_the_own_places_are_those_of_the_answers_own_scores() -> None:
    items = [
        {"item_id": "a", "rank": 1, "ranker_score": -2.0},
        {"item_id": "b", "rank": 2, "ranker_score": -0.5},
        {"item_id": "c", "rank": 3, "ranker_score": -2.0},
        {"item_id": "d", "rank": 4},
    ]
    found = columns(shipped(), {name: {"items": items} for name in RANKERS})
    assert [column.name for column in found] == list(RANKERS)
    for column, folder in zip(found, shipped(), strict=True):
        assert column.own == {"b": 1, "a": 2, "c": 3}
        assert column.blend == open_artifact(folder, "ranker").extra["blend"]


def test_a_ranker_that_had_no_part_in_its_answer_shows_dashes() -> None:
    late = {"items": [{"item_id": DATA.catalog[11].id, "rank": 1}]}
    found = columns(shipped(), dict.fromkeys(RANKERS, late))
    [_, line] = table(DATA, late, dict.fromkeys(RANKERS, late), found)
    assert line.split()[-8:] == ["1", "(-)"] * 4
