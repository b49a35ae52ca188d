"""A state with something in it, each call that touches Redis, and all that stands there afterwards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis

from services.gateway.ports import Record
from services.gateway.state import keys
from services.gateway.state.redis import RedisState
from shared.wire.users import ItemState
from tests.redis_server import RedisServer
from tests.services.gateway.state.words import NOW, S1, U1, T, dismissed, took

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


async def fill(state: RedisState, user_id: str = "u1") -> None:
    await state.record(T, user_id, RECORD)
    both = {"user_id": user_id, "session_id": "s1", "recommendation_id": "r1"}
    await state.append(T, [took("e1", "a", **both), dismissed("e2", "b", **both)], NOW)
    await state.set_item(T, "a", HIDDEN)
    await state.erase(T, "somebody else")
