"""A small memory in front of Redis: what is hot costs no round trip, and what is down is remembered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from services.gateway.cache.kept import Kept
from services.gateway.cache.memory import OVERHEAD_BYTES, size
from services.gateway.ports import Entry
from shared.errors import Unavailable

if TYPE_CHECKING:
    from services.gateway.cache.redis import RedisCache


@dataclass(frozen=True, slots=True)
class Near:
    """A copy, believed until then without asking; afterwards only where Redis does not answer."""

    kept: Kept
    until: float

    def is_fresh(self, now: float) -> bool:
        entry = self.kept.entry(now)
        return entry is not None and entry.fresh


class Layered:
    def __init__(
        self,
        far: RedisCache,
        *,
        max_bytes: int,
        max_entry_bytes: int,
        believe_s: float,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wall` is what `far` writes its times with."""
        self._far = far
        self._near: LRUCache[str, Near] = LRUCache(max_bytes, getsizeof=lambda near: size(near.kept))
        self._max_entry_bytes = min(max_entry_bytes, max_bytes - OVERHEAD_BYTES)
        self._believe_s = believe_s
        self._wall, self._clock = wall, clock
        self._lookups: dict[str, asyncio.Task[Kept | None]] = {}

    def peek(self, key: str) -> Entry | None:
        """What is believed without asking Redis."""
        near = self._near.get(key)
        if near is None or self._clock() >= near.until:
            return None
        return near.kept.entry(self._wall())

    async def get(self, key: str) -> Entry | None:
        entry = self.peek(key)
        if entry is not None:
            return entry
        try:
            kept = await asyncio.shield(self._lookup(key))
        except Unavailable:
            near = self._near.get(key)
            kept = near.kept if near else None
        return kept.entry(self._wall()) if kept else None

    async def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        self._lookups.pop(key, None)
        self._remember(key, Kept(value, self._wall(), fresh_s, stale_s))
        await self._far.put(key, value, fresh_s, stale_s)

    async def delete(self, keys: Sequence[str]) -> None:
        """Other processes believe their copies for a while."""
        for key in keys:
            self._lookups.pop(key, None)
            self._near.pop(key, None)
        await self._far.delete(keys)

    async def forget(self, prefix: str) -> int:
        """Other processes believe their copies for a while."""
        for key in [key for key in self._near if key.startswith(prefix)]:
            del self._near[key]
        for key in [key for key in self._lookups if key.startswith(prefix)]:
            del self._lookups[key]
        return await self._far.forget(prefix)

    async def lease(self, key: str, owner: str, ms: int) -> bool:
        granted = await self._far.lease(key, owner, ms)
        # Whoever held it before may have written: no answer to an earlier question counts any more.
        self._lookups.pop(key, None)
        near = self._near.get(key)
        if near is not None and not near.is_fresh(self._wall()):
            self._near[key] = replace(near, until=0.0)
        return granted

    async def release(self, key: str, owner: str) -> None:
        await self._far.release(key, owner)

    async def aclose(self) -> None:
        await asyncio.gather(*self._lookups.values(), return_exceptions=True)
        self._near.clear()
        await self._far.aclose()

    def _lookup(self, key: str) -> asyncio.Task[Kept | None]:
        """One at a time for a key, however many ask: a thousand callers need no thousand connections."""
        task = self._lookups.get(key)
        if task is None:
            task = self._lookups[key] = asyncio.create_task(self._read(key))
            task.add_done_callback(_heard)
        return task

    async def _read(self, key: str) -> Kept | None:
        task = asyncio.current_task()
        try:
            kept = await self._far.read(key)
        finally:
            current = self._lookups.get(key) is task
            if current:
                del self._lookups[key]
        if current and kept is None:
            self._near.pop(key, None)
        elif current and kept is not None:
            self._remember(key, kept)
        return kept

    def _remember(self, key: str, kept: Kept) -> None:
        if len(kept.value) <= self._max_entry_bytes:
            self._near[key] = Near(kept, self._clock() + self._believe_s)


def _heard(done: asyncio.Task[Kept | None]) -> None:
    """Where all who waited have left, the look at the exception tells asyncio that somebody knows of it."""
    if not done.cancelled():
        done.exception()
