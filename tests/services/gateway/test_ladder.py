"""The rungs that caching adds, and what a cached list must never hide."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from services.gateway.events import Users
from services.gateway.latency import ENOUGH, FEW
from services.gateway.policy import Policy
from services.gateway.ports import Who
from shared.deadline import Deadline
from shared.errors import Overloaded, Unavailable, UnknownRanker
from shared.wire.inner import (
    ModelCard,
    ModelList,
    RankAnswer,
    RankedItem,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.recommend import Models, RankItemsRequest, RerankRequest
from shared.wire.users import Event, ItemState
from tests import fakes
from tests.services.gateway.parts import Failing, Parts, ask, ids

pytestmark = pytest.mark.anyio


async def test_the_second_request_is_answered_from_the_cache() -> None:
    parts = await Parts(fakes.AnsweringRetrieval()).started()
    first, second = await ask(parts), await ask(parts)
    assert (first.cache, first.rung, second.cache, second.rung) == ("miss", "ranker", "hit", "cache")
    assert [item.model_dump() for item in first.items] == [item.model_dump() for item in second.items]
    assert second.model == first.model
    assert first.recommendation_id != second.recommendation_id
    assert len(parts.ranking.requests) == parts.retrieval.asked == 1
    assert (second.timing_ms.retrieval, second.timing_ms.rank) == (0.0, 0.0)


async def test_models_hear_of_the_home_tenants_users_alone_and_of_none_who_was_erased() -> None:
    """The data folder's users are the home tenant's, and so is what a model has learnt of them."""
    told: list[str | None] = []

    class Listening(fakes.AnsweringRetrieval):
        async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
            told.append(request.user_id)
            return await super().retrieve(request, deadline)

        async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
            told.append(request.user_id)
            return await super().score(request, deadline)

    parts = await Parts(Listening()).started()

    async def heard(tenant: str, history: list[str], **request: Any) -> set[str | None]:
        told.clear()
        parts.ranking.requests.clear()
        await ask(parts, tenant=tenant, history=history, **request)
        asked = RankItemsRequest(user_id="u1", history=history, candidates=["i7", "i8"])
        await parts.reranker.rank(asked, Deadline.after_ms(2000), tenant)
        assert len(told) > 1 < len(parts.ranking.requests) + 1
        return {*told, *(one.user_id for one in parts.ranking.requests)}

    promotions = {"promotions": [{"item_ids": ["i60"], "position": 1}]}
    assert await heard("default", ["i9"], **promotions) == {"u1"}
    assert await heard("other", ["i9"], **promotions) == {None}
    await Users(parts.state, parts.cache, parts.histories).erase("default", "u1")
    assert await heard("default", ["i10"], **promotions) == {None}


async def test_what_is_excluded_seen_or_hidden_never_comes_out_of_the_cache() -> None:
    parts = await Parts().started()
    await ask(parts, limit=20)
    found = await ask(parts, limit=20, exclude_item_ids=["i25"])
    assert found.cache == "hit"
    assert (ids(found)[0], len(found.items)) == ("i24", 20)
    await parts.state.set_item("default", "i24", ItemState(hidden=True))
    await parts.state.set_item("default", "i23", ItemState(available=False))
    assert ids(await ask(parts, limit=1, exclude_item_ids=["i25"])) == ["i22"]
    assert ids(await ask(parts, limit=1, exclude_item_ids=["i25"], filter={"availability": "any"})) == ["i23"]
    dismissal = Event(event_id="e1", user_id="u1", item_id="i22", type="dismissal")
    await parts.state.append("default", [dismissal], 1)
    assert "i22" not in ids(await ask(parts, limit=60))


async def test_filters_that_take_much_are_made_up_for() -> None:
    parts = await Parts().started()
    gone = [f"i{n}" for n in range(6, 50)]
    found = await ask(parts, exclude_item_ids=gone, limit=10)
    assert ids(found) == [f"i{n}" for n in range(50, 60)]
    assert {item.source for item in found.items} == {"retrieval"}


async def test_all_there_are_when_there_are_no_more() -> None:
    parts = await Parts().started()
    found = await ask(parts, exclude_item_ids=[f"i{n}" for n in range(6, 59)], limit=10)
    assert set(ids(found)) == {"i59", "i60", "i1", "i2", "i4"}


async def test_an_event_makes_another_history() -> None:
    parts = await Parts().started()
    await ask(parts)
    event = Event(event_id="e1", user_id="u1", item_id="i40")
    version = (await parts.state.append("default", [event], 1)).versions[Who("user", "u1")]
    found = await ask(parts, after=f"{version:x}", ranker="retrieval", limit=1)
    assert (ids(found), found.cache, found.degraded) == (["i41"], "miss", False)


async def test_a_token_that_is_not_there_yet_is_said() -> None:
    parts = await Parts().started()
    assert (await ask(parts, after="ff")).degradation == ["stale_history"]
    with pytest.raises(Unavailable):
        await ask(parts, after="ff", allow_degraded=False)


async def test_without_retrieval_the_users_last_ranking_answers() -> None:
    parts = await Parts(Failing()).started()
    first = await ask(parts, limit=20)
    parts.retrieval.error = Unavailable("down")
    await parts.state.append("default", [Event(event_id="e", user_id="u1", item_id="i25")], 1)
    found = await ask(parts, limit=20)
    assert (found.rung, found.cache) == ("stale", "stale")
    assert found.degradation == ["retrieval_unavailable", "stale_cache"]
    assert ids(found)[:19] == ids(first)[1:]
    assert ids(await ask(parts, user_id="u2", limit=2)) == ["i1", "i2"], "another user has none"


async def test_a_gateway_that_starts_without_retrieval_has_the_list_of_its_last_life(tmp_path: Any) -> None:
    file = tmp_path / "popular.json"
    await Parts(popularity_file=file).started()
    down = fakes.BrokenRetrieval(Unavailable("down"), popular_works=False)
    parts = await Parts(down, popularity_file=file).started()
    found = await ask(parts, limit=3)
    assert (ids(found), found.rung, found.degradation) == (["i1", "i2", "i4"], "static", ["retrieval_unavailable"])
    assert {item.source for item in found.items} == {"static"}
    assert parts.popular.why_not_ready() is None


async def test_many_at_once_are_one_question_to_each_service() -> None:
    parts = await Parts(fakes.AnsweringRetrieval(), fakes.AnsweringRanking(seconds=0.05)).started()
    found = await asyncio.gather(*(ask(parts) for _ in range(200)))
    assert len(parts.ranking.requests) == parts.retrieval.asked == 1
    assert len({tuple(ids(one)) for one in found}) == 1
    assert not any(one.degraded for one in found)


async def test_who_cannot_wait_for_a_shared_ranking_gets_the_retrievers_order() -> None:
    parts = await Parts(ranking=fakes.AnsweringRanking(seconds=0.5)).started()
    patient = asyncio.create_task(ask(parts))
    await asyncio.sleep(0.05)
    hasty = await ask(parts, timeout_ms=100)
    assert (hasty.degradation, hasty.rung) == (["ranker_timeout"], "retrieval")
    assert not (await patient).degraded


async def test_who_had_more_time_than_the_flight_it_joined_tries_again() -> None:
    parts = await Parts(ranking=fakes.AnsweringRanking(seconds=0.2)).started()
    hasty = asyncio.create_task(ask(parts, timeout_ms=120))
    await asyncio.sleep(0.02)
    patient = await ask(parts)
    assert (await hasty).degradation == ["ranker_timeout"]
    assert (patient.degraded, patient.rung) == (False, "ranker")


async def test_the_haste_of_one_who_could_not_wait_for_retrieval_is_nobody_elses() -> None:
    parts = await Parts(fakes.AnsweringRetrieval(seconds=0.1)).started()
    hasty = asyncio.create_task(ask(parts, timeout_ms=40))
    await asyncio.sleep(0.01)
    patient = await asyncio.gather(*(ask(parts) for _ in range(50)))
    assert {(one.degraded, one.rung) for one in patient} == {(False, "ranker")}
    assert (await hasty).degradation == ["retrieval_unavailable"]
    assert parts.retrieval.asked == 2, "those who wait begin one flight among them"


async def test_haste_is_not_cached_and_overload_only_briefly() -> None:
    parts = await Parts(ranking=fakes.AnsweringRanking(seconds=0.2)).started()
    assert (await ask(parts, timeout_ms=100)).degraded
    assert not (await ask(parts)).degraded
    full = await Parts(ranking=fakes.BrokenRanking(Overloaded("full"))).started()
    full.loaded.rankers = {"llamarec": fakes.LLAMAREC}
    first, second = await ask(full, ranker="llamarec"), await ask(full, ranker="llamarec")
    assert first.degradation == second.degradation == ["ranker_overloaded"]
    assert (second.cache, full.ranking.asked) == ("hit", 1)


async def test_a_ranker_that_usually_takes_longer_is_not_asked() -> None:
    parts = await Parts().started()
    for _ in range(ENOUGH):
        parts.loaded.of("llamarec").add(500.0)
    found = await ask(parts, timeout_ms=300)
    assert (found.degradation, found.rung, len(parts.ranking.requests)) == (["ranker_timeout"], "retrieval", 0)
    assert (await ask(parts, timeout_ms=900)).rung == "ranker"


class Three(fakes.AnsweringRanking):
    async def models(self, deadline: Deadline) -> ModelList:
        cards = [
            ModelCard(name=f"{name}@1", method=name, catalog="c", metrics={"blend": weight, "blend_gain": gain})
            for name, weight, gain in (
                ("llamarec", 0.1, 0.001),
                ("llara", 0.3, 0.003),
                ("recllm", 0.2, 0.002),
                ("collm", 0, 0.9),
            )
        ]
        return ModelList(models=cards, default="llamarec")


async def test_auto_is_the_best_ranker_that_fits() -> None:
    parts = await Parts(ranking=Three()).started()
    assert (await ask(parts, ranker="auto")).items[0].source == "llara"
    for _ in range(ENOUGH):
        parts.loaded.of("llara").add(5000.0)
    assert (await ask(parts, ranker="auto")).items[0].source == "recllm"
    for name in ("llamarec", "recllm"):
        for _ in range(2 * ENOUGH):
            parts.loaded.of(name).add(5000.0)
    found = await ask(parts, ranker="auto")
    assert (found.items[0].source, found.degraded) == ("retrieval", False)


async def test_auto_leaves_a_ranker_that_never_comes_in_time() -> None:
    """It has no usual time: nobody has seen it answer."""
    slow = Three(seconds=0.3)
    parts = await Parts(ranking=slow).started()
    for turn in range(FEW):
        found = await ask(parts, ranker="auto", timeout_ms=200, user_id=f"late{turn}", history=[f"i{turn + 1}"])
        assert (found.degradation, slow.requests[-1].ranker) == (["ranker_timeout"], "llara")
    slow._seconds = 0.0
    assert (await ask(parts, ranker="auto", timeout_ms=200)).items[0].source == "recllm"
    assert (await ask(parts, ranker="auto", timeout_ms=2000)).items[0].source == "llara"


async def test_promotions_come_from_the_whole_catalogue_but_not_from_what_the_user_has() -> None:
    parts = await Parts().started()
    found = await ask(parts, promotions=[{"item_ids": ["i3", "gone", "i60"], "position": 2}], limit=5)
    assert ids(found) == ["i25", "i60", "i24", "i23", "i22"]
    assert found.items[1].source == "promotion"


async def test_diversity_mixes_unlike_items() -> None:
    """The fake's vectors are the same for indices equal modulo 4."""
    parts = await Parts().started()
    found = await ask(parts, diversity=0.7, limit=4)
    assert {int(id_[1:]) % 4 for id_ in ids(found)} == {0, 1, 2, 3}
    assert found.items[0].item_id == "i25"


