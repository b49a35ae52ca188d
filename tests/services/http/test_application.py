"""What all three applications share: ids, limits, health, metrics and the last-resort 500."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from services.http.application import application
from services.http.caller import needs
from services.http.intake import PATIENCE_S
from services.http.routes import Router
from services.http.settings import HttpSettings
from tests.services.asgi import client

pytestmark = pytest.mark.anyio


class Probe:
    """An application whose routes wait, crash and read, and tell what became of them."""

    def __init__(self, ready: str | None = None, **settings: float) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = False
        router = Router(dependencies=[needs("read")])

        @router.post("/wait")
        async def wait() -> dict[str, str]:
            self.started.set()
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
            return {}

        @router.get("/crash")
        async def crash() -> dict[str, str]:
            raise RuntimeError("secret")

        @router.post("/read")
        async def read(request: Request) -> int:
            return len(await request.body())

        @router.post("/late")
        async def late(request: Request) -> int:
            await asyncio.sleep(PATIENCE_S * 4)
            return len(await request.body())

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            yield

        self.app = application(
            "probe", [router], lambda: ready, HttpSettings(**settings), CollectorRegistry(), lifespan
        )


async def test_a_crash_is_a_500_that_tells_nothing() -> None:
    async with client(Probe().app) as http:
        response = await http.get("/crash", headers={"X-Request-Id": "abc-1"})
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["request_id"] == response.headers["x-request-id"] == "abc-1"
    assert "secret" not in response.text


@pytest.mark.parametrize("sent", ["", "a b", "x" * 200, 'a"}{"b', "é"])
async def test_a_strange_request_id_is_replaced(sent: str) -> None:
    async with client(Probe().app) as http:
        response = await http.get("/livez", headers={"X-Request-Id": sent.encode()})
    assert len(response.headers["x-request-id"]) == 32


async def test_every_route_also_stands_under_v1() -> None:
    async with client(Probe().app) as http:
        assert (await http.post("/v1/read", content=b"abc")).json() == 3


async def test_an_unready_process_lives_and_says_why() -> None:
    async with client(Probe(ready="still warming up").app) as http:
        assert (await http.get("/livez")).status_code == 200
        response = await http.get("/readyz")
    assert response.status_code == 503
    assert response.json()["detail"] == "still warming up"


async def test_metrics_count_by_route_template_and_status() -> None:
    async with client(Probe().app) as http:
        await http.get("/crash")
        await http.get("/some/private/path")
        text = (await http.get("/metrics")).text
    assert 'tandem_http_requests_total{method="GET",route="/crash",status="500"} 1.0' in text
    assert 'route="unmatched",status="404"' in text
    assert "private" not in text


async def test_a_body_of_unannounced_length_is_bounded() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 1000

    async with client(Probe(max_body_bytes=50_000).app) as http:
        response = await http.post("/read", content=chunks())
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_body_at_the_bound_is_read() -> None:
    async with client(Probe(max_body_bytes=2048).app) as http:
        assert (await http.post("/read", content=b"x" * 2048)).json() == 2048
        assert (await http.post("/read", content=b"x" * 2049)).status_code == 413


async def test_a_body_that_trickles_in_is_given_up() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(1)
        yield b"y"

    async with client(Probe(max_body_seconds=0.05).app) as http:
        response = await http.post("/read", content=chunks())
    assert response.status_code == 408
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("length", ["-5", "abc", "9" * 40])
async def test_a_senseless_content_length_is_refused(length: str) -> None:
    async with client(Probe().app) as http:
        response = await http.post("/read", content=b"x", headers={"Content-Length": length})
    assert response.status_code == 413


async def test_beyond_the_bound_of_requests_in_flight_the_answer_is_503_at_once() -> None:
    probe = Probe(max_concurrency=1)
    async with client(probe.app) as http:
        first = asyncio.create_task(http.post("/wait"))
        await probe.started.wait()
        refused = await http.post("/read")
        alive = await http.get("/livez")
        probe.release.set()
        assert (await first).status_code == 200
        assert (await http.post("/read")).status_code == 200
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert alive.status_code == 200


async def test_a_client_that_leaves_cancels_its_work() -> None:
    probe = Probe()
    arrived = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if len(arrived) == 1:
            await probe.started.wait()
        return arrived.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(probe.app(_scope("/wait"), receive, send), timeout=2)
    assert probe.cancelled
    assert sent == []


@pytest.mark.parametrize("path", ["/read", "/wait"])
async def test_a_body_that_is_cut_off_is_nobodys_business_any_more(path: str) -> None:
    probe = Probe()
    arrived = [{"type": "http.request", "body": b'{"a', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return arrived.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    with capture_logs() as told:
        await asyncio.wait_for(probe.app(_scope(path), receive, send), timeout=10)
    assert sent == []
    assert [line["status"] for line in told if line["event"] == "request"] == [499]


async def test_a_handler_that_reads_late_is_held_to_the_same_bounds() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(5)
        yield b"y"

    async with client(Probe(max_body_seconds=0.05).app) as http:
        slow = await http.post("/late", content=chunks())
        large = await http.post("/late", content=b"x" * (2 << 20))
        right = await http.post("/late", content=b"xyz")
    assert (slow.status_code, large.status_code, right.json()) == (408, 413, 3)


async def test_a_finished_answer_is_not_disturbed_by_the_client_leaving() -> None:
    probe = Probe()
    probe.release.set()
    sent: list[Any] = []
    answered = asyncio.Event()
    arrived = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if arrived:
            return arrived.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            answered.set()
            await asyncio.sleep(0.01)

    await probe.app(_scope("/wait"), receive, send)
    assert sent[0]["status"] == 200


async def test_the_documentation_names_problems_and_routes() -> None:
    async with client(Probe().app) as http:
        document = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs")).status_code == 200
    responses = document["paths"]["/v1/read"]["post"]["responses"]
    assert "application/problem+json" in responses["413"]["content"]


def _scope(path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
