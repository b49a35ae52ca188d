"""The cache in memory against a model of it, and its bound in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.gateway.cache.memory import OVERHEAD_BYTES, MemoryCache
from tests.services.gateway.cache.conftest import Clock

T = TypeVar("T")
KEYS = st.sampled_from("abc")
OWNERS = st.sampled_from(["one", "two"])
SECONDS = st.integers(0, 8).map(float)


def now(work: Coroutine[Any, Any, T]) -> T:
    """What it returns; it never waits."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    raise AssertionError("the cache in memory waited")


class Interleaved(RuleBasedStateMachine):
    """Any order of calls and passing time, against two plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.cache = MemoryCache(1 << 20, clock=self.clock)
        self.entries: dict[str, tuple[bytes, float, float, float]] = {}
        self.leases: dict[str, tuple[str, float]] = {}

    @rule(key=KEYS, value=st.binary(max_size=3), fresh_s=SECONDS, stale_s=SECONDS)
    def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        now(self.cache.put(key, value, fresh_s, stale_s))
        self.entries[key] = value, self.clock.now, fresh_s, stale_s

    @rule(keys=st.lists(KEYS, max_size=3))
    def delete(self, keys: list[str]) -> None:
        now(self.cache.delete(keys))
        for key in keys:
            self.entries.pop(key, None)

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(key=KEYS, owner=OWNERS, seconds=st.integers(1, 8))
    def lease(self, key: str, owner: str, seconds: int) -> None:
        holder, until = self.leases.get(key, (owner, 0.0))
        free = holder == owner or until <= self.clock.now
        assert now(self.cache.lease(key, owner, seconds * 1000)) == free
        if free:
            self.leases[key] = owner, self.clock.now + seconds

    @rule(key=KEYS, owner=OWNERS)
    def release(self, key: str, owner: str) -> None:
        now(self.cache.release(key, owner))
        if self.leases.get(key, ("", 0.0))[0] == owner:
            del self.leases[key]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for key in "abc":
            found = now(self.cache.get(key))
            value, written, fresh_s, stale_s = self.entries.get(key, (b"", 0.0, 0.0, 0.0))
            age_s = self.clock.now - written
            if age_s >= fresh_s + stale_s:
                assert found is None
            else:
                assert found is not None
                assert (found.value, found.age_s, found.fresh) == (value, age_s, age_s < fresh_s)


TestInterleaved = Interleaved.TestCase


class Bounded(RuleBasedStateMachine):
    """Room for a few entries: the least recently used goes first, and what is held never exceeds the bound."""

    LARGEST = 100
    ROOM = 3 * (OVERHEAD_BYTES + LARGEST)

    def __init__(self) -> None:
        super().__init__()
        self.cache = MemoryCache(self.ROOM, self.LARGEST)
        self.used: OrderedDict[str, int] = OrderedDict()

    @rule(key=st.sampled_from("abcdefg"), size=st.integers(0, LARGEST))
    def put(self, key: str, size: int) -> None:
        now(self.cache.put(key, b"x" * size, 1e9, 0))
        self.used.pop(key, None)
        while sum(self.used.values()) + size + OVERHEAD_BYTES > self.ROOM:
            self.used.popitem(last=False)
        self.used[key] = size + OVERHEAD_BYTES

    @rule(key=st.sampled_from("abcdefg"))
    def get(self, key: str) -> None:
        found = now(self.cache.get(key))
        assert (found is not None) == (key in self.used)
        if found is not None:
            assert len(found.value) + OVERHEAD_BYTES == self.used[key]
            self.used.move_to_end(key)


TestBounded = Bounded.TestCase


@pytest.mark.anyio
async def test_a_cache_smaller_than_one_entry_keeps_nothing_and_says_nothing() -> None:
    cache = MemoryCache(100)
    await cache.put("k", b"x", 10, 10)
    assert await cache.get("k") is None


@pytest.mark.anyio
async def test_leases_that_nobody_releases_are_forgotten_in_the_end() -> None:
    cache = MemoryCache(1 << 20)
    for n in range(20_001):
        assert await cache.lease(f"k{n}", "a", 1_000_000)
    assert await cache.lease("k0", "b", 1)
    assert not await cache.lease("k20000", "b", 1)
