"""The small memory in front of Redis: no round trip for what is hot, and never a second truth for long."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest

from services.gateway.cache.kept import Kept
from services.gateway.cache.layered import Layered
from services.gateway.cache.redis import RedisCache
from services.gateway.state.connections import Connections
from tests.redis_server import RedisServer
from tests.services.gateway.cache.conftest import BELIEVE_S, PATIENT_S, Clock, Room

pytestmark = pytest.mark.anyio


def reads(server: RedisServer) -> int:
    """GETs that Redis has answered."""
    found = re.search(rb"cmdstat_get:calls=(\d+)", server.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


async def test_what_is_hot_is_asked_for_once(room: Room, other: Room, server: RedisServer) -> None:
    await other.layered.put("k", b"v", 60, 60)
    for _ in range(1000):
        assert await room.layered.get("k") is not None
    assert reads(server) == 1


async def test_what_was_put_here_is_not_asked_for(room: Room, server: RedisServer) -> None:
    await room.layered.put("k", b"v", 60, 60)
    assert await room.layered.get("k") is not None
    assert reads(server) == 0


async def test_a_crowd_asks_for_a_cold_key_once(room: Room, server: RedisServer) -> None:
    assert set(await asyncio.gather(*(room.layered.get("k") for _ in range(1000)))) == {None}
    assert reads(server) == 1


async def test_one_of_a_crowd_who_leaves_takes_nobody_along(room: Room) -> None:
    await room.redis.put("k", b"v", 60, 60)
    crowd = [asyncio.create_task(room.layered.get("k")) for _ in range(3)]
    await asyncio.sleep(0)
    crowd[0].cancel()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert [getattr(entry, "value", None) for entry in found[1:]] == [b"v", b"v"]


async def test_what_another_gateway_deletes_is_believed_for_a_short_time_alone(room: Room, other: Room) -> None:
    await room.layered.put("k", b"v", 60, 60)
    await other.layered.delete(["k"])
    assert await room.layered.get("k") is not None
    room.clock.advance(BELIEVE_S)
    assert await room.layered.get("k") is None


async def test_what_another_gateway_writes_is_seen_after_a_short_time(room: Room, other: Room) -> None:
    await room.layered.put("k", b"old", 60, 60)
    await other.layered.put("k", b"new", 60, 60)
    room.clock.advance(BELIEVE_S)
    entry = await room.layered.get("k")
    assert entry is not None
    assert entry.value == b"new"


async def test_a_copy_is_no_younger_than_its_original(room: Room, other: Room) -> None:
    await other.layered.put("k", b"v", 10, 10)
    room.clock.advance(8)
    entry = await room.layered.get("k")
    room.clock.advance(1.5)
    later = await room.layered.get("k")
    room.clock.advance(1.7)
    stale = await room.layered.get("k")
    assert entry is not None
    assert later is not None
    assert stale is not None
    assert (entry.age_s, later.age_s, stale.fresh) == (pytest.approx(8), pytest.approx(9.5), False)


async def test_after_a_lease_nothing_older_is_believed(room: Room, other: Room) -> None:
    """A stale copy here, a new value by another gateway: who has the lease must see it, or would make it again."""
    await room.layered.put("k", b"old", 10, 60)
    room.clock.advance(11.5)
    stale = await room.layered.get("k")
    assert stale is not None
    assert not stale.fresh
    await other.layered.put("k", b"new", 60, 60)
    assert await room.layered.lease("k", "a", 60_000)
    entry = await room.layered.get("k")
    assert entry is not None
    assert entry.value == b"new"


class SlowToTell(RedisCache):
    """What it read first is told only once `gate` is open."""

    def hold(self) -> None:
        self.gate, self.first = asyncio.Event(), True

    async def read(self, key: str) -> Kept | None:
        first, self.first = self.first, False
        kept = await super().read(key)
        if first:
            await self.gate.wait()
        return kept


async def test_after_a_lease_no_question_of_before_is_joined(room: Room, other: Room, server: RedisServer) -> None:
    slow = SlowToTell(room.guarded, random.Random(0), max_entry_bytes=1000, clock=room.clock)
    slow.hold()
    layered = Layered(slow, max_bytes=10_000, max_entry_bytes=1000, believe_s=BELIEVE_S, wall=room.clock)
    early = asyncio.create_task(layered.get("k"))
    while reads(server) == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await other.layered.put("k", b"new", 60, 60)
    assert await layered.lease("k", "a", 60_000)
    async with asyncio.timeout(PATIENT_S):
        entry = await layered.get("k")
    assert entry is not None
    slow.gate.set()
    assert await early is None
    assert layered.peek("k") is not None


async def test_what_was_read_before_a_deletion_is_not_remembered_after_it(room: Room, server: RedisServer) -> None:
    slow = SlowToTell(room.guarded, random.Random(0), max_entry_bytes=1000, clock=room.clock)
    slow.hold()
    layered = Layered(slow, max_bytes=10_000, max_entry_bytes=1000, believe_s=BELIEVE_S, wall=room.clock)
    await slow.put("k", b"v", 60, 60)
    early = asyncio.create_task(layered.get("k"))
    while reads(server) == 0:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await layered.delete(["k"])
    slow.gate.set()
    assert await early is not None
    assert await layered.get("k") is None


async def test_without_redis_the_copies_are_what_is_left(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(Connections(server.url, PATIENT_S), clock)
        await room.layered.put("fresh", b"v", 60, 60)
        await room.layered.put("stale", b"v", 5, 60)
        clock.advance(10)
        server.kill()
        fresh, stale = await room.layered.get("fresh"), await room.layered.get("stale")
        assert fresh is not None
        assert stale is not None
        assert (fresh.fresh, stale.fresh) == (True, False)
        clock.advance(120)
        assert await room.layered.get("fresh") is None
        await room.connections.aclose()


async def test_a_write_without_redis_is_found_here(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(Connections(server.url, PATIENT_S), clock)
        server.kill()
        await room.layered.put("k", b"v", 60, 60)
        clock.advance(30)
        assert await room.layered.get("k") is not None
        await room.layered.delete(["k"])
        assert await room.layered.get("k") is None
        await room.connections.aclose()


async def test_what_redis_lost_does_not_come_back_when_it_is_down(tmp_path: Path, clock: Clock) -> None:
    with RedisServer(tmp_path) as server:
        room = Room(Connections(server.url, PATIENT_S), clock)
        await room.layered.put("k", b"v", 60, 60)
        server.command("FLUSHALL")
        clock.advance(BELIEVE_S)
        assert await room.layered.get("k") is None
        server.kill()
        assert await room.layered.get("k") is None
        await room.connections.aclose()
