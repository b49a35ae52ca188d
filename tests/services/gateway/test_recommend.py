"""The use case, without HTTP: every way in which an answer can be whole or degraded."""

from __future__ import annotations

import time
from typing import Any

import pytest

from services.gateway.policy import Policy
from services.gateway.ports import RankingPort, RetrievalPort
from shared.catalog import Catalog, Item
from shared.errors import (
    BadAnswer,
    BadInput,
    CatalogMismatch,
    DeadlineExceeded,
    Overloaded,
    TandemError,
    Unavailable,
    UnknownRanker,
)
from shared.wire.inner import RankAnswer, RankedItem, RetrieveAnswer
from shared.wire.recommend import RecommendAnswer, RecommendRequest
from tests import fakes
from tests.services.gateway.parts import Parts

pytestmark = pytest.mark.anyio


async def answer(
    retrieval: RetrievalPort | None = None,
    ranking: RankingPort | None = None,
    policy: Policy | None = None,
    timeout_ms: float = 1000,
    **request: Any,
) -> RecommendAnswer:
    given = {"retrieval": retrieval, "ranking": ranking, "policy": policy}
    parts = await Parts(**{name: part for name, part in given.items() if part}).started()
    asked = RecommendRequest(**({"user_id": "u1"} | request))
    return await parts.recommender.recommend(asked, parts.policy.deadline(timeout_ms))


def ids(found: RecommendAnswer) -> list[str]:
    return [item.item_id for item in found.items]


RETRIEVED = [f"i{n}" for n in range(6, 26)]
"""What the fake retriever finds after u1's history of i3, i5."""


async def test_the_ranker_orders_the_retrieved_items() -> None:
    found = await answer(limit=20)
    assert ids(found) == RETRIEVED[::-1]
    assert {item.source for item in found.items} == {"llamarec"}
    assert not found.degraded
    assert found.model.ranker == "llamarec@0000bbbb"
    assert found.model.retriever == "lrurec@0000aaaa"
    assert found.model.catalog == fakes.catalog().fingerprint()[:12]


async def test_both_scores_stand_beside_each_item() -> None:
    first = (await answer(limit=1)).items[0]
    assert (first.score, first.retrieval_score) == (1.0, 41.0)


async def test_the_language_models_own_score_comes_where_scores_are_included_and_it_had_a_part() -> None:
    parts = await Parts(ranking=fakes.AnsweringRanking()).started()

    async def ask(**request: Any) -> RecommendAnswer:
        asked = RecommendRequest(**({"user_id": "u1", "limit": 22} | request))
        return await parts.recommender.recommend(asked, parts.policy.deadline(1000))

    plain, told, again, retrieved = [
        await ask(),
        await ask(include=["scores"]),
        await ask(include=["scores"]),
        await ask(include=["scores"], ranker="retrieval"),
    ]
    assert {item.ranker_score for item in (*plain.items, *retrieved.items)} == {None}
    assert [item.ranker_score for item in told.items] == [-1.0 - place for place in range(20)] + [None] * 2
    assert again.items == told.items
    assert again.cache == "hit"


async def test_a_promoted_item_keeps_the_language_models_own_score() -> None:
    promoted = {"item_ids": ["i6"], "position": 1}
    found = await answer(limit=3, include=["scores"], promotions=[promoted])
    assert (found.items[0].item_id, found.items[0].source, found.items[0].ranker_score) == ("i6", "promotion", -20.0)


async def test_ranks_count_from_one_without_gaps() -> None:
    assert [item.rank for item in (await answer(limit=30)).items] == list(range(1, 31))


async def test_a_short_answer_is_the_best_of_twenty() -> None:
    ranking = fakes.AnsweringRanking()
    found = await answer(ranking=ranking, limit=2)
    assert len(ranking.requests[0].candidates) == 20
    assert ids(found) == ["i25", "i24"]


async def test_beyond_twenty_the_retrieval_order_stands_and_says_so() -> None:
    found = await answer(limit=25)
    assert ids(found)[20:] == ["i26", "i27", "i28", "i29", "i30"]
    assert {item.source for item in found.items[20:]} == {"retrieval"}


async def test_a_history_in_the_request_overrides_the_stored_one() -> None:
    assert ids(await answer(history=["i30"], ranker="retrieval", limit=1)) == ["i31"]


async def test_what_the_user_has_stays_away_also_with_a_history_in_the_request() -> None:
    assert ids(await answer(history=[], limit=3)) == ["i1", "i2", "i4"]


