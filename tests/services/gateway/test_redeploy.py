"""A service that is replaced by one with other models while the gateway runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.deadline import Deadline
from shared.errors import UnknownRanker
from shared.wire.base import RankerName
from shared.wire.inner import ModelCard, ModelList, RankAnswer, RankRequest, RetrieveAnswer
from shared.wire.recommend import RecommendAnswer, RecommendRequest
from tests import fakes
from tests.services.gateway.parts import Parts

pytestmark = pytest.mark.anyio


class Replaced(fakes.AnsweringRanking):
    """Serves one ranker and no other."""

    method: RankerName = "llamarec"
    version = "1"

    @property
    def name(self) -> str:
        return f"{self.method}@{self.version}"

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        if request.ranker not in (None, self.method):
            raise UnknownRanker(f"there are: {self.method}")
        return (await super().rank(request, deadline)).model_copy(update={"model": self.name, "ranker": self.method})

    async def models(self, deadline: Deadline) -> ModelList:
        card = ModelCard(name=self.name, method=self.method, catalog="c")
        return ModelList(models=[card], default=self.method)


async def ask(parts: Parts, **request: Any) -> RecommendAnswer:
    asked = RecommendRequest.model_validate({"user_id": "u1"} | request)
    return await parts.recommender.recommend(asked, Deadline.after_ms(2000))


async def heard() -> None:
    """The doubt has been asked about."""
    await asyncio.sleep(0.01)


async def test_a_default_ranker_that_is_gone_is_nobodys_mistake_and_the_new_one_is_found() -> None:
    parts = await Parts(ranking=Replaced()).started()
    parts.ranking.method = "llara"
    assert (await ask(parts)).degradation == ["ranker_unavailable"]
    await heard()
    found = await ask(parts, limit=3)
    assert (found.degraded, found.items[0].source) == (False, "llara")


async def test_who_names_a_ranker_that_is_gone_is_told() -> None:
    parts = await Parts(ranking=Replaced()).started()
    parts.ranking.method = "llara"
    with pytest.raises(UnknownRanker):
        await ask(parts, ranker="llamarec")


async def test_the_answer_of_a_new_version_is_not_kept_under_the_name_of_the_old_one() -> None:
    parts = await Parts(ranking=Replaced()).started()
    parts.ranking.version = "2"
    assert [(await ask(parts)).cache for _ in "12"] == ["miss", "miss"]
    await heard()
    found = [await ask(parts) for _ in "12"]
    assert [one.cache for one in found] == ["miss", "hit"]
    assert {one.model.ranker for one in found} == {"llamarec@2"}


async def test_the_answer_of_a_new_retriever_is_not_kept_under_the_name_of_the_old_one() -> None:
    def newer(found: RetrieveAnswer) -> RetrieveAnswer:
        return found.model_copy(update={"model": "lrurec@1111"})

    parts = await Parts(fakes.AnsweringRetrieval(newer)).started()
    assert [(await ask(parts)).cache for _ in "12"] == ["miss", "miss"]


async def test_doubts_do_not_become_a_storm_of_questions() -> None:
    class Counted(Replaced):
        asked = 0

        async def models(self, deadline: Deadline) -> ModelList:
            self.asked += 1
            return await super().models(deadline)

    ranking = Counted()
    parts = await Parts(ranking=ranking).started()
    for _ in range(50):
        parts.loaded.doubt()
        await asyncio.sleep(0)
    assert ranking.asked == 2, "one at the start"