async def test_reasons_are_asked_for_and_given() -> None:
    items = fakes.catalog()
    parts = await Parts(ranking=fakes.ranking_service(items)).started()
    found = await ask(parts, include=["explain"])
    assert all(item.because == [] for item in found.items), "the fake ranker heeds no history"
    assert all(item.because is None for item in (await ask(parts)).items)


def _with_reasons(answer: RankAnswer) -> RankAnswer:
    return answer.model_copy(update={"items": [i.model_copy(update={"because": []}) for i in answer.items]})


async def test_where_reasons_do_not_fit_the_order_comes_without_them_and_the_next_one_may_have_them() -> None:
    parts = await Parts(ranking=fakes.AnsweringRanking()).started()
    for _ in range(ENOUGH):
        parts.loaded.of("llamarec explained").add(1200.0)
    hasty = await ask(parts, timeout_ms=900, include=["explain"])
    assert (hasty.rung, hasty.degraded, hasty.items[0].because) == ("ranker", False, None)
    parts.ranking._distort = _with_reasons
    assert (await ask(parts, timeout_ms=5000, include=["explain"])).items[0].because == [], (
        "also in the hasty one's flight"
    )
    await asyncio.sleep(0.02)
    patient, again = [await ask(parts, timeout_ms=5000, include=["explain"]) for _ in range(2)]
    assert (patient.cache, patient.items[0].because, again.cache) == ("miss", [], "hit")
    assert [one.explain for one in parts.ranking.requests] == [False, True, True]


