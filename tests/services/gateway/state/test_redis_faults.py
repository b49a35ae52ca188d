"""What a Redis can do to the state: be away, hang, be none, be full, and hold what another program wrote."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest
from redis.asyncio import Redis

from services.gateway.ports import Stored, Who
from services.gateway.state import keys
from services.gateway.state.connections import Connections
from services.gateway.state.redis import RedisState
from shared.errors import BadAnswer, Unavailable
from tests.redis_server import RedisServer, free_port
from tests.services.gateway.state.conftest import PATIENT_S, redis_state
from tests.services.gateway.state.filled import CALLS, HIDDEN, USER, Call, all_of_it, fill
from tests.services.gateway.state.words import NOW, U1, T, stored, took

pytestmark = pytest.mark.anyio

every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


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
