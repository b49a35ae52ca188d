"""Where what is decided is kept: the same contract in memory, in a file and in Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.gateway.rollout.redis import KEY, RedisStore
from services.gateway.rollout.stores import FileStore, MemoryStore, RolloutStore
from services.gateway.state.connections import Connections
from shared.errors import Unavailable
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["memory", "file", "redis"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RolloutStore]:
    if request.param == "memory":
        yield MemoryStore()
    elif request.param == "file":
        yield FileStore(tmp_path / "rollout.json")
    else:
        running: RedisServer = request.getfixturevalue("server")
        running.command("FLUSHALL")
        connections = Connections(running.url, 1.0)
        yield RedisStore(connections)
        await connections.aclose()


async def test_nothing_is_there_at_first(store: RolloutStore) -> None:
    assert await store.read() is None


async def test_what_was_swapped_in_is_read(store: RolloutStore) -> None:
    assert await store.swap(None, b'{"live":"r1"}')
    assert await store.swap(b'{"live":"r1"}', b'{"live":"r2"}')
    assert await store.read() == b'{"live":"r2"}'


async def test_nobody_overwrites_what_he_has_not_read(store: RolloutStore) -> None:
    await store.swap(None, b"one")
    assert not await store.swap(None, b"two")
    assert not await store.swap(b"older", b"two")
    assert await store.read() == b"one"


async def test_of_many_who_swap_at_once_one_does(store: RolloutStore) -> None:
    done = await asyncio.gather(*(store.swap(None, b"%d" % n) for n in range(8)))
    assert sum(done) == 1
    assert await store.read() == b"%d" % done.index(True)


async def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    for store in (RedisStore(Connections(f"redis://127.0.0.1:{free_port()}", 0.05)), FileStore(blocked / "below")):
        with pytest.raises(Unavailable):
            await store.swap(None, b"x")


async def test_a_key_of_another_kind_is_no_crash(server: RedisServer) -> None:
    server.command("FLUSHALL")
    server.command("LPUSH", KEY, "x")
    connections = Connections(server.url, 1.0)
    store = RedisStore(connections)
    with pytest.raises(Unavailable):
        await store.read()
    with pytest.raises(Unavailable):
        await store.swap(None, b"x")
    await connections.aclose()
    server.command("FLUSHALL")