async def test_a_session_alone_is_enough() -> None:
    parts = await Parts().started()
    await parts.state.append("default", [Event(event_id="e", session_id="s1", item_id="i9")], 1)
    found = await ask(parts, user_id=None, session_id="s1", ranker="retrieval", limit=1)
    assert (ids(found), found.degraded) == (["i10"], False)


async def test_the_callers_candidates_are_ranked() -> None:
    parts = await Parts().started()
    asked = RankItemsRequest(user_id="u1", candidates=["i9", "gone", "i7", "i3"], include=["metadata"])
    found = await parts.reranker.rank(asked, Deadline.after_ms(2000))
    assert ids(found) == ["i3", "i9", "i7"], "the fake ranker reverses the retriever's order"
    assert found.missing_ids == ["gone"]
    assert found.items[0].metadata.title == "Title 3"
    assert (await parts.reranker.rank(asked, Deadline.after_ms(2000))).cache == "hit"
    fewer = asked.model_copy(update={"candidates": ["i9", "i7"]})
    assert (await parts.reranker.rank(fewer, Deadline.after_ms(2000))).cache == "miss"


async def test_without_retrieval_the_callers_order_stands() -> None:
    parts = await Parts(fakes.BrokenRetrieval(Unavailable("down"))).started()
    asked = RankItemsRequest(user_id="u1", candidates=["i9", "i7"])
    found = await parts.reranker.rank(asked, Deadline.after_ms(2000))
    assert (ids(found), found.degradation, found.rung) == (["i9", "i7"], ["retrieval_unavailable"], "static")
    assert found.model == Models()
    assert {(item.score, item.retrieval_score) for item in found.items} == {(None, None)}


