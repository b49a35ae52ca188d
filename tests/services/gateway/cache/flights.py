"""What flights are tested with."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from services.gateway.cache.flight import Bounds, Flights, Made, Outcome
from services.gateway.cache.memory import MemoryCache
from services.gateway.ports import CacheStore
from shared.deadline import Deadline
from tests.services.gateway.cache.conftest import Clock

LONG_MS = 30_000


class Maker:
    """Makes numbered values, each once `gate` is open."""

    def __init__(self, error: Exception | None = None, store: bool = True, also: str | None = None) -> None:
        self.calls = self.cancelled = 0
        self.gate = asyncio.Event()
        self.error, self.store, self.also = error, store, also

    async def __call__(self) -> Made:
        self.calls += 1
        number = self.calls
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return Made(b"%d" % number, 10, 100, self.store, self.also)


class Airport:
    """A `Flights` over a memory cache whose clock stands still, and what it counted."""

    def __init__(self, store: CacheStore | None = None, bounds: Bounds | None = None) -> None:
        self.clock = Clock()
        self.store = store or MemoryCache(1 << 20, clock=self.clock)
        self.counted: Counter[str] = Counter()
        self.flights = Flights(self.store, bounds or Bounds(), lambda outcome: self.counted.update([outcome]))

    def ask(
        self, make: Callable[[], Awaitable[Made]], key: str = "k", ms: float = LONG_MS, revalidate: bool = False
    ) -> asyncio.Task[Outcome]:
        return asyncio.create_task(self.flights.through(key, make, Deadline.after_ms(ms), revalidate=revalidate))


async def settle() -> None:
    """Everything that can run without waiting has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """The test's own time limit is the patience."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.002)
