"""A bound, a short queue before it, and a refusal at once beyond that."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from services.http.admission import Admission
from services.http.problems import REQUEST_ID

pytestmark = pytest.mark.anyio


class Room:
    """An application in which requests stay until they are told to go."""

    def __init__(self, **bounds: float) -> None:
        self.inside: list[asyncio.Event] = []
        limits: Any = {"max_concurrency": 2, "max_waiting": 2, "max_wait_ms": 60_000} | bounds
        self.admission = Admission(self, **limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        may_go = asyncio.Event()
        self.inside.append(may_go)
        await may_go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def enter(self, path: str = "/recommend") -> asyncio.Task[int]:
        return asyncio.create_task(self._ask(path))

    async def _ask(self, path: str) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("read")

        await self.admission({"type": "http", "path": path, REQUEST_ID: "id"}, receive, send)
        status: int = sent[0]["status"]
        if status == 503:
            assert json.loads(sent[1]["body"])["request_id"] == "id"
            assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
        return status


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_within_the_bound_everybody_is_in() -> None:
    room = Room()
    tasks = [room.enter(), room.enter()]
    await settled()
    assert len(room.inside) == 2
    for one in room.inside:
        one.set()
    assert await asyncio.gather(*tasks) == [200, 200]


async def test_who_waits_gets_the_place_that_becomes_free_in_order() -> None:
    room = Room(max_concurrency=1)
    first, second, third = room.enter(), room.enter(), room.enter()
    await settled()
    assert len(room.inside) == 1
    room.inside[0].set()
    await settled()
    assert (first.done(), second.done(), len(room.inside)) == (True, False, 2)
    room.inside[1].set()
    assert await second == 200
    await settled()
    room.inside[2].set()
    assert await third == 200
    assert room.admission.free == 1


async def test_beyond_the_queue_the_refusal_comes_at_once() -> None:
    room = Room()
    tasks = [room.enter() for _ in range(4)]
    await settled()
    with capture_logs() as told:
        assert [await room.enter() for _ in range(3)] == [503] * 3
    assert [line["event"] for line in told] == ["refused for overload"]
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()


async def test_who_waits_too_long_is_refused() -> None:
    room = Room(max_concurrency=1, max_wait_ms=1)
    staying, waiting = room.enter(), room.enter()
    assert await waiting == 503
    assert not room.admission.waiting
    room.inside[0].set()
    assert await staying == 200
    assert room.admission.free == 1


async def test_who_leaves_the_queue_takes_no_place_with_him() -> None:
    room = Room(max_concurrency=1)
    staying, leaving, patient = room.enter(), room.enter(), room.enter()
    await settled()
    leaving.cancel()
    await settled()
    assert len(room.admission.waiting) == 1
    room.inside[0].set()
    await settled()
    room.inside[1].set()
    assert (await staying, await patient, room.admission.free) == (200, 200, 1)


async def test_who_leaves_when_his_turn_has_come_hands_it_on() -> None:
    room = Room(max_concurrency=1)
    room.enter()
    leaving, patient = room.enter(), room.enter()
    await settled()
    room.admission._leave()
    leaving.cancel()
    await settled()
    assert len(room.inside) == 2
    room.inside[1].set()
    assert await patient == 200


async def test_a_crash_gives_its_place_back() -> None:
    async def crash(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError

    admission = Admission(crash, 1, 0, 0)
    for _ in range(3):
        with pytest.raises(RuntimeError):
            await admission({"type": "http", "path": "/"}, None, None)  # type: ignore[arg-type]
    assert admission.free == 1


async def test_probes_and_metrics_are_never_refused() -> None:
    room = Room(max_concurrency=1, max_waiting=0)
    room.enter()
    await settled()
    probes = [room.enter(path) for path in ("/livez", "/readyz", "/metrics")]
    await settled()
    assert len(room.inside) == 4
    for one in room.inside:
        one.set()
    assert await asyncio.gather(*probes) == [200] * 3