async def test_the_callers_candidates_count_as_answers_and_what_is_taken_of_them_counts_as_taken() -> None:
    parts = await Parts().started()
    found = await parts.reranker.rank(RankItemsRequest(user_id="u1", candidates=["i9", "i7"]), Deadline.after_ms(2000))
    await parts.reranker.rerank(RerankRequest(query="i5", documents=["i9", "i7"]), Deadline.after_ms(2000))
    await parts.records.aclose()
    assert [one.answer.rung for one in parts.heard] == ["ranker"] * 2
    event = Event(event_id="e", user_id="u1", item_id="i9", recommendation_id=found.recommendation_id)
    assert [click.ranker for click in (await parts.state.append("default", [event], 1)).clicked] == ["llamarec"]


async def test_a_jina_client_is_answered_in_its_shape() -> None:
    parts = await Parts().started()
    asked = RerankRequest.model_validate(
        {
            "model": "jina-reranker-v2-base-multilingual",
            "query": "Title 3\ni5",
            "documents": ["Title 9", {"text": "i7"}, "no such item", "Title 9"],
            "top_n": 3,
            "return_documents": True,
            "truncation": False,
        }
    )
    found = await parts.reranker.rerank(asked, Deadline.after_ms(2000))
    assert [one.index for one in found.results] == [0, 3, 1]
    scores = [one.relevance_score for one in found.results]
    assert scores == sorted(scores, reverse=True)
    assert found.results[2].document.text == "i7"
    assert found.model == "llamarec@0000bbbb"


async def test_a_ranker_that_is_not_loaded_is_refused_in_every_way_in() -> None:
    parts = await Parts(ranking=fakes.ranking_service(fakes.catalog())).started()
    with pytest.raises(UnknownRanker):
        await ask(parts, ranker="collm")
    asked = RankItemsRequest(user_id="u1", candidates=["i9"], ranker="collm")
    with pytest.raises(UnknownRanker):
        await parts.reranker.rank(asked, Deadline.after_ms(2000))


async def test_a_stale_entry_is_given_and_renewed_with_a_budget_of_its_own() -> None:
    policy = Policy(cache_fresh_s=0.05, cache_stale_s=60)
    parts = await Parts(ranking=fakes.AnsweringRanking(seconds=0.15), policy=policy).started()
    await ask(parts)
    await asyncio.sleep(0.1)
    stale = await ask(parts, timeout_ms=100)
    assert (stale.cache, stale.rung, stale.degraded) == ("stale", "cache", False)
    await asyncio.sleep(0.3)
    assert len(parts.ranking.requests) == 2


def test_the_answer_of_the_ranker_names_reasons_only_when_asked() -> None:
    assert "because" not in RankAnswer(
        items=[RankedItem(item_id="i1", score=0.0)],
        model="m",
        ranker="llamarec",
        label_mass=1.0,
        entropy=0.0,
        queue_ms=0.0,
        rank_ms=0.0,
    ).model_dump_json(exclude_none=True)
