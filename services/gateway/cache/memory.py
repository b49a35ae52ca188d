"""The cache of one process: the least recently used goes first, by bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cachetools import LRUCache

from services.gateway.cache.kept import Kept
from services.gateway.ports import Entry

OVERHEAD_BYTES = 512
"""Of an entry beside its value: key, object and table, generously."""
MAX_LEASES = 10_000


def size(kept: Kept) -> int:
    return len(kept.value) + OVERHEAD_BYTES


class MemoryCache:
    def __init__(
        self, max_bytes: int, max_entry_bytes: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept: LRUCache[str, Kept] = LRUCache(max_bytes, getsizeof=size)
        self._max_entry_bytes = min(max_entry_bytes or max_bytes, max_bytes - OVERHEAD_BYTES)
        self._leases: LRUCache[str, tuple[str, float]] = LRUCache(MAX_LEASES)
        self._clock = clock

    def peek(self, key: str) -> Entry | None:
        kept = self._kept.get(key)
        if kept is None:
            return None
        entry = kept.entry(self._clock())
        if entry is None:
            del self._kept[key]
        return entry

    async def get(self, key: str) -> Entry | None:
        return self.peek(key)

    async def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        if len(value) <= self._max_entry_bytes:
            self._kept[key] = Kept(value, self._clock(), fresh_s, stale_s)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._kept.pop(key, None)

    async def forget(self, prefix: str) -> int:
        under = [key for key in self._kept if key.startswith(prefix)]
        await self.delete(under)
        return len(under)

    async def lease(self, key: str, owner: str, ms: int) -> bool:
        holder, until = self._leases.get(key, (owner, 0.0))
        now = self._clock()
        if holder != owner and now < until:
            return False
        self._leases[key] = owner, now + ms / 1000
        return True

    async def release(self, key: str, owner: str) -> None:
        if self._leases.get(key, ("", 0.0))[0] == owner:
            self._leases.pop(key, None)

    async def aclose(self) -> None:
        self._kept.clear()