async def test_a_session_needs_no_user() -> None:
    found = await answer(user_id=None, history=["i30"])
    assert not found.degraded


async def test_the_history_and_the_excluded_items_never_come_back() -> None:
    found = await answer(exclude_item_ids=["i6", "i7"], limit=60)
    assert not {"i3", "i5", "i6", "i7"} & set(ids(found))
    assert len(found.items) == 56


async def test_a_category_filter_keeps_only_its_items() -> None:
    found = await answer(filter={"categories": ["Horror"]}, limit=60, include=["metadata"])
    assert {category for item in found.items for category in item.metadata.categories} == {"Horror"}
    assert len(found.items) == 19


async def test_an_unknown_category_gives_an_empty_answer() -> None:
    assert ids(await answer(filter={"categories": ["Opera"]})) == []


async def test_metadata_comes_only_when_asked_for() -> None:
    assert (await answer()).items[0].metadata is None
    assert (await answer(include=["metadata"])).items[0].metadata.title == "Title 25"


async def test_unknown_ids_are_named() -> None:
    found = await answer(history=["i5", "nope"], exclude_item_ids=["neither"])
    assert found.missing_ids == ["nope"]
    assert not found.degraded


async def test_the_ranker_retrieval_asks_no_language_model() -> None:
    ranking = fakes.BrokenRanking(Unavailable("down"))
    found = await answer(ranking=ranking, ranker="retrieval", limit=20)
    assert ids(found) == RETRIEVED
    assert (found.degraded, found.model.ranker, ranking.asked) == (False, None, 0)


async def test_the_default_ranker_is_the_policys() -> None:
    ranking = fakes.AnsweringRanking()
    await answer(ranking=ranking, policy=Policy(default_ranker="collm"))
    assert ranking.requests[0].ranker == "collm"


SESSION = {"user_id": None, "history": []}


@pytest.mark.parametrize("who", [{"user_id": "nobody"}, {"user_id": "empty"}, SESSION, SESSION | {"history": ["nope"]}])
async def test_a_cold_user_gets_what_is_popular_and_is_told(who: dict[str, Any]) -> None:
    found = await answer(**who, limit=3)
    assert ids(found) == ["i1", "i2", "i3"]
    assert found.degradation == ["cold_user"]
    assert {item.source for item in found.items} == {"popularity"}


async def test_a_cold_user_is_no_failure_that_could_be_refused() -> None:
    assert (await answer(user_id="nobody", allow_degraded=False)).degradation == ["cold_user"]


FAILURES: list[tuple[TandemError, str]] = [
    (DeadlineExceeded("late"), "ranker_timeout"),
    (Overloaded("full"), "ranker_overloaded"),
    (Unavailable("down"), "ranker_unavailable"),
    (BadAnswer("nonsense"), "ranker_unavailable"),
    (CatalogMismatch("another catalogue"), "ranker_unavailable"),
    (BadInput("our own fault"), "ranker_unavailable"),
]


@pytest.mark.parametrize(("error", "reason"), FAILURES)
async def test_a_failing_ranker_leaves_the_retrievers_order(error: TandemError, reason: str) -> None:
    found = await answer(ranking=fakes.BrokenRanking(error), limit=20)
    assert ids(found) == RETRIEVED
    assert (found.degraded, found.degradation, found.model.ranker) == (True, [reason], None)
    assert {item.source for item in found.items} == {"retrieval"}


@pytest.mark.parametrize(("error", "reason"), FAILURES)
async def test_who_allows_no_degraded_answer_gets_an_error(error: TandemError, reason: str) -> None:
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await answer(ranking=fakes.BrokenRanking(error), allow_degraded=False)


async def test_a_ranker_that_is_not_loaded_is_the_callers_mistake() -> None:
    with pytest.raises(UnknownRanker):
        await answer(ranking=fakes.BrokenRanking(UnknownRanker("there are: llamarec")), ranker="collm")


async def test_a_slow_ranker_is_left_behind_in_time() -> None:
    began = time.perf_counter()
    found = await answer(ranking=fakes.AnsweringRanking(seconds=5), timeout_ms=100)
    assert found.degradation == ["ranker_timeout"]
    assert time.perf_counter() - began < 0.15


def _twice(found: RankAnswer) -> RankAnswer:
    return found.model_copy(update={"items": [found.items[0], *found.items[:-1]]})


def _fewer(found: RankAnswer) -> RankAnswer:
    return found.model_copy(update={"items": found.items[1:]})


def _others(found: RankAnswer) -> RankAnswer:
    return found.model_copy(update={"items": [RankedItem(item_id="evil", score=1), *found.items[1:]]})


