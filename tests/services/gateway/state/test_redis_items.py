"""Item states in Redis: what another process set is found, and only what changed is fetched."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from services.gateway.state import keys
from services.gateway.state import redis as redis_module
from services.gateway.state.redis import RedisState
from shared.wire.users import ItemState
from tests.redis_server import RedisServer
from tests.services.gateway.state.conftest import Counting, redis_state
from tests.services.gateway.state.words import T

pytestmark = pytest.mark.anyio

HIDDEN = ItemState(hidden=True)


async def test_item_states_that_another_process_set_are_found(redis: RedisState, server: RedisServer) -> None:
    other = redis_state(server)
    await redis.set_item(T, "a", HIDDEN)
    await other.items(T)
    await redis.set_item(T, "b", HIDDEN)
    await redis.set_item(T, "a", ItemState())
    assert (await other.items(T)).items == {"b": HIDDEN}
    server.command("FLUSHALL")
    assert (await other.items(T)).items == {}
    await redis.set_item(T, "c", HIDDEN)
    assert (await other.items(T)).items == {"c": HIDDEN}
    await other.aclose()


async def test_a_version_that_went_back_means_everything_anew(redis: RedisState, server: RedisServer) -> None:
    await redis.set_item(T, "a", HIDDEN)
    await redis.items(T)
    server.command("FLUSHALL")
    server.command("HSET", keys.items(T), "", "5", "b", '{"hidden":true}')
    server.command("ZADD", keys.changed(T), "5", "b")
    found = await redis.items(T)
    assert (found.version, found.items) == (5, {"b": HIDDEN})


async def test_only_what_changed_is_fetched_again(server: RedisServer, redis: RedisState) -> None:
    states = {f"i{n}": ItemState(available=False) for n in range(200)}
    for item, state in states.items():
        await redis.set_item(T, item, state)
    await redis.items(T)
    async with Redis.from_url(server.url, decode_responses=True) as raw:
        await raw.hset(keys.items(T), "i7", '{"hidden":true}')  # behind the back of the list of changes
    await redis.set_item(T, "i8", HIDDEN)
    assert (await redis.items(T)).items == states | {"i8": HIDDEN}


async def test_who_is_further_behind_than_the_list_of_changes_fetches_everything(
    server: RedisServer, redis: RedisState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "KNOWN_CHANGES", 3)
    other = redis_state(server)
    await redis.set_item(T, "i0", HIDDEN)
    await other.items(T)
    for n in range(1, 6):
        await redis.set_item(T, f"i{n}", HIDDEN)
    await redis.set_item(T, "i0", ItemState())
    assert set((await other.items(T)).items or {}) == {f"i{n}" for n in range(1, 6)}
    await other.aclose()


async def test_simultaneous_callers_fetch_the_item_states_once(server: RedisServer) -> None:
    server.command("FLUSHALL")
    state = RedisState(connections := Counting(server.url))
    await state.set_item(T, "a", HIDDEN)
    connections.trips = 0
    impatient = asyncio.create_task(state.items(T))
    waiting = [asyncio.create_task(state.items(T)) for _ in range(20)]
    await asyncio.sleep(0)
    impatient.cancel()
    found = await asyncio.gather(*waiting)
    assert (connections.trips, found[0].items) == (1, {"a": HIDDEN})
    await state.aclose()
