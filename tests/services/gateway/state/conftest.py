"""Both stores, Redis as a real server; and words for events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from services.gateway.ports import State
from services.gateway.state.bounds import Bounds
from services.gateway.state.connections import Connections
from services.gateway.state.memory import MemoryState
from services.gateway.state.redis import RedisState
from services.gateway.state.scripts import Command
from services.gateway.state.tombstones import Tombstones
from tests.redis_server import RedisServer

PATIENT_S = 5.0
"""A loaded machine is not what these tests are about."""

Open = Callable[[Bounds], State]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


def redis_state(server: RedisServer, bounds: Bounds | None = None, timeout_s: float = PATIENT_S) -> RedisState:
    return RedisState(Connections(server.url, timeout_s), bounds, Tombstones("secret"))


class Counting(Connections):
    """Round trips."""

    def __init__(self, url: str) -> None:
        super().__init__(url, PATIENT_S)
        self.trips = 0

    async def ask(self, commands: Sequence[Command], patience: float = 1) -> list[Any]:
        self.trips += 1
        return await super().ask(commands, patience)


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[RedisState]:
    server.command("FLUSHALL")
    one = redis_state(server)
    yield one
    await one.aclose()


@pytest.fixture(params=["memory", "redis"])
async def opened(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[Open]:
    """Opens stores; those in Redis share one server, which is empty at first."""
    server.command("FLUSHALL")
    states: list[State] = []

    def one(bounds: Bounds) -> State:
        state = MemoryState(bounds) if request.param == "memory" else redis_state(server, bounds)
        states.append(state)
        return state

    yield one
    for state in states:
        await state.aclose()


@pytest.fixture
async def state(opened: Open) -> State:
    return opened(Bounds())
