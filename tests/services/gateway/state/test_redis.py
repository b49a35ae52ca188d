"""The state in Redis: what is in there, and what of it a restart leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from services.gateway.ports import Stored, Who
from services.gateway.state import keys
from services.gateway.state.bounds import Bounds
from services.gateway.state.connections import Connections
from services.gateway.state.redis import RedisState
from services.gateway.state.scripts import READ, Command
from shared.errors import Unavailable
from tests.redis_server import RedisServer
from tests.services.gateway.state.conftest import PATIENT_S, Counting, redis_state
from tests.services.gateway.state.filled import HIDDEN, RECORD, USER, Call, all_of_it, fill
from tests.services.gateway.state.words import NOW, S1, U1, T, stored, took

pytestmark = pytest.mark.anyio


async def test_a_call_is_one_round_trip(server: RedisServer) -> None:
    state = RedisState(connections := Counting(server.url))
    many = [took(f"e{n}", f"i{n}", user_id=f"u{n}", session_id=f"s{n}", recommendation_id="r1") for n in range(100)]
    calls: list[Call] = [
        lambda state: state.read(T, [U1, S1]),
        lambda state: state.append(T, many, NOW),
        lambda state: state.set_item(T, "a", HIDDEN),
        lambda state: state.items(T),
        lambda state: state.record(T, "u1", RECORD),
    ]
    for call in calls:
        connections.trips = 0
        await call(state)
        assert connections.trips == 1
    await state.aclose()


def test_the_keys_of_a_user_share_a_slot_and_so_do_those_of_a_tenant() -> None:
    for tenant in ("", "t", "a:b", "{x}", "}{"):
        for who in (U1, Who("session", "{}"), Who("user", "}")):
            assert len({key_slot(key.encode()) for key in keys.of_owner(tenant, who)}) == 1
        assert key_slot(keys.items(tenant).encode()) == key_slot(keys.changed(tenant).encode())


async def test_every_key_carries_the_schema_version(redis: RedisState, server: RedisServer) -> None:
    await fill(redis)
    found = await all_of_it(server)
    assert len(found) == 11
    assert all(key.startswith("tandem:1:") for key in found)


async def test_of_an_erased_user_nothing_is_left(redis: RedisState, server: RedisServer) -> None:
    user = "user-with-a-name"
    await fill(redis, user)
    # A careless caller: the user's id in other ids.
    await redis.append(T, [took(f"{user}-1", "a", user_id=user, session_id=f"of-{user}")], NOW)
    await redis.append("other", [took("e1", "kept", user_id="u2"), took(f"{user}-2", "kept", session_id="s2")], NOW)
    before = await all_of_it(server)
    assert user in str(before)
    gone = await redis.erase(T, user)
    after = await all_of_it(server)
    assert user not in str(after)
    assert {key for key in after if ":user:" in key or ":session:" in key} == {
        key for key in before if "{other:" in key and "erased" not in key
    }
    assert gone == len(before) - len(after)
    assert await stored(redis, Who("user", user)) == Stored(version=3, erased=True)


async def test_a_session_that_is_named_while_its_user_is_erased_goes_as_well(
    redis: RedisState, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question which sessions there are and their end."""
    await redis.append(T, [took("e1", "a", session_id="s1", user_id="u1")], NOW)
    real, others = redis.connections.ask, redis_state(server)

    async def ask(commands: Sequence[Command], patience: float = 1) -> list[Any]:
        found = await real(commands, patience)
        if commands[0][0] == "HINCRBY":
            await others.append(T, [took("e2", "b", session_id="s9", user_id="u1")], NOW)
        return found

    monkeypatch.setattr(redis.connections, "ask", ask)
    await redis.erase(T, "u1")
    for session in ("s1", "s9"):
        assert await stored(redis, Who("session", session)) == Stored()
    await others.aclose()


async def test_scripts_that_redis_forgot_are_sent_again_and_written_once(
    redis: RedisState, server: RedisServer
) -> None:
    await redis.append(T, [took("e1", "a", 1)], NOW)
    for n in range(2, 5):
        server.command("SCRIPT", "FLUSH")
        found = await redis.append(T, [took(f"e{n}", f"i{n}", n, user_id="u1", session_id="s1")], NOW)
        assert (found.accepted, found.versions[U1]) == (1, n)
    server.command("SCRIPT", "FLUSH")
    snapshot = await redis.read(T, [U1, S1])
    assert [one.items for one in snapshot.stored] == [("a", "i2", "i3", "i4"), ("i2", "i3", "i4")]
    server.command("SCRIPT", "FLUSH")
    version = await redis.set_item(T, "a", HIDDEN)
    server.command("SCRIPT", "FLUSH")
    assert (await redis.items(T)).version == version


@pytest.mark.parametrize("end", [RedisServer.stop, RedisServer.kill])
async def test_what_was_acknowledged_outlives_redis(end: Callable[[RedisServer], None], tmp_path: Path) -> None:
    with RedisServer(tmp_path, appendonly="yes", appendfsync="always") as server:
        state = redis_state(server)
        await fill(state)
        end(server)
        with pytest.raises(Unavailable):
            await state.append(T, [took("e3", "c")], NOW)
        server.start()
        found = await state.append(T, [took("e1", "a"), took("e3", "c", recommendation_id="r1")], NOW + 1)
        assert (found.accepted, found.duplicates) == (1, 1)
        assert await stored(state) == Stored(("a", "c"), frozenset({"b"}), 3)
        assert (await state.items(T)).items == {"a": HIDDEN}
        await state.aclose()


async def test_a_restart_between_two_calls_is_not_noticed(tmp_path: Path) -> None:
    with RedisServer(tmp_path, appendonly="yes") as server:
        state = redis_state(server)
        await asyncio.gather(*(state.append(T, [took(f"e{n}", "a")], NOW) for n in range(5)))
        server.stop()
        server.start()
        await asyncio.sleep(0.05)
        assert [len((await stored(state)).items) for _ in range(6)] == [5] * 6
        await state.aclose()


async def test_only_the_scripts_that_redis_did_not_know_go_again(server: RedisServer) -> None:
    connections = Connections(server.url, PATIENT_S)
    server.command("FLUSHALL")
    server.command("SCRIPT", "FLUSH")
    count: Command = ("INCR", "count")
    replies = await connections.ask([count, READ.call(USER[:3]), count, READ.call(USER[:3])])
    assert replies == [1, [b"0", b"", b""], 2, [b"0", b"", b""]]
    await connections.aclose()


async def test_a_full_store_of_bounds_is_read_whole(server: RedisServer) -> None:
    server.command("FLUSHALL")
    state = redis_state(server, Bounds(history=100, seen=1000))
    for batch in range(6):
        await state.append(T, [took(f"e{batch}.{n}", f"i{batch}.{n}", batch * 500 + n) for n in range(500)], NOW)
    found = await stored(state)
    assert (len(found.items), len(found.seen), found.version) == (100, 1000, 3000)
    assert found.items[-1] == "i5.499"
    await state.aclose()
