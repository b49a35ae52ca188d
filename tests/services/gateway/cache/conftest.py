"""The three stores over a clock that stands still; Redis is a real server."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from services.gateway.cache.breaker import Breaker, guarded
from services.gateway.cache.layered import Layered
from services.gateway.cache.memory import MemoryCache
from services.gateway.cache.redis import RedisCache
from services.gateway.ports import CacheStore
from services.gateway.state.connections import Connections
from tests.redis_server import RedisServer

if TYPE_CHECKING:
    from tests.services.gateway.cache.flights import Airport

PATIENT_S = 5.0
"""A loaded machine is not what these tests are about."""
MAX_ENTRY_BYTES = 10_000
BELIEVE_S = 2.0


class Clock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Room:
    """One gateway's cache over Redis, with all that was counted."""

    connections: Connections
    clock: Clock
    seed: int = 0
    counted: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.breaker = Breaker("the store", clock=self.clock)
        self.guarded = guarded(self.connections, self.breaker)
        self.redis = RedisCache(
            self.guarded,
            random.Random(self.seed),
            max_entry_bytes=MAX_ENTRY_BYTES,
            count=lambda what: self.counted.update([what]),
            clock=self.clock,
        )
        self.layered = Layered(
            self.redis,
            max_bytes=1 << 20,
            max_entry_bytes=MAX_ENTRY_BYTES,
            believe_s=BELIEVE_S,
            wall=self.clock,
            clock=self.clock,
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    """One for all tests, empty, and with its statistics at zero."""
    running.command("FLUSHALL")
    running.command("CONFIG", "RESETSTAT")
    return running


@pytest.fixture
async def room(server: RedisServer, clock: Clock) -> AsyncIterator[Room]:
    connections = Connections(server.url, PATIENT_S)
    yield Room(connections, clock)
    await connections.aclose()


@pytest.fixture
async def other(server: RedisServer, clock: Clock) -> AsyncIterator[Room]:
    """Another gateway's, over the same Redis."""
    connections = Connections(server.url, PATIENT_S)
    yield Room(connections, clock, seed=1)
    await connections.aclose()


@dataclass
class Timed:
    """A store, and how time passes for it: leases in Redis end by Redis's own clock."""

    store: CacheStore
    clock: Clock
    real: bool

    async def sleep(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await asyncio.sleep(seconds if self.real else 0)


@pytest.fixture(params=["memory", "redis", "layered"])
def timed(request: pytest.FixtureRequest, clock: Clock) -> Timed:
    if request.param == "memory":
        return Timed(MemoryCache(1 << 20, MAX_ENTRY_BYTES, clock), clock, real=False)
    room: Room = request.getfixturevalue("room")
    return Timed(room.redis if request.param == "redis" else room.layered, clock, real=True)


@pytest.fixture
def airport() -> Airport:
    from tests.services.gateway.cache.flights import Airport

    return Airport()


@pytest.fixture
def two(room: Room, other: Room) -> tuple[Airport, Airport]:
    """Two gateways over one Redis."""
    from tests.services.gateway.cache.flights import Airport

    return Airport(room.layered), Airport(other.layered)
