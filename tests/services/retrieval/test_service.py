"""The retrieval service between ids and indices."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from services.retrieval.app import create
from services.retrieval.service import BYTES_A_MEMBER, RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.candidate import Candidate
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, UnknownItem
from shared.history import History
from shared.wire.base import MAX_SEEN
from shared.wire.inner import ModelCard, RetrieveAnswer, RetrieveRequest
from tests import fakes
from tests.services.asgi import client, embedded_app

pytestmark = pytest.mark.anyio
CATALOG = fakes.catalog()
CARD = ModelCard(name="lrurec@0000aaaa", method="lrurec", catalog=CATALOG.fingerprint()[:12])


async def found(**request: Any) -> RetrieveAnswer:
    service = fakes.retrieval_service(CATALOG)
    answer = await service.retrieve(RetrieveRequest(**request), Deadline.after_ms(2000))
    service.close()
    return answer


async def test_neither_the_history_nor_the_excluded_come_back() -> None:
    answer = await found(history=["i1", "i2"], exclude_item_ids=["i3"], k=100)
    assert [item.item_id for item in answer.items] == [f"i{n}" for n in range(4, 61)]
    assert answer.source == "retrieval"


async def test_unknown_ids_are_named_once() -> None:
    answer = await found(history=["i1", "x", "x"], exclude_item_ids=["x", "y"])
    assert answer.missing_ids == ["x", "y"]


async def test_a_history_without_a_known_item_gets_what_is_popular() -> None:
    answer = await found(history=["x"], k=2)
    assert [item.item_id for item in answer.items] == ["i1", "i2"]
    assert (answer.source, answer.model) == ("popularity", "popularity@0000aaaa")


async def test_several_categories_are_a_union() -> None:
    answer = await found(history=["i1"], categories=["Horror", "Drama", "Opera"], k=100, metadata=True)
    assert {c for item in answer.items for c in item.metadata.categories} == {"Horror", "Drama"}
    assert len(answer.items) == 40
    assert (await found(history=["i1"], categories=["Opera"], k=100)).items == []


async def test_made_up_categories_keep_nothing_and_a_large_catalogue_few_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    service = fakes.retrieval_service(CATALOG)
    for n in range(40):
        asked = RetrieveRequest(history=["i1"], categories=["Horror", f"made up {n}"])
        assert (await service.retrieve(asked, Deadline.after_ms(5000))).items
    kept = service._outside.cache_info()
    assert (kept.currsize, kept.maxsize) == (1, 64)
    monkeypatch.setattr("services.retrieval.service.OUTSIDE_BYTES", 3 * BYTES_A_MEMBER * len(CATALOG))
    assert fakes.retrieval_service(CATALOG)._outside.cache_info().maxsize == 3


async def test_an_answer_names_its_catalogue() -> None:
    assert (await found(history=["i1"])).catalog == CATALOG.fingerprint()


class NaNRetriever(fakes.FakeRetriever):
    def _one(self, history: History, k: int, banned: set[int]) -> list[Candidate]:
        return [Candidate(1, float("nan"))]


async def test_nan_never_gets_out() -> None:
    service = RetrievalService(CATALOG, NaNRetriever(60), fakes.FakePopularity(60), CARD)
    with pytest.raises(BadAnswer):
        await service.retrieve(RetrieveRequest(history=["i1"]), Deadline.after_ms(1000))
    service.close()


class GatedRetriever(fakes.FakeRetriever):
    def __init__(self) -> None:
        super().__init__(60)
        self.gate, self.entered = threading.Event(), threading.Event()
        self.seen: list[int] = []

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        self.entered.set()
        assert self.gate.wait(5)
        self.seen.append(histories[0].items[-1])
        return super().retrieve(histories, k, exclude)


async def test_late_and_abandoned_requests_never_reach_the_model() -> None:
    retriever = GatedRetriever()
    service = RetrievalService(CATALOG, retriever, fakes.FakePopularity(60), CARD)

    def ask(item: str, ms: float) -> asyncio.Task[RetrieveAnswer]:
        return asyncio.create_task(service.retrieve(RetrieveRequest(history=[item]), Deadline.after_ms(ms)))

    first = ask("i1", 2000)
    await asyncio.to_thread(retriever.entered.wait, 5)
    late, left = ask("i2", 10), ask("i3", 2000)
    await asyncio.sleep(0.02)
    left.cancel()
    await asyncio.sleep(0)
    retriever.gate.set()
    await first
    with pytest.raises(DeadlineExceeded):
        await late
    service.close()
    assert retriever.seen == [1]


async def test_an_item_is_found_by_id() -> None:
    service = fakes.retrieval_service(CATALOG)
    assert (await service.item("i2", Deadline.after_ms(1000))).title == "Title 2"
    with pytest.raises(UnknownItem):
        await service.item("x", Deadline.after_ms(1000))
    service.close()


async def test_everything_that_one_user_has_seen_fits_into_a_request() -> None:
    app = create(RetrievalSettings(), fakes.retrieval_service(CATALOG))
    seen = [f"{n:032d}" for n in range(MAX_SEEN)]
    async with client(app) as http:
        response = await http.post("/retrieve", json={"history": ["i1"], "exclude_item_ids": seen})
    assert response.status_code == 200
    assert len(response.json()["items"]) == 20


class OutOfMemory(fakes.FakeRetriever):
    def _one(self, *args: Any) -> list[Candidate]:
        raise RuntimeError("CUDA error: out of memory")


async def test_whatever_a_retriever_does_wrong_the_page_has_its_list() -> None:
    """In one process, where no HTTP turns what is raised into a status."""
    items = len(CATALOG)
    service = RetrievalService(CATALOG, OutOfMemory(items), fakes.FakePopularity(items), CARD)
    app = embedded_app(retrieval=service)
    async with client(app) as http:
        answer = (await http.post("/recommend", json={"user_id": "u1"})).json()
        given = await http.post("/rank", json={"user_id": "u1", "candidates": ["i5", "i7"]})
    assert (answer["rung"], answer["degradation"]) == ("popularity", ["retrieval_unavailable"])
    assert (given.status_code, given.json()["degraded"]) == (200, True)
