"""The state in Redis: what is in there, and what a Redis can do to us."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from services.gateway.ports import Record, Stored, Who
from services.gateway.state import keys
from services.gateway.state.bounds import Bounds
from services.gateway.state.connections import Connections
from services.gateway.state.redis import RedisState
from services.gateway.state.scripts import READ, Command
from shared.errors import BadAnswer, Unavailable
from shared.wire.users import ItemState
from tests.redis_server import RedisServer, free_port
from tests.services.gateway.state.conftest import PATIENT_S, Counting, redis_state
from tests.services.gateway.state.words import NOW, S1, U1, T, dismissed, stored, took

pytestmark = pytest.mark.anyio

HIDDEN = ItemState(hidden=True)
RECORD = Record("r1", ("a", "b"), "llamarec", "ranker")
USER = keys.of_owner(T, U1)

Call = Callable[[RedisState], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "read": lambda state: state.read(T, [U1, S1]),
    "append": lambda state: state.append(T, [took("e9", "z")], NOW),
    "erase": lambda state: state.erase(T, "u1"),
    "set_item": lambda state: state.set_item(T, "a", HIDDEN),
    "items": lambda state: state.items(T),
    "record": lambda state: state.record(T, "u1", RECORD),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def all_of_it(server: RedisServer) -> dict[str, Any]:
    """Every key with its value."""
    async with Redis.from_url(server.url, decode_responses=True, encoding_errors="replace") as redis:
        found: dict[str, Any] = {}
        async for key in redis.scan_iter():
            match await redis.type(key):
                case "zset":
                    found[key] = await redis.zrange(key, 0, -1, withscores=True)
                case "hash":
                    found[key] = await redis.hgetall(key)
                case _:
                    found[key] = await redis.get(key)
    return found


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


async def fill(state: RedisState, user_id: str = "u1") -> None:
    await state.record(T, user_id, RECORD)
    both = {"user_id": user_id, "session_id": "s1", "recommendation_id": "r1"}
    await state.append(T, [took("e1", "a", **both), dismissed("e2", "b", **both)], NOW)
    await state.set_item(T, "a", HIDDEN)
    await state.erase(T, "somebody else")


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


@every_call
async def test_a_redis_that_comes_late_is_found(call: Call, tmp_path: Path) -> None:
    server = RedisServer(tmp_path, port=free_port())
    state = redis_state(server)
    with pytest.raises(Unavailable, match="does not answer"):
        await call(state)
    with server:
        await call(state)
        await state.aclose()


NO_REDIS = [
    b"",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b":1\r\n" * 9,
    b"*1\r\n$1\r\nx\r\n" * 9,
    b"+OK\r\n" * 9,
    b"\xff\x00\r\n",
]


@every_call
@pytest.mark.parametrize("answer", NO_REDIS)
async def test_what_is_no_redis_is_not_available(answer: bytes, call: Call) -> None:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(handle, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        state = RedisState(Connections(f"redis://127.0.0.1:{port}", PATIENT_S))
        with suppress(Unavailable):
            await call(state)
        with pytest.raises(Unavailable):
            await state.read(T, [U1])
        await state.aclose()


@every_call
async def test_a_redis_that_hangs_is_not_waited_for(call: Call, tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        state = redis_state(server, timeout_s=0.02)
        server.pause()
        began = time.perf_counter()
        with pytest.raises(Unavailable, match="in time"):
            await call(state)
        assert time.perf_counter() - began < 2
        server.resume()
        await state.aclose()


async def test_after_a_hang_every_event_is_there_once_and_every_reply_is_its_own(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        state = redis_state(server, timeout_s=0.05)
        await state.append(T, [took("e0", "zero", 0)], NOW)
        server.pause()
        for _ in range(3):
            with pytest.raises(Unavailable):
                await state.append(T, [took("e1", "one", 1), took("e1", "one", 1, user_id="u2")], NOW)
        server.resume()
        patient = redis_state(server)
        await patient.append(T, [took("e1", "one", 1)], NOW)
        assert (await stored(patient)).items == ("zero", "one")
        assert (await stored(state, Who("user", "u2"))).items == ("one",)
        assert (await stored(state)).items == ("zero", "one")
        await state.aclose()
        await patient.aclose()


async def test_a_caller_who_leaves_takes_no_reply_from_another(redis: RedisState, server: RedisServer) -> None:
    users = [Who("user", f"u{n}") for n in range(30)]
    for who in users:
        await redis.append(T, [took("e1", who.id, user_id=who.id)], NOW)
    for turns in range(6):
        leaving = [asyncio.create_task(redis.read(T, [who])) for who in users]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        found = await asyncio.gather(*(stored(redis, who) for who in users))
        assert [one.items for one in found] == [(who.id,) for who in users]
        await asyncio.gather(*leaving, return_exceptions=True)
    assert server.command("CLIENT", "LIST").count(b"id=") < 70


async def test_callers_who_leave_while_redis_hangs_leave_no_connection_behind(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        state = RedisState(Connections(server.url, PATIENT_S, max_connections=4))
        await state.append(T, [took("e1", "a")], NOW)
        for _ in range(3):
            server.pause()
            waiting = [asyncio.create_task(state.read(T, [U1])) for _ in range(10)]
            await asyncio.sleep(0.02)
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            server.resume()
            assert all([(await stored(state)).items == ("a",) for _ in range(10)])
        await state.aclose()


async def test_more_callers_than_connections_wait_for_one(server: RedisServer, redis: RedisState) -> None:
    await redis.append(T, [took("e1", "a")], NOW)
    before = server.command("CLIENT", "LIST").count(b"id=")
    few = RedisState(Connections(server.url, PATIENT_S, max_connections=2))
    found = await asyncio.gather(*(stored(few) for _ in range(100)))
    assert {one.items for one in found} == {("a",)}
    assert server.command("CLIENT", "LIST").count(b"id=") <= before + 2
    await few.aclose()


async def test_out_of_memory_nothing_is_half_written(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        state = redis_state(server)
        await fill(state)
        server.command("CONFIG", "SET", "maxmemory", "1")
        before = await all_of_it(server)
        calls: list[Call] = [CALLS["append"], CALLS["record"], CALLS["erase"]]
        for call in [*calls, lambda state: state.set_item(T, "new", HIDDEN)]:
            with pytest.raises(Unavailable, match="refuses"):
                await call(state)
        assert await all_of_it(server) == before
        again = await state.append(T, [took("e1", "a")], NOW)
        assert (again.duplicates, (await stored(state)).items) == (1, ("a",))
        server.command("CONFIG", "SET", "maxmemory", "0")
        for call in calls:
            await call(state)
        assert not (await stored(state)).items
        await state.aclose()


@pytest.mark.parametrize("broken", USER[:3])
async def test_a_key_of_the_wrong_type_is_refused_before_anything_is_written(
    broken: str, redis: RedisState, server: RedisServer
) -> None:
    server.command("SET", broken, "from another program")
    for call in (CALLS["read"], CALLS["append"]):
        with pytest.raises(Unavailable, match="refuses"):
            await call(redis)
    assert await all_of_it(server) == {broken: "from another program"}
    assert (await redis.append(T, [took("e1", "a", user_id="u2")], NOW)).accepted == 1


async def test_a_state_that_cannot_be_noted_as_a_change_is_not_set(redis: RedisState, server: RedisServer) -> None:
    server.command("SET", keys.changed(T), "from another program")
    with pytest.raises(Unavailable, match="refuses"):
        await redis.set_item(T, "a", HIDDEN)
    assert await all_of_it(server) == {keys.changed(T): "from another program"}


async def test_an_erasure_also_takes_keys_of_the_wrong_type(redis: RedisState, server: RedisServer) -> None:
    server.command("SET", USER.history, "from another program")
    assert await redis.erase(T, "u1") == 1
    assert await stored(redis) == Stored(erased=True)


GARBAGE: dict[str, tuple[list[str], list[str]]] = {
    "a history without arrivals": (["ZADD", USER.history, "1", "item"], ["read"]),
    "a history of two without arrivals": (["ZADD", USER.history, "1", "item", "2", "other"], ["read"]),
    "a history of another form": (["ZADD", USER.history, "1", "0000000000000z\nitem"], ["read"]),
    "a history of longer arrivals": (["ZADD", USER.history, "1", "0000000000000000\nitem"], ["read"]),
    "a version that is no integer": (["ZADD", USER.events, "1.5", "event"], ["read", "erase"]),
    "an infinite version": (["ZADD", USER.events, "inf", "event"], ["read", "erase"]),
    "an item version that is none": (["HSET", keys.items(T), "", "many"], ["read", "items", "set_item"]),
    "an item state that is no JSON": (["HSET", keys.items(T), "", "3", "a", "hidden"], ["items"]),
    "an item state of another version": (["HSET", keys.items(T), "", "3", "a", '{"sold":true}'], ["items"]),
    "items of the wrong type": (["SET", keys.items(T), "x"], ["read", "items", "set_item"]),
    "changes of the wrong type": (["SET", keys.changed(T), "x"], ["items", "set_item"]),
    "a tombstone that is no number": ([], ["read", "append", "erase"]),
    "tombstones of the wrong type": (["SET", keys.erased(T), "x"], ["read", "append", "erase"]),
}


@pytest.mark.parametrize(("command", "calls"), GARBAGE.values(), ids=GARBAGE)
async def test_values_of_another_form_are_an_error_that_says_so(
    command: list[str], calls: list[str], redis: RedisState, server: RedisServer
) -> None:
    if not command:
        await redis.erase(T, "u1")
        (tombstone,) = (await all_of_it(server))[keys.erased(T)]
        command = ["HSET", keys.erased(T), tombstone, "yes"]
    server.command(*command)
    for call in calls:
        with pytest.raises(Unavailable, match=r"refuses|another form"):
            await CALLS[call](redis)
    server.command("FLUSHALL")
    for call in calls:
        await CALLS[call](redis)


async def test_bytes_that_are_no_text_are_an_error_that_says_so(redis: RedisState, server: RedisServer) -> None:
    async with Redis.from_url(server.url) as raw:
        await raw.zadd(USER.seen, {b"\xff\xfe": 1})
    with pytest.raises(BadAnswer, match="another form"):
        await redis.read(T, [U1])


@pytest.mark.parametrize(
    "command", [["SET", "{}", "no JSON"], ["SET", "{}", '{"items":3}'], ["SET", "{}", "[]"], ["RPUSH", "{}", "a"]]
)
async def test_an_unreadable_record_loses_a_click_and_no_event(
    command: list[str], redis: RedisState, server: RedisServer
) -> None:
    server.command(*(word.replace("{}", keys.record(T, "r1"), 1) if word == "{}" else word for word in command))
    found = await redis.append(T, [took("e1", "a", recommendation_id="r1")], NOW)
    assert (found.accepted, list(found.clicked), (await stored(redis)).items) == (1, [], ("a",))


async def test_errors_tell_callers_no_ids_and_no_addresses(
    tmp_path: Path, redis: RedisState, server: RedisServer
) -> None:
    server.command("SET", USER.history, "x")
    absent = redis_state(RedisServer(tmp_path, port=free_port()))
    for state in (redis, absent):
        with pytest.raises(Unavailable) as raised:
            await state.read(T, [U1])
        assert not re.search(r"u1|127\.0\.0\.1|tenant|tandem:", str(raised.value))


async def test_a_full_store_of_bounds_is_read_whole(server: RedisServer) -> None:
    server.command("FLUSHALL")
    state = redis_state(server, Bounds(history=100, seen=1000))
    for batch in range(6):
        await state.append(T, [took(f"e{batch}.{n}", f"i{batch}.{n}", batch * 500 + n) for n in range(500)], NOW)
    found = await stored(state)
    assert (len(found.items), len(found.seen), found.version) == (100, 1000, 3000)
    assert found.items[-1] == "i5.499"
    await state.aclose()
