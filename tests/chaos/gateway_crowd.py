"""A process of `test_stampede`: a crowd that asks one gateway's cache for one cold key, all at once.

    python -m tests.chaos.gateway_crowd REDIS_URL PATIENCE CROWD SECONDS

Redis has PATIENCE seconds for each command. Says `ready`, begins at the next line on stdin, and prints what became of
each as JSON. Making the value takes SECONDS; its beginning and its end are counted, in Redis too where there is one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import suppress

import structlog

from services.gateway.cache.breaker import Breaker, guarded
from services.gateway.cache.flight import Flights, Made
from services.gateway.cache.settings import CacheSettings, open_cache
from services.gateway.state.connections import Connections
from shared.deadline import Deadline
from shared.errors import Unavailable

KEY = "td1:acme:cache:ranking:cold"
BEGAN, MADE = "began", "made"


async def crowd(url: str, patience_s: float, size: int, seconds: float) -> Counter[str]:
    settings = CacheSettings()
    connections = guarded(Connections(url, patience_s), Breaker("the store"))
    store = open_cache(connections, settings)
    ends: Counter[str] = Counter()
    flights = Flights(store, settings.cache_bounds(), lambda end: ends.update([end]))

    async def note(what: str) -> None:
        ends[what] += 1
        with suppress(Unavailable):
            await connections.ask([("INCR", what)])

    async def make() -> Made:
        await note(BEGAN)
        await asyncio.sleep(seconds)
        await note(MADE)
        return Made(b"the one answer", 60, 600)

    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    asked = (flights.through(KEY, make, Deadline.after_ms(30_000)) for _ in range(size))
    outcomes = await asyncio.gather(*asked)
    ends["answers"] = sum(outcome.value == b"the one answer" for outcome in outcomes)
    await flights.aclose()
    await store.aclose()
    await connections.aclose()
    return ends


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    url, patience_s, size, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(crowd(url, float(patience_s), int(size), float(seconds)))), flush=True)
