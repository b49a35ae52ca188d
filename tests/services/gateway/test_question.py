"""Which questions share an answer out of the cache."""

from __future__ import annotations

from typing import Any

import pytest

from shared.deadline import Deadline
from shared.wire.recommend import RankItemsRequest
from tests import fakes
from tests.services.gateway.parts import Parts, ask, ids

pytestmark = pytest.mark.anyio


async def test_other_limits_up_to_twenty_share_the_entry() -> None:
    parts = await Parts().started()
    await ask(parts, limit=20)
    assert (await ask(parts, limit=3)).cache == "hit"


@pytest.mark.parametrize(
    "other",
    [
        {"history": ["i9"]},
        {"ranker": "retrieval"},
        {"filter": {"categories": ["Drama"]}},
        {"include": ["metadata"]},
        {"diversity": 0.5},
        {"limit": 100},
    ],
)
async def test_another_question_is_not_answered_from_it(other: dict[str, Any]) -> None:
    parts = await Parts().started()
    await ask(parts)
    assert (await ask(parts, **other)).cache == "miss"


async def test_tenants_share_nothing() -> None:
    parts = await Parts().started()
    await ask(parts, history=["i9"])
    assert (await ask(parts, history=["i9"], tenant="other")).cache == "miss"
    assert ids(await ask(parts, tenant="other")) == [f"i{n}" for n in range(1, 11)], "the data folder is not theirs"


async def test_with_recllm_as_the_first_stage_users_of_one_history_have_lists_of_their_own() -> None:
    parts = await Parts().started()
    one, other = {"user_id": "new", "history": ["i9"]}, {"user_id": "newer", "history": ["i9"]}
    await ask(parts, **one)
    assert (await ask(parts, **other)).cache == "hit"
    assert parts.loaded.retriever is not None
    parts.loaded.retriever = parts.loaded.retriever.model_copy(update={"method": "recllm"})
    await ask(parts, **one)
    assert [(await ask(parts, **who)).cache for who in (other, one)] == ["miss", "hit"]


async def test_a_new_retriever_is_a_new_cache_for_the_callers_candidates_too() -> None:
    parts = await Parts().started()
    asked = RankItemsRequest(user_id="u1", candidates=["i9", "i7"])
    answers = [await parts.reranker.rank(asked, Deadline.after_ms(2000)) for _ in range(2)]
    assert parts.loaded.retriever is not None
    for update in ({"name": "lrurec@9999"}, {"catalog": "another"}):
        parts.loaded.retriever = parts.loaded.retriever.model_copy(update=update)
        answers.append(await parts.reranker.rank(asked, Deadline.after_ms(2000)))
    assert [answer.cache for answer in answers] == ["miss", "hit", "miss", "miss"]


async def test_a_new_model_is_a_new_cache() -> None:
    parts = await Parts().started()
    await ask(parts)
    parts.loaded.rankers = {"llamarec": fakes.LLAMAREC.model_copy(update={"name": "llamarec@2222"})}
    assert (await ask(parts)).cache == "miss"
