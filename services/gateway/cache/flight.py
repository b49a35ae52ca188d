"""One flight per key: however many ask for what is not cached, in one process or in several, it is made once."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from services.gateway.ports import CacheStore, Entry
from shared.deadline import Deadline
from shared.errors import DeadlineExceeded, Overloaded, TandemError, Unavailable
from shared.wire.base import MAX_TIMEOUT_MS, Cache

DEGRADED_FRESH_S = 4.0
DEGRADED_STALE_S = 0.0
"""A degraded value is kept for 5 s at most, the stores' jitter and rounding included."""
FIRST_PAUSE_S = 0.005
LAST_PAUSE_S = 0.025
GROWTH = 1.5

How = Literal["hit", "stale", "miss", "shared", "waited"]
Count = Callable[[str], None]
"""Hears how each call ended (a How, or failed, expired, refused), and each refresh (refreshed, refresh_failed)."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Made:
    """`also`: another key that the value is kept under."""

    value: bytes
    fresh_s: float
    stale_s: float
    store: bool = True
    also: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """hit and stale: found.  miss: made for this call.  shared: made for a call that came before, in this process.
    waited: made by another process meanwhile."""

    value: bytes
    how: How
    age_s: float = 0.0

    @property
    def shared(self) -> bool:
        return self.how in ("shared", "waited")

    @property
    def cache(self) -> Cache:
        return self.how if self.how in ("hit", "stale") else "miss"


Make = Callable[[], Awaitable[Made]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """flights: at once.  waiters: for one of them.  lease_ms: how long others wait for a process that died."""

    flights: int = 512
    waiters: int = 4096
    lease_ms: int = 1000


@dataclass(slots=True, eq=False)
class Flight:
    """for_waiters: it ends when nobody waits any more; a refresh does not.  over: what is left is to store the value
    and to release the lease, which nobody cancels."""

    key: str
    stale: Entry | None
    for_waiters: bool
    task: asyncio.Task[None] = field(init=False)
    landed: Outcome | None = None
    over: bool = False
    waiting: set[asyncio.Future[Outcome]] = field(default_factory=set)

    def land(self, outcome: Outcome) -> None:
        self.landed, self.over = outcome, True
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(outcome)

    def fail(self, error: Exception) -> None:
        self.over = True
        for waiter in self.waiting:
            if not waiter.done():
                waiter.set_exception(error)


class Flights:
    """`through` is the whole of it."""

    def __init__(self, store: CacheStore, bounds: Bounds = Bounds(), count: Count = lambda outcome: None) -> None:
        self._store = store
        self._peek: Callable[[str], Entry | None] = getattr(store, "peek", lambda key: None)
        self._bounds = bounds
        self._count = count
        self._flights: dict[str, Flight] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        """Also of flights that nobody can join any more."""
        self._owners = map(f"{uuid.uuid4().hex}:{{}}".format, itertools.count())
        self._closed = False

    @property
    def under_way(self) -> int:
        return len(self._flights)

    async def through(self, key: str, make: Make, deadline: Deadline, *, revalidate: bool = False) -> Outcome:
        """The cached value, or what `make` gives.

        `make` runs in a task of its own: it is cancelled once everybody who waits has left, and what it raises reaches
        all of them.  `revalidate`: a stale value is returned at once while one flight renews it.
        Raises DeadlineExceeded, Overloaded beyond the bounds, or what `make` raised.
        """
        near = self._peek(key)
        if near is not None and near.fresh:
            # A timeout costs more than all of this hit.
            self._count("hit")
            return Outcome(near.value, "hit", near.age_s)
        try:
            async with asyncio.timeout(deadline.remaining_s()) as limit:
                outcome = await self._through(key, make, revalidate)
        except TimeoutError as error:
            self._count("expired" if limit.expired() else "failed")
            if not limit.expired():
                raise
            raise DeadlineExceeded("the budget ended while the answer was being made") from error
        except Overloaded:
            self._count("refused")
            raise
        except Exception:
            self._count("failed")
            raise
        self._count(outcome.how)
        return outcome

    async def stale(self, key: str) -> Entry | None:
        """What is left of an older value, for a caller whose flight failed."""
        return await self._store.get(key)

    async def aclose(self) -> None:
        """Whoever waits gets Unavailable; values that are made already are stored first."""
        self._closed = True
        for flight in list(self._flights.values()):
            self._cancel(flight)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _through(self, key: str, make: Make, revalidate: bool) -> Outcome:
        flight, entry = self._flights.get(key), None
        if flight is None:
            entry = await self._store.get(key)
            if entry is not None and entry.fresh:
                return Outcome(entry.value, "hit", entry.age_s)
            flight = self._flights.get(key)
        if flight is not None and flight.landed is not None:
            return _told(flight.landed)
        stale = entry or (flight.stale if flight else None)
        if revalidate and stale is not None:
            if flight is None and self._has_room():
                self._begin(Flight(key, stale, for_waiters=False), make)
            return Outcome(stale.value, "stale", stale.age_s)
        if flight is not None:
            return _told(await self._landing(flight))
        if not self._has_room():
            raise Overloaded(f"{len(self._flights)} answers are being made, which is the bound; try again")
        return await self._landing(self._begin(Flight(key, stale, for_waiters=True), make))

    def _has_room(self) -> bool:
        return len(self._flights) < self._bounds.flights and not self._closed

    def _begin(self, flight: Flight, make: Make) -> Flight:
        self._flights[flight.key] = flight
        flight.task = asyncio.create_task(self._fly(flight, make))
        self._tasks.add(flight.task)
        flight.task.add_done_callback(lambda task: self._end(flight))
        return flight

    def _end(self, flight: Flight) -> None:
        """Also of a flight that was cancelled before its first step."""
        self._tasks.discard(flight.task)
        self._forget(flight)
        flight.fail(Unavailable("the gateway is stopping"))

    def _forget(self, flight: Flight) -> None:
        """Whoever comes now begins anew instead of joining what is over."""
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _cancel(self, flight: Flight) -> None:
        if not flight.over:
            flight.over = True
            self._forget(flight)
            flight.task.cancel()

    async def _landing(self, flight: Flight) -> Outcome:
        if len(flight.waiting) >= self._bounds.waiters:
            raise Overloaded(f"{len(flight.waiting)} requests wait for one answer, which is the bound; try again")
        waiter: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        flight.waiting.add(waiter)
        try:
            return await waiter
        finally:
            flight.waiting.discard(waiter)
            if flight.for_waiters and not flight.waiting:
                self._cancel(flight)

    async def _fly(self, flight: Flight, make: Make) -> None:
        key, owner = flight.key, next(self._owners)
        try:
            async with asyncio.timeout(MAX_TIMEOUT_MS / 1000) as limit:
                entry = await self._wait_for_lease(key, owner)
                if entry is not None:
                    return flight.land(Outcome(entry.value, "waited", entry.age_s))
                made = await self._hold_lease(key, owner, make)
            flight.land(Outcome(made.value, "miss"))
            self._refreshed(flight)
            for place in filter(None, (key, made.also) if made.store else ()):
                await self._store.put(place, made.value, made.fresh_s, made.stale_s)
        except Exception as error:
            self._forget(flight)
            flight.fail(DeadlineExceeded("it took too long to make") if limit.expired() else error)
            self._refreshed(flight, error)
        finally:
            await self._store.release(key, owner)

    async def _wait_for_lease(self, key: str, owner: str) -> Entry | None:
        """What another process made meanwhile, or None: it is ours to make. Asked for after the lease, since whoever
        held it before may just have written."""
        pause_s = FIRST_PAUSE_S
        while True:
            ours = await self._store.lease(key, owner, self._bounds.lease_ms)
            entry = await self._store.get(key)
            if entry is not None and entry.fresh:
                return entry
            if ours:
                return None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * GROWTH, LAST_PAUSE_S)

    async def _hold_lease(self, key: str, owner: str, make: Make) -> Made:
        keeping = asyncio.create_task(self._keep_lease(key, owner))
        try:
            return await make()
        finally:
            keeping.cancel()

    async def _keep_lease(self, key: str, owner: str) -> None:
        """Short and renewed: nobody waits long for one who died, and nobody overtakes one who is slow."""
        while True:
            await asyncio.sleep(self._bounds.lease_ms / 3000)
            await self._store.lease(key, owner, self._bounds.lease_ms)

    def _refreshed(self, flight: Flight, error: Exception | None = None) -> None:
        if flight.for_waiters:
            return
        self._count("refresh_failed" if error else "refreshed")
        if error:
            log.warning("refresh failed", error=type(error).__name__, exc_info=not isinstance(error, TandemError))


def _told(outcome: Outcome) -> Outcome:
    """To those who did not begin the flight."""
    return Outcome(outcome.value, "shared") if outcome.how == "miss" else outcome
