"""Redis that is down, hung, full, or holds what is not ours: an empty cache, and never an error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.gateway.cache.flight import DEGRADED_FRESH_S, DEGRADED_STALE_S
from services.gateway.ports import CacheStore
from services.gateway.state.connections import Connections
from shared.errors import Unavailable
from tests.redis_server import RedisServer, free_port
from tests.services.gateway.cache.conftest import PATIENT_S, Clock, Room

pytestmark = pytest.mark.anyio


async def does_nothing_and_says_so(store: CacheStore) -> None:
    """The whole contract of a store that is down."""
    await store.put("k", b"v", 10, 10)
    assert await store.get("k") is None
    await store.delete(["k"])
    assert await store.lease("k", "a", 1000)
    assert await store.lease("k", "b", 1000)
    await store.release("k", "a")


async def test_it_starts_without_redis_and_finds_it_later(tmp_path: Path, clock: Clock) -> None:
    port = free_port()
    room = Room(Connections(f"redis://127.0.0.1:{port}/0", PATIENT_S), clock)
    for _ in range(3):
        await does_nothing_and_says_so(room.redis)
    assert room.counted == {"unavailable": 18}
    assert not room.breaker.closed
    clock.advance(1.1)
    with RedisServer(tmp_path, port):
        await room.redis.put("k", b"v", 10, 10)
        entry = await room.redis.get("k")
        assert entry is not None
        assert room.breaker.closed
        await room.connections.aclose()


async def test_redis_that_is_down_does_not_pass_for_having_forgotten(clock: Clock) -> None:
    room = Room(Connections(f"redis://127.0.0.1:{free_port()}/0", PATIENT_S), clock)
    for store in (room.redis, room.layered):
        with pytest.raises(Unavailable):
            await store.forget("td1:t:cache:user:a:")
    await room.connections.aclose()


async def test_a_redis_that_refuses_does_not_either(room: Room, server: RedisServer) -> None:
    server.command("SET", "k", "v")
    server.command("ACL", "SETUSER", "default", "-scan")
    try:
        with pytest.raises(Unavailable, match="refuses"):
            await room.redis.forget("k")
    finally:
        server.command("ACL", "SETUSER", "default", "+@all")


async def test_a_hung_redis_costs_its_time_limit_a_few_times_and_then_nothing(
    room: Room, server: RedisServer, clock: Clock
) -> None:
    await room.redis.put("k", b"v", 10_000, 10_000)
    hurried = Room(Connections(server.url, 0.05), clock)
    server.pause()
    try:
        for _ in range(5):
            assert await hurried.redis.get("k") is None
        assert not hurried.breaker.closed
        began = time.perf_counter()
        for _ in range(1000):
            assert await hurried.redis.get("k") is None
        # A thousand calls that waited would take 50 s.
        assert time.perf_counter() - began < 5
    finally:
        server.resume()
    while await hurried.redis.get("k") is None:
        clock.advance(1.1)
    assert hurried.breaker.closed
    await hurried.connections.aclose()


async def test_a_crowd_on_a_hung_redis_leaves_no_connection_behind(
    room: Room, server: RedisServer, clock: Clock
) -> None:
    await room.redis.put("k", b"v", 1_000_000, 0)
    few = Room(Connections(server.url, 0.05, max_connections=4), clock)
    server.pause()
    try:
        crowd = [asyncio.create_task(few.redis.get("k")) for _ in range(100)]
        await asyncio.sleep(0.02)
        for task in crowd[:50]:
            task.cancel()
        assert set(await asyncio.gather(*crowd[50:])) == {None}
    finally:
        server.resume()
    while None in await asyncio.gather(*(few.redis.get("k") for _ in range(20))):
        clock.advance(1.1)
    await few.connections.aclose()


@pytest.mark.parametrize(
    "words",
    [
        ("SET", "k", "not ours"),
        ("SET", "k", ""),
        ("SET", "k", "TDC1 but not to its end"),
        ("SET", "k", "TDC0" + "0" * 40),
        ("RPUSH", "k", "a list"),
        ("HSET", "k", "a", "hash"),
    ],
)
async def test_what_another_wrote_is_a_miss_and_is_deleted(
    room: Room, server: RedisServer, words: tuple[str, ...]
) -> None:
    server.command(*words)
    assert await room.redis.get("k") is None
    assert server.command("EXISTS", "k") == b":0\r\n"
    assert room.counted == {"garbage": 1}


async def test_a_value_of_another_type_makes_room_for_a_put(room: Room, server: RedisServer) -> None:
    server.command("RPUSH", "k", "a list")
    await room.redis.put("k", b"v", 10, 10)
    entry = await room.redis.get("k")
    assert entry is not None


async def test_a_full_redis_is_counted_and_still_read(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(Connections(server.url, PATIENT_S), clock)
        await room.redis.put("before", b"v", 10, 10)
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        server.command("CONFIG", "SET", "maxmemory", "1")
        for _ in range(10):
            await room.redis.put("k", b"v", 10, 10)
        assert await room.redis.lease("k", "a", 1000)
        assert room.counted == {"out_of_memory": 11}
        assert await room.redis.get("k") is None
        assert await room.redis.get("before") is not None
        assert room.breaker.closed
        await room.redis.delete(["before"])
        assert await room.redis.get("before") is None
        await room.connections.aclose()


async def test_a_redis_that_refuses_is_an_empty_cache(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server:
        server.command("CONFIG", "SET", "requirepass", "secret")
        room = Room(Connections(server.url, PATIENT_S), clock)
        await does_nothing_and_says_so(room.redis)
        assert sum(room.counted.values()) == 6
        await room.connections.aclose()


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[int]:
    """A server that says the same to whatever it hears; its port."""

    talks: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            writer.write(reply)
        writer.close()
        await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*talks, return_exceptions=True)


@pytest.mark.parametrize(
    "reply",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\x00\xfe\r\n",
        b"$-7\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"+OK\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-MASTERDOWN Link with MASTER is down\r\n",
        b"-READONLY You can't write against a read only replica.\r\n",
        b"",
    ],
    ids=["http", "bytes", "length", "array", "ok", "loading", "masterdown", "readonly", "silence"],
)
async def test_what_is_no_redis_is_an_empty_cache(reply: bytes, clock: Clock) -> None:
    async with answering(reply) as port:
        connections = Connections(f"redis://127.0.0.1:{port}/0", 0.05)
        room = Room(connections, clock)
        await room.redis.put("k", b"v", 10, 10)
        assert await room.redis.get("k") is None
        assert await room.layered.get("k") is None
        assert await room.redis.lease("k", "a", 1000)
        await room.redis.release("k", "a")
        await room.redis.delete(["k"])
        await connections.aclose()


async def test_times_to_live_are_spread_and_follow_from_the_seed(server: RedisServer, clock: Clock) -> None:
    def ttl_ms(key: str) -> int:
        return int(server.command("PTTL", key)[1:-2])

    connections = Connections(server.url, PATIENT_S)
    for seed, prefix in ((7, "a"), (7, "b"), (8, "c")):
        redis = Room(connections, clock, seed).redis
        for n in range(50):
            await redis.put(f"{prefix}{n}", b"v", 10_000, 90_000)
    first, again, other = ([ttl_ms(f"{prefix}{n}") for n in range(50)] for prefix in "abc")
    assert min(first) >= 90_000_000 - 60_000
    assert max(first) <= 110_000_000
    assert max(first) - min(first) > 10_000_000
    assert first == pytest.approx(again, abs=60_000)
    assert first != pytest.approx(other, abs=60_000)
    await connections.aclose()


async def test_a_degraded_value_is_gone_after_five_seconds_at_most(room: Room, server: RedisServer) -> None:
    for n in range(50):
        await room.redis.put(f"k{n}", b"v", DEGRADED_FRESH_S, DEGRADED_STALE_S)
        assert int(server.command("PTTL", f"k{n}")[1:-2]) <= 5000
    room.clock.advance(5)
    assert {await room.redis.get(f"k{n}") is None for n in range(50)} == {True}


async def test_redis_itself_forgets_what_is_over(room: Room, server: RedisServer) -> None:
    await room.redis.put("k", b"v", 0.02, 0.02)
    await asyncio.sleep(0.06)
    assert server.command("EXISTS", "k") == b":0\r\n"


async def test_a_lease_is_one_key_beside_the_entry_and_goes_with_its_release(room: Room, server: RedisServer) -> None:
    await room.redis.lease("k", "a", 60_000)
    assert server.command("KEYS", "*") == b"*1\r\n$7\r\nk:lease\r\n"
    assert 0 < int(server.command("PTTL", "k:lease")[1:-2]) <= 60_000
    await room.redis.release("k", "a")
    assert server.command("DBSIZE") == b":0\r\n"


async def test_a_caller_who_leaves_disturbs_no_other(room: Room) -> None:
    await room.redis.put("k", b"v" * 1000, 10, 10)
    for _ in range(50):
        leaving = [asyncio.create_task(room.redis.get("k")) for _ in range(4)]
        staying = asyncio.create_task(room.redis.get("k"))
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        entry = await staying
        assert entry is not None
        assert entry.value == b"v" * 1000
    assert room.breaker.closed
