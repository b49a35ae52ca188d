"""The load generator: it counts what is answered, waits for nobody in an open loop, and says what failed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import cycle, pairwise

import pytest

from services.bench.load import Load, Measured, Plan

pytestmark = pytest.mark.anyio
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
FAILED = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(answer: Answer, seen: list[bytes] | None = None) -> AsyncIterator[int]:
    """Its port. `answer` is called for each request."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                body = await reader.readexactly(length)
                if seen is not None:
                    seen.append(body)
                await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionResetError):
            pass

    one = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with one:
        yield one.sockets[0].getsockname()[1]
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)


async def measured(port: int, **plan: float) -> Measured:
    whole = Plan(**{"port": port, "path": "/", "bodies": ["a", "b"], "connections": 4, "seconds": 0.3} | plan)  # type: ignore[arg-type]
    return await Load(whole).run()


async def at_once(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def test_a_closed_loop_counts_what_was_answered_in_time() -> None:
    seen: list[bytes] = []
    async with server(at_once, seen) as port:
        found = await measured(port)
    assert 0 < found.requests <= len(seen) <= found.requests + 4
    assert found.per_second == found.requests / 0.3
    assert found.failed == 0


async def test_the_bodies_take_turns() -> None:
    seen: list[bytes] = []
    async with server(at_once, seen) as port:
        await measured(port, connections=1)
    assert set(pairwise(seen)) == {(b"a", b"b"), (b"b", b"a")}


async def test_an_answer_in_pieces_is_one_answer() -> None:
    async def in_pieces(writer: asyncio.StreamWriter) -> None:
        for byte in OK:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)

    async with server(in_pieces) as port:
        found = await measured(port, rate=50)
    assert found.requests > 0
    assert found.failed == 0


async def test_what_is_no_200_failed_and_is_no_throughput() -> None:
    async def refuse(writer: asyncio.StreamWriter) -> None:
        writer.write(FAILED)

    async with server(refuse) as port:
        found = await measured(port)
    assert found.failed == found.requests > 0
    assert found.per_second == 0


async def test_an_open_loop_sends_what_its_seed_says_however_slow_the_answers_are() -> None:
    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK)

    seen: list[bytes] = []
    async with server(at_once, seen) as port:
        quick = await measured(port, rate=100, seed=7)
    async with server(late) as port:
        slow = await measured(port, rate=100, seed=7)
    assert quick.requests == slow.requests == len(seen) > 10


async def test_the_wait_for_a_free_connection_is_a_part_of_the_latency() -> None:
    async def late(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(OK)

    async with server(late) as port:
        found = await measured(port, rate=100, connections=1)
    assert found.p99_ms > 500


async def test_a_silent_server_fails_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        return None

    monkeypatch.setattr("services.bench.load.GRACE_S", 0.1)
    async with server(never) as port:
        found = await measured(port, rate=50)
    assert found.requests == 0
    assert found.failed > 0


async def test_what_answers_say_of_themselves_is_summed_up() -> None:
    answers = cycle(
        json.dumps({"timing_ms": timing, "degraded": degraded, "rung": rung})
        for timing, degraded, rung in (
            ({"total": 4.0, "rank": 2.0}, False, "ranker"),
            ({"total": 2.0}, True, "retrieval"),
        )
    )

    async def tell(writer: asyncio.StreamWriter) -> None:
        body = next(answers).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async with server(tell) as port:
        found = await measured(port, connections=1, stages=True)
    assert found.rungs["ranker"] + found.rungs["retrieval"] == found.requests > 1
    assert found.degraded == found.rungs["retrieval"]
    share = found.rungs["ranker"] / found.requests
    assert found.stages == {"total": pytest.approx(2 + 2 * share, abs=1e-3), "rank": pytest.approx(2 * share, abs=1e-3)}
    assert found.p50_ms <= found.p95_ms <= found.p99_ms
