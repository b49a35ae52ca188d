"""The ports over HTTP: what the other side says, and everything else that a network can do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from pydantic import SecretStr

from services.gateway.remote import RANKING_AT_ONCE, RemoteRanking, RemoteRetrieval, client
from services.http.problems import AT_THE_DOOR, KINDS, kind_of, of_error
from services.retrieval import app as retrieval_app
from services.retrieval.settings import RetrievalSettings
from shared.deadline import HEADER, Deadline
from shared.errors import (
    BadAnswer,
    CatalogMismatch,
    DeadlineExceeded,
    Overloaded,
    TandemError,
    Unavailable,
    UnknownItem,
    UnknownRanker,
)
from shared.wire.inner import RankAnswer, RankRequest, ResolveRequest, RetrieveRequest
from tests import fakes

pytestmark = pytest.mark.anyio

ASKED = RankRequest.model_validate({"history": ["i1"], "candidates": [{"item_id": "i2", "score": 1}], "catalog": "abc"})
GOOD = {
    "items": [{"item_id": "i2", "score": 1.0}],
    "model": "llamarec@1",
    "ranker": "llamarec",
    "label_mass": 1,
    "entropy": 0,
    "queue_ms": 0,
    "rank_ms": 0,
}

NOT_FOUND = httpx.ConnectError("[Errno -2] ranking.internal.example:8002: Name or service not known")
Handler = Callable[[httpx.Request], httpx.Response]


def ranking(handler: Handler) -> RemoteRanking:
    return RemoteRanking(httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://ranking"))


async def test_the_remaining_time_travels_in_a_header() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=GOOD)

    await ranking(handler).rank(ASKED, Deadline.after_ms(500))
    assert 400 < float(seen[0].headers[HEADER]) <= 500


async def test_nothing_is_sent_after_the_deadline() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        raise AssertionError("sent")

    with pytest.raises(DeadlineExceeded):
        await ranking(handler).rank(ASKED, Deadline.after_ms(0))


@pytest.mark.parametrize("cls", [cls for cls in KINDS if cls not in (TandemError, *AT_THE_DOOR)])
async def test_an_error_of_the_tree_survives_the_way(cls: type[TandemError]) -> None:
    there = of_error(cls("the fault"), "id")

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(there.status_code, content=bytes(there.body), headers=dict(there.headers))

    with pytest.raises(TandemError, match="the fault") as caught:
        await ranking(handler).rank(ASKED, Deadline.after_ms(1000))
    assert type(caught.value) is cls


@pytest.mark.parametrize("cls", AT_THE_DOOR)
async def test_a_gateway_that_is_not_let_in_does_not_blame_its_client(cls: type[TandemError]) -> None:
    there = of_error(cls("the fault"), "id")
    with pytest.raises(TandemError) as caught:
        await ranking(lambda _: httpx.Response(there.status_code, content=bytes(there.body))).rank(
            ASKED, Deadline.after_ms(1000)
        )
    assert type(caught.value) is Unavailable
    assert "fault" not in str(caught.value)


async def test_retry_after_survives_the_way() -> None:
    there = of_error(Overloaded("full", retry_after_s=7), "id")

    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(there.status_code, content=bytes(there.body), headers=dict(there.headers))

    with pytest.raises(Overloaded) as caught:
        await ranking(handler).rank(ASKED, Deadline.after_ms(1000))
    assert caught.value.retry_after_s == 7


def _raising(error: Exception) -> Handler:
    def handler(request: httpx.Request) -> httpx.Response:
        raise error

    return handler


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (_raising(httpx.ConnectError("refused")), Unavailable),
        (_raising(httpx.ReadError("reset")), Unavailable),
        (_raising(httpx.RemoteProtocolError("half an answer")), Unavailable),
        (_raising(httpx.ConnectTimeout("slow")), DeadlineExceeded),
        (_raising(httpx.ReadTimeout("slow")), DeadlineExceeded),
        (_raising(httpx.PoolTimeout("slow")), DeadlineExceeded),
        (lambda _: httpx.Response(502, text="<html>"), Unavailable),
        (lambda _: httpx.Response(504, text="<html>"), DeadlineExceeded),
        (lambda _: httpx.Response(429), Unavailable),
        (lambda _: httpx.Response(302, headers={"location": "/"}), BadAnswer),
        (lambda _: httpx.Response(500, content=b"[" * 100_000), Unavailable),
        (lambda _: httpx.Response(503, json=["no", "problem"]), Unavailable),
        (lambda _: httpx.Response(200, text="hello"), BadAnswer),
        (lambda _: httpx.Response(200, json={}), BadAnswer),
        (lambda _: httpx.Response(200, text=json.dumps(GOOD | {"label_mass": float("nan")})), BadAnswer),
        (lambda _: httpx.Response(200, content=b"[" * 100_000), BadAnswer),
    ],
)
async def test_whatever_a_network_does_is_an_error_of_the_tree(handler: Handler, expected: type[TandemError]) -> None:
    with pytest.raises(expected):
        await ranking(handler).rank(ASKED, Deadline.after_ms(1000))


async def test_a_service_newer_than_this_gateway_may_say_more() -> None:
    """Services are upgraded before gateways."""
    items = [item | {"surprise": 1} for item in GOOD["items"]]
    found = await ranking(lambda _: httpx.Response(200, json=GOOD | {"items": items, "more": {}})).rank(
        ASKED, Deadline.after_ms(1000)
    )
    assert found == RankAnswer.model_validate(GOOD)


SECRET = b"s" * 32


@pytest.mark.parametrize(("secrets", "refused"), [([SECRET], False), ([b"x" * 32, SECRET], True), ([], True)])
async def test_a_gateway_signs_with_its_first_secret(secrets: list[bytes], refused: bool) -> None:
    settings = RetrievalSettings(internal_secret=SecretStr(SECRET.decode()))
    app = retrieval_app.create(settings, fakes.retrieval_service(fakes.catalog()))
    async with client("http://retrieval", secrets, httpx.ASGITransport(app)) as http:
        retrieval, deadline = RemoteRetrieval(http), Deadline.after_ms(5000)
        asks = [
            retrieval.retrieve(RetrieveRequest(history=["i1"]), deadline),
            retrieval.resolve(ResolveRequest(texts=["Title 1"]), deadline),
            retrieval.popular(5, deadline),
            retrieval.item("i1", deadline),
            retrieval.models(deadline),
        ]
        answers = await asyncio.gather(*asks, return_exceptions=True)
    assert {isinstance(answer, Unavailable) for answer in answers} == {refused}


async def test_where_a_service_stands_is_not_told() -> None:
    here = client("http://ranking.internal.example:8002", (SECRET,), httpx.MockTransport(_raising(NOT_FOUND)))
    with pytest.raises(Unavailable) as caught:
        await RemoteRanking(here).rank(ASKED, Deadline.after_ms(1000))
    assert "internal" not in str(of_error(caught.value, None).body)


async def test_an_id_is_one_segment_of_the_path() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(404, content=bytes(of_error(UnknownItem("none"), None).body))

    retrieval = RemoteRetrieval(httpx.AsyncClient(transport=httpx.MockTransport(handler), base_url="http://retrieval"))
    with pytest.raises(UnknownItem):
        await retrieval.item("a/b?c", Deadline.after_ms(1000))
    assert seen == ["/items/a%2Fb%3Fc"]


def test_a_class_without_a_row_has_its_parents() -> None:
    class Fussy(UnknownRanker):
        pass

    assert kind_of(Fussy("x")).slug == "unknown-ranker"
    assert kind_of(CatalogMismatch("x")).status == 409


async def test_who_finds_too_many_calls_under_way_goes_without_soon() -> None:
    class Standing(httpx.AsyncBaseTransport):
        calls = 0

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            self.calls += 1
            await asyncio.sleep(30)
            raise AssertionError("nobody waits so long")

    standing = Standing()
    service = RemoteRanking(httpx.AsyncClient(transport=standing, base_url="http://ranking"))
    first = [asyncio.create_task(service.rank(ASKED, Deadline.after_ms(60_000))) for _ in range(RANKING_AT_ONCE)]
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await service.rank(ASKED, Deadline.after_ms(200))
    assert standing.calls == RANKING_AT_ONCE
    for task in first:
        task.cancel()
    await asyncio.gather(*first, return_exceptions=True)
    again = asyncio.create_task(service.rank(ASKED, Deadline.after_ms(60_000)))
    await asyncio.sleep(0.01)
    assert standing.calls == RANKING_AT_ONCE + 1, "who left has left no place taken"
    again.cancel()
