"""The gateway's routes: thin, so these only show that each is wired to what it names."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.app import compose
from services.gateway.ports import RankingPort, RetrievalPort
from services.gateway.settings import GatewaySettings
from shared.errors import Unavailable
from tests import fakes
from tests.services.asgi import client, embedded_app

pytestmark = pytest.mark.anyio


def gateway(retrieval: RetrievalPort | None = None, ranking: RankingPort | None = None) -> FastAPI:
    return compose(
        GatewaySettings(),
        fakes.histories(),
        retrieval or fakes.AnsweringRetrieval(),
        ranking or fakes.AnsweringRanking(),
        AsyncExitStack(),
        CollectorRegistry(),
    )


async def test_the_timeout_header_bounds_the_answer() -> None:
    async with client(gateway(ranking=fakes.AnsweringRanking(seconds=5))) as http:
        began = time.perf_counter()
        headers = {"X-Request-Timeout-Ms": "100"}
        response = await http.post("/recommend", json={"user_id": "u1", "timeout_ms": 4000}, headers=headers)
    assert response.json()["degradation"] == ["ranker_timeout"]
    assert time.perf_counter() - began < 0.2


async def test_the_default_timeout_is_a_second() -> None:
    async with client(gateway(ranking=fakes.AnsweringRanking(seconds=5))) as http:
        began = time.perf_counter()
        await http.post("/recommend", json={"user_id": "u1"})
    assert 0.9 < time.perf_counter() - began < 1.1


async def test_a_refused_degradation_is_a_504_or_a_503_with_retry_after() -> None:
    strict = {"user_id": "u1", "allow_degraded": False, "timeout_ms": 50}
    async with client(gateway(ranking=fakes.AnsweringRanking(seconds=5))) as http:
        assert (await http.post("/recommend", json=strict)).status_code == 504
    async with client(gateway(ranking=fakes.BrokenRanking(Unavailable("down")))) as http:
        response = await http.post("/recommend", json=strict)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")


async def test_a_stored_history_is_shown_oldest_first() -> None:
    async with client(gateway()) as http:
        response = await http.get("/users/u1/history")
    assert response.json() == {"user_id": "u1", "item_ids": ["i3", "i5"]}


async def test_the_models_of_a_service_that_is_down_are_left_out() -> None:
    async with client(gateway(fakes.BrokenRetrieval(Unavailable("down")))) as http:
        response = await http.get("/models")
    assert [card["name"] for card in response.json()["models"]] == ["llamarec@0000bbbb"]
    assert response.json()["default"] == "llamarec"


async def test_in_one_process_both_models_are_listed() -> None:
    async with client(embedded_app()) as http:
        response = await http.get("/models")
    assert [card["name"] for card in response.json()["models"]] == ["lrurec@0000aaaa", "llamarec@0000bbbb"]


async def test_a_gateway_without_any_popularity_list_is_not_ready() -> None:
    async with client(gateway(fakes.BrokenRetrieval(Unavailable("down"), popular_works=False))) as http:
        assert (await http.get("/readyz")).status_code == 503
    async with client(gateway()) as http:
        assert (await http.get("/readyz")).status_code == 200


async def test_answers_and_degradations_are_counted() -> None:
    async with client(gateway(ranking=fakes.BrokenRanking(Unavailable("down")))) as http:
        await http.post("/recommend", json={"user_id": "u1"})
        text = (await http.get("/metrics")).text
    assert 'tandem_degradations_total{reason="ranker_unavailable"} 1.0' in text
    assert 'tandem_recommendations_total{ranker="retrieval",rung="retrieval"} 1.0' in text


async def test_absent_fields_are_absent() -> None:
    async with client(gateway()) as http:
        answer = (await http.post("/recommend", json={"user_id": "u1", "ranker": "retrieval"})).json()
    assert "ranker" not in answer["model"]
    assert "metadata" not in answer["items"][0]
    assert set(answer["items"][0]) == {"item_id", "rank", "source", "score", "retrieval_score"}


async def test_envoys_header_bounds_the_answer_too() -> None:
    async with client(gateway(ranking=fakes.AnsweringRanking(seconds=5))) as http:
        began = time.perf_counter()
        headers = {"X-Envoy-Expected-Rq-Timeout-Ms": "100", "X-Request-Timeout-Ms": "4000"}
        response = await http.post("/recommend", json={"user_id": "u1"}, headers=headers)
        assert response.json()["degradation"] == ["ranker_timeout"]
        assert time.perf_counter() - began < 0.2
        for ms in ("0", "9" * 400):
            headers = {"X-Envoy-Expected-Rq-Timeout-Ms": ms}
            response = await http.post("/recommend", json={"user_id": "u1", "ranker": "retrieval"}, headers=headers)
            assert (response.status_code, response.json()["degraded"]) == (200, False)
        headers = {"X-Envoy-Expected-Rq-Timeout-Ms": "0"}
        response = await http.post("/recommend", json={"user_id": "u1", "timeout_ms": 50}, headers=headers)
    assert response.json()["degraded"]


async def test_each_entry_of_a_batch_has_its_own_status() -> None:
    requests = [{"user_id": "u1", "limit": 2}, {"user_id": "nobody", "limit": 1}, {"user_id": "u1", "ranker": "collm"}]
    async with client(embedded_app()) as http:
        response = await http.post("/recommend/batch", json={"requests": requests})
    first, second, third = response.json()["answers"]
    assert response.status_code == 200
    assert (first["status"], len(first["answer"]["items"])) == (200, 2)
    assert second["answer"]["degradation"] == ["cold_user"]
    assert (third["status"], third["problem"]["status"]) == (422, 422)
    assert "answer" not in third


async def test_a_batch_has_at_most_32_entries() -> None:
    async with client(gateway()) as http:
        response = await http.post("/recommend/batch", json={"requests": [{"user_id": "u1"}] * 33})
    assert response.status_code == 422


async def test_the_callers_candidates_come_back_ranked() -> None:
    async with client(gateway()) as http:
        answer = (await http.post("/rank", json={"user_id": "u1", "candidates": ["i9", "i7"]})).json()
        shaped = (await http.post("/rerank", json={"model": "x", "query": "i3", "documents": ["i9", "i7"]})).json()
    assert [item["item_id"] for item in answer["items"]] == ["i9", "i7"], "the fake reverses the retriever's order"
    assert {result["index"] for result in shaped["results"]} == {0, 1}


async def test_documents_that_name_nothing_are_the_callers_mistake() -> None:
    async with client(gateway()) as http:
        response = await http.post("/rerank", json={"model": "x", "query": "i3", "documents": ["a", "b"]})
    assert response.status_code == 422
    assert "title" in response.json()["detail"]


async def test_an_event_of_a_recommendation_is_counted_as_taken() -> None:
    async with client(gateway()) as http:
        answer = (await http.post("/recommend", json={"user_id": "u1"})).json()
        await asyncio.sleep(0)  # the answer is written down after it was given
        taken = {"event_id": "e1", "user_id": "u1", "item_id": answer["items"][0]["item_id"]}
        await http.post("/events", json=taken | {"recommendation_id": answer["recommendation_id"]})
        text = (await http.get("/metrics")).text
        again = (await http.post("/recommend", json={"user_id": "u1"})).json()
    assert 'tandem_recommended_items_taken_total{ranker="llamarec",rung="ranker"} 1.0' in text
    assert taken["item_id"] not in [item["item_id"] for item in again["items"]]