@pytest.mark.parametrize("distort", [_twice, _fewer, _others])
async def test_a_ranking_of_other_items_is_thrown_away(distort: Any) -> None:
    found = await answer(ranking=fakes.AnsweringRanking(distort), limit=20)
    assert ids(found) == RETRIEVED
    assert found.degradation == ["ranker_unavailable"]


@pytest.mark.parametrize(
    ("policy", "update"),
    [(Policy(), {"label_mass": 0.01}), (Policy(max_entropy=2.9), {"entropy": 2.99})],
)
async def test_a_ranker_without_an_opinion_leaves_the_retrievers_order(
    policy: Policy, update: dict[str, float]
) -> None:
    unsure = fakes.AnsweringRanking(lambda found: found.model_copy(update=update))
    found = await answer(ranking=unsure, policy=policy, limit=20)
    assert ids(found) == RETRIEVED
    assert found.degradation == ["low_confidence"]
    assert found.items[0].source == "retrieval"


async def test_without_retrieval_the_last_popularity_list_answers() -> None:
    found = await answer(fakes.BrokenRetrieval(Unavailable("down")), exclude_item_ids=["i1"], limit=3)
    assert ids(found) == ["i2", "i4", "i6"]
    assert found.degradation == ["retrieval_unavailable"]
    assert {item.source for item in found.items} == {"popularity"}


async def test_the_popularity_list_obeys_the_category_filter() -> None:
    found = await answer(fakes.BrokenRetrieval(Unavailable("down")), filter={"categories": ["Horror"]}, limit=2)
    assert ids(found) == ["i6", "i9"]
    assert found.items[0].metadata is None


async def test_a_slow_retrieval_is_left_behind_in_time() -> None:
    began = time.perf_counter()
    found = await answer(fakes.AnsweringRetrieval(seconds=5), timeout_ms=100)
    assert found.degradation == ["retrieval_unavailable"]
    assert time.perf_counter() - began < 0.15


async def test_without_retrieval_nor_any_list_there_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        await answer(fakes.BrokenRetrieval(Unavailable("down"), popular_works=False))


async def test_without_retrieval_who_allows_no_degraded_answer_gets_an_error() -> None:
    with pytest.raises(Unavailable):
        await answer(fakes.BrokenRetrieval(Unavailable("down")), allow_degraded=False)
    with pytest.raises(DeadlineExceeded):
        await answer(fakes.AnsweringRetrieval(seconds=5), allow_degraded=False, timeout_ms=50)


async def test_a_retrieval_that_repeats_what_the_user_has_is_corrected() -> None:
    def repeat(found: RetrieveAnswer) -> RetrieveAnswer:
        seen = found.items[0].model_copy(update={"item_id": "i3"})
        return found.model_copy(update={"items": [seen, found.items[0], *found.items]})

    found = await answer(fakes.AnsweringRetrieval(repeat), ranker="retrieval", limit=20)
    assert ids(found) == RETRIEVED


async def test_a_long_stored_history_is_excluded_as_a_whole() -> None:
    items = fakes.catalog(3000)
    users = fakes.FakeHistories(reader=[f"i{n}" for n in range(1, 2501)])
    ranking = fakes.AnsweringRanking()
    parts = Parts(fakes.retrieval_service(items), ranking, histories=users)
    asked = RecommendRequest(user_id="reader", limit=1000)
    found = await parts.recommender.recommend(asked, parts.policy.deadline(5000))
    assert set(ids(found)) == {f"i{n}" for n in range(2501, 3001)}
    assert ranking.requests[0].history[0] == "i1501"


async def test_an_odd_id_in_a_stored_history_is_no_error() -> None:
    items = Catalog((*fakes.catalog().items, Item("x" * 500, "Long"), Item("new\nline", "Broken")))
    users = fakes.FakeHistories(odd=["x" * 500, "new\nline"])
    parts = Parts(fakes.retrieval_service(items), fakes.ranking_service(items), histories=users)
    found = await parts.recommender.recommend(RecommendRequest(user_id="odd"), parts.policy.deadline())
    assert (len(found.items), found.degraded, found.missing_ids) == (10, False, [])


def test_the_shortest_budget_counts() -> None:
    policy = Policy(default_timeout_ms=1000)
    assert policy.deadline(None, None).remaining_ms() == pytest.approx(1000, abs=5)
    assert policy.deadline(400, 90).remaining_ms() == pytest.approx(90, abs=5)
    assert policy.deadline(3000, None).remaining_ms() == pytest.approx(3000, abs=5)
