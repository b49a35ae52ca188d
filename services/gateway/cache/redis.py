"""The cache that all gateways share. A Redis that is down, slow, full or holds nonsense is an empty cache."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import OutOfMemoryError, ResponseError

from services.gateway.cache.kept import Kept, decode
from services.gateway.ports import Entry
from services.gateway.state.scripts import Command
from shared.errors import Unavailable

if TYPE_CHECKING:
    from services.gateway.state.connections import Connections

SCANNED = 1_000
JITTER = 0.1
"""Entries that were written together do not end together."""
LEASE = """
if redis.call('set', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('get', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('pexpire', KEYS[1], ARGV[2])
return 1
"""
RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"

Count = Callable[[str], None]
"""Hears what was not done, and why: unavailable, out_of_memory, refused, garbage or oversized."""


class RedisCache:
    """The connections, their time limit and the breaker before them are shared with the state; their owner closes
    them."""

    def __init__(
        self,
        connections: Connections,
        jitter: random.Random,
        *,
        max_entry_bytes: int,
        count: Count = lambda what: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connections = connections
        self._jitter = jitter
        self._max_entry_bytes = max_entry_bytes
        self._count = count
        self._clock = clock

    async def get(self, key: str) -> Entry | None:
        try:
            kept = await self.read(key)
        except Unavailable:
            return None
        return kept.entry(self._clock()) if kept else None

    async def read(self, key: str) -> Kept | None:
        """Times are of the wall clock. Raises Unavailable."""
        raw = await self._ask(("GET", key))
        if raw is None:
            return None
        if isinstance(raw, ResponseError) and not str(raw).startswith("WRONGTYPE"):
            raise Unavailable(f"the cache refuses to read: {raw}")
        kept = decode(raw)
        if kept is None:
            self._count("garbage")
            await self.delete([key])
        return kept

    async def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        if len(value) > self._max_entry_bytes:
            self._count("oversized")
            return
        stretch = self._jitter.uniform(1 - JITTER, 1 + JITTER)
        kept = Kept(value, self._clock(), fresh_s * stretch, stale_s * stretch)
        ms = int((kept.fresh_s + kept.stale_s) * 1000)
        if ms > 0:
            await self._try(("SET", key, kept.encode(), "PX", ms))

    async def delete(self, keys: Sequence[str]) -> None:
        if keys:
            await self._try(("UNLINK", *keys))

    async def forget(self, prefix: str) -> int:
        """`prefix` holds no character that means something in a pattern. Reads the names of all keys, a thousand at a
        time: for what is rare."""
        gone, cursor = 0, b"0"
        while True:
            cursor, under = await self._asked(("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", SCANNED))
            if under:
                gone += await self._asked(("UNLINK", *under))
            if cursor == b"0":
                return gone

    async def _asked(self, command: Command) -> Any:
        """Raises Unavailable also where Redis refuses."""
        reply = await self._ask(command)
        if isinstance(reply, ResponseError):
            raise Unavailable(f"the cache refuses: {reply}")
        return reply

    async def lease(self, key: str, owner: str, ms: int) -> bool:
        """The owner of a lease gets it again, for `ms` from now."""
        granted = await self._try(("EVAL", LEASE, 1, _lease_key(key), owner, ms))
        return bool(granted != 0)

    async def release(self, key: str, owner: str) -> None:
        await self._try(("EVAL", RELEASE, 1, _lease_key(key), owner))

    async def aclose(self) -> None:
        pass

    async def _try(self, command: Command) -> Any:
        """None where it could not be done."""
        try:
            reply = await self._ask(command)
        except Unavailable:
            return None
        return None if isinstance(reply, ResponseError) else reply

    async def _ask(self, command: Command) -> Any:
        """The reply, or the ResponseError that stands for it. Raises Unavailable."""
        try:
            [reply] = await self._connections.ask([command])
        except Unavailable:
            self._count("unavailable")
            raise
        if isinstance(reply, ResponseError) and not str(reply).startswith("WRONGTYPE"):
            full = isinstance(reply, OutOfMemoryError) or "OOM" in str(reply)  # the latter out of a script
            self._count("out_of_memory" if full else "refused")
        return reply


def _lease_key(key: str) -> str:
    return f"{key}:lease"
