"""Flights at their bounds: too many, slow stores, gateways that die, and the end of all."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.cache.flight import Bounds, Flights
from services.gateway.cache.memory import MemoryCache
from shared.errors import BadAnswer, Overloaded, Unavailable
from tests.services.gateway.cache.flights import Airport, Maker, settle, until

pytestmark = pytest.mark.anyio


async def test_beyond_the_bound_of_flights_a_new_one_is_refused_and_a_hit_is_not() -> None:
    airport = Airport(bounds=Bounds(flights=2))
    make = Maker()
    under_way = [airport.ask(make, key) for key in ("a", "b")]
    await airport.store.put("hit", b"v", 10, 10)
    await airport.store.put("stale", b"v", 0, 10)
    await settle()
    with pytest.raises(Overloaded):
        await airport.ask(make, "c")
    assert (await airport.ask(make, "hit")).value == b"v"
    assert (await airport.ask(make, "stale", revalidate=True)).value == b"v"
    assert (make.calls, airport.counted["refused"]) == (2, 1)
    make.gate.set()
    await asyncio.gather(*under_way)
    assert (await airport.ask(make, "c")).how == "miss"


async def test_beyond_the_bound_of_waiters_one_more_is_refused() -> None:
    airport = Airport(bounds=Bounds(waiters=2))
    make = Maker()
    waiting = [airport.ask(make), airport.ask(make)]
    await settle()
    with pytest.raises(Overloaded):
        await airport.ask(make)
    make.gate.set()
    assert len(await asyncio.gather(*waiting)) == 2


class SlowToStore(MemoryCache):
    async def put(self, key: str, value: bytes, fresh_s: float, stale_s: float) -> None:
        await asyncio.sleep(0.05)
        await super().put(key, value, fresh_s, stale_s)


async def test_nobody_waits_for_the_store_to_write() -> None:
    airport = Airport(SlowToStore(1 << 20))
    make = Maker()
    make.gate.set()
    assert (await airport.ask(make)).how == "miss"
    assert await airport.store.get("k") is None
    assert (await airport.ask(make)).how == "shared"
    await until(lambda: airport.flights.under_way == 0)
    assert (await airport.ask(make)).how == "hit"
    assert make.calls == 1


class SlowToRelease(MemoryCache):
    async def release(self, key: str, owner: str) -> None:
        await asyncio.sleep(0.05)
        await super().release(key, owner)


async def test_nobody_joins_a_flight_that_has_failed() -> None:
    airport = Airport(SlowToRelease(1 << 20), Bounds(lease_ms=600_000))
    failing, make = Maker(BadAnswer("no")), Maker()
    failing.gate.set()
    make.gate.set()
    with pytest.raises(BadAnswer):
        await airport.ask(failing)
    assert (await airport.ask(make)).value == b"1"


async def test_a_flight_that_was_cancelled_gives_its_lease_back() -> None:
    airport = Airport(SlowToRelease(1 << 20), Bounds(lease_ms=600_000))
    left = Maker()
    task = airport.ask(left)
    await until(lambda: left.calls == 1)
    task.cancel()
    await settle()
    await airport.flights.aclose()
    assert await airport.store.lease("k", "another", 1)


async def test_who_waits_for_a_gateway_that_died_takes_over(two: tuple[Airport, Airport]) -> None:
    """Nobody renews or releases its lease."""
    await two[0].store.lease("k", "the dead", 100)
    make = Maker()
    make.gate.set()
    outcome = await two[1].ask(make)
    assert (outcome.how, make.calls) == ("miss", 1)


async def test_a_slow_flight_keeps_its_lease(two: tuple[Airport, Airport]) -> None:
    for airport in two:
        airport.flights = Flights(airport.store, Bounds(lease_ms=1500))
    make = Maker()
    leader = two[0].ask(make)
    await until(lambda: make.calls == 1)
    follower = two[1].ask(make)
    await asyncio.sleep(2.2)
    assert make.calls == 1
    make.gate.set()
    assert ((await leader).how, (await follower).how) == ("miss", "waited")


async def test_when_the_maker_fails_another_gateway_takes_over(two: tuple[Airport, Airport]) -> None:
    failing, make = Maker(BadAnswer("no")), Maker()
    first = two[0].ask(failing)
    await until(lambda: failing.calls == 1)
    second = two[1].ask(make)
    await asyncio.sleep(0.02)
    failing.gate.set()
    make.gate.set()
    with pytest.raises(BadAnswer):
        await first
    assert (await second).how == "miss"


async def test_closing_leaves_nobody_waiting_and_nothing_half_stored() -> None:
    airport = Airport(SlowToStore(1 << 20))
    stuck, made = Maker(), Maker()
    made.gate.set()
    await airport.ask(made, "made")
    waiting = [airport.ask(stuck, "stuck") for _ in range(3)]
    await settle()
    await airport.flights.aclose()
    for task in waiting:
        with pytest.raises(Unavailable, match="stopping"):
            await task
    assert stuck.cancelled == 1
    assert await airport.store.get("made") is not None
    with pytest.raises(Unavailable):
        await airport.ask(stuck, "later")


async def test_closing_before_the_first_step_leaves_nobody_waiting(airport: Airport) -> None:
    waiting = airport.ask(Maker())
    await asyncio.sleep(0)
    await airport.flights.aclose()
    with pytest.raises(Unavailable):
        await waiting


async def test_nothing_is_left_of_what_is_over(airport: Airport) -> None:
    make = Maker()
    make.gate.set()
    before = asyncio.all_tasks()
    await asyncio.gather(*(airport.ask(make, f"k{n % 7}") for n in range(100)))
    await settle()
    assert airport.flights.under_way == 0
    assert asyncio.all_tasks() == before
