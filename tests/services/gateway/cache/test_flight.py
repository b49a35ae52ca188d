"""Whatever is asked for at once is made once; who leaves, who dies and what fails leaves nobody waiting."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from services.gateway.cache.flight import Bounds, Flights, Made, Outcome
from services.gateway.cache.memory import MemoryCache
from services.gateway.ports import CacheStore
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, Unavailable
from tests.services.gateway.cache.conftest import Clock, Room

pytestmark = pytest.mark.anyio
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


@pytest.fixture
def airport() -> Airport:
    return Airport()


@pytest.fixture
def two(room: Room, other: Room) -> tuple[Airport, Airport]:
    """Two gateways over one Redis."""
    return Airport(room.layered), Airport(other.layered)


async def settle() -> None:
    """Everything that can run without waiting has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(true: Callable[[], bool]) -> None:
    """The test's own time limit is the patience."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


async def test_what_is_made_once_is_found_afterwards(airport: Airport) -> None:
    make = Maker()
    make.gate.set()
    first, second = await airport.ask(make), await airport.ask(make)
    assert (first.value, first.how, first.cache, first.shared) == (b"1", "miss", "miss", False)
    assert (second.value, second.how, second.cache, second.shared) == (b"1", "hit", "hit", False)
    assert airport.counted == {"miss": 1, "hit": 1}


async def test_a_thousand_who_ask_at_once_make_one_call(airport: Airport) -> None:
    make = Maker()
    crowd = [airport.ask(make) for _ in range(1000)]
    await settle()
    make.gate.set()
    outcomes = await asyncio.gather(*crowd)
    assert {outcome.value for outcome in outcomes} == {b"1"}
    assert make.calls == 1
    assert airport.counted == {"miss": 1, "shared": 999}


async def test_a_thousand_over_a_cold_redis_make_one_call(two: tuple[Airport, Airport]) -> None:
    """500 in each of two gateways."""
    make = Maker()
    crowd = [airport.ask(make) for _ in range(500) for airport in two]
    await until(lambda: make.calls > 0)
    await asyncio.sleep(0.1)
    make.gate.set()
    outcomes = await asyncio.gather(*crowd)
    assert {outcome.value for outcome in outcomes} == {b"1"}
    assert make.calls == 1
    assert two[0].counted + two[1].counted == {"miss": 1, "shared": 499, "waited": 500}


async def test_keys_do_not_wait_for_each_other(airport: Airport) -> None:
    slow, fast = Maker(), Maker()
    fast.gate.set()
    waiting = airport.ask(slow, "slow")
    assert (await airport.ask(fast, "fast")).value == b"1"
    slow.gate.set()
    await waiting


async def test_a_gateway_that_comes_late_finds_what_the_other_just_made(two: tuple[Airport, Airport]) -> None:
    """Its miss is older than the other's write; the lease is free again when it asks."""
    make = Maker()
    make.gate.set()
    for n in range(30):
        await asyncio.gather(two[0].ask(make, f"k{n}"), two[1].ask(make, f"k{n}"))
    assert make.calls == 30


async def test_a_stale_value_comes_at_once_while_one_flight_renews_it(airport: Airport) -> None:
    make = Maker()
    await airport.store.put("k", b"old", 10, 100)
    airport.clock.advance(11)
    crowd = await asyncio.gather(*(airport.ask(make, revalidate=True) for _ in range(100)))
    assert {(outcome.value, outcome.how, outcome.cache) for outcome in crowd} == {(b"old", "stale", "stale")}
    assert make.calls == 1
    make.gate.set()
    await settle()
    assert (await airport.ask(make, revalidate=True)).value == b"1"
    assert airport.counted == {"stale": 100, "hit": 1, "refreshed": 1}


async def test_a_refresh_goes_on_when_those_who_wait_for_it_leave(airport: Airport) -> None:
    make = Maker()
    await airport.store.put("k", b"old", 10, 100)
    airport.clock.advance(11)
    await airport.ask(make, revalidate=True)
    patient = airport.ask(make)
    await settle()
    patient.cancel()
    await settle()
    make.gate.set()
    await settle()
    assert make.cancelled == 0
    assert (await airport.ask(make)).how == "hit"


async def test_a_failed_refresh_leaves_the_stale_value_and_is_tried_again(airport: Airport) -> None:
    failing, make = Maker(Unavailable("no")), Maker()
    failing.gate.set()
    make.gate.set()
    await airport.store.put("k", b"old", 10, 100)
    airport.clock.advance(11)
    for _ in range(3):
        assert (await airport.ask(failing, revalidate=True)).value == b"old"
        await settle()
    assert failing.calls == 3
    await airport.ask(make, revalidate=True)
    await settle()
    assert (await airport.ask(make)).value == b"1"
    assert airport.counted == {"stale": 4, "refresh_failed": 3, "refreshed": 1, "hit": 1}


async def test_without_revalidate_a_stale_value_waits_for_who_asks_for_it(airport: Airport) -> None:
    make = Maker(Unavailable("no"))
    make.gate.set()
    await airport.store.put("k", b"old", 10, 100)
    airport.clock.advance(11)
    with pytest.raises(Unavailable):
        await airport.ask(make)
    stale = await airport.flights.stale("k")
    assert stale is not None
    assert (stale.value, stale.fresh) == (b"old", False)
    assert await airport.flights.stale("never") is None


async def test_who_takes_a_stale_value_need_not_wait_for_who_does_not(airport: Airport) -> None:
    make = Maker()
    await airport.store.put("k", b"old", 10, 100)
    airport.clock.advance(11)
    strict = airport.ask(make)
    await settle()
    assert (await airport.ask(make, revalidate=True)).value == b"old"
    make.gate.set()
    assert (await strict).value == b"1"
    assert make.calls == 1


async def test_a_leader_who_leaves_does_not_end_the_flight_of_the_others(airport: Airport) -> None:
    make = Maker()
    leader = airport.ask(make)
    await settle()
    followers = [airport.ask(make) for _ in range(3)]
    await settle()
    leader.cancel()
    await settle()
    make.gate.set()
    assert {(await follower).value for follower in followers} == {b"1"}
    assert (make.calls, make.cancelled) == (1, 0)


async def test_when_all_have_left_the_work_is_cancelled(airport: Airport) -> None:
    make = Maker()
    crowd = [airport.ask(make) for _ in range(3)]
    await settle()
    for task in crowd[:2]:
        task.cancel()
    await settle()
    assert make.cancelled == 0
    crowd[2].cancel()
    await settle()
    assert make.cancelled == 1
    assert await airport.store.lease("k", "another", 1)


async def test_who_comes_after_all_have_left_begins_anew(airport: Airport) -> None:
    make = Maker()
    gone = airport.ask(make)
    await settle()
    gone.cancel()
    await asyncio.sleep(0)
    late = airport.ask(make)
    await until(lambda: make.calls == 2)
    make.gate.set()
    assert (await late).value == b"2"


async def test_who_leaves_before_the_first_step_leaves_nothing(airport: Airport) -> None:
    make = Maker()
    task = airport.ask(make)
    await asyncio.sleep(0)
    task.cancel()
    await settle()
    make.gate.set()
    assert (await airport.ask(make)).how == "miss"


async def test_a_follower_with_less_time_leaves_alone(airport: Airport) -> None:
    make = Maker()
    leader = airport.ask(make)
    await settle()
    with pytest.raises(DeadlineExceeded):
        await airport.ask(make, ms=20)
    make.gate.set()
    assert (await leader).value == b"1"
    assert airport.counted == {"expired": 1, "miss": 1}


async def test_when_the_time_of_all_is_over_the_work_is_cancelled(airport: Airport) -> None:
    make = Maker()
    crowd = [airport.ask(make, ms=20) for _ in range(10)]
    found = await asyncio.gather(*crowd, return_exceptions=True)
    await settle()
    assert {type(one) for one in found} == {DeadlineExceeded}
    assert make.cancelled == 1


async def test_a_follower_in_another_gateway_waits_no_longer_than_its_deadline(two: tuple[Airport, Airport]) -> None:
    make = Maker()
    leader = two[0].ask(make)
    await until(lambda: make.calls == 1)
    with pytest.raises(DeadlineExceeded):
        await two[1].ask(make, ms=50)
    make.gate.set()
    assert (await leader).value == b"1"
    assert make.calls == 1


async def test_a_hit_is_given_even_without_time(airport: Airport) -> None:
    await airport.store.put("k", b"v", 10, 10)
    assert (await airport.ask(Maker(), ms=0)).value == b"v"


@pytest.mark.parametrize("error", [BadAnswer("NaN"), Overloaded("full", 7.0), DeadlineExceeded("late"), KeyError("x")])
async def test_a_failure_reaches_all_who_wait_and_is_not_cached(airport: Airport, error: Exception) -> None:
    make = Maker(error)
    crowd = [airport.ask(make) for _ in range(50)]
    await settle()
    make.gate.set()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert {type(one) for one in found} == {type(error)}
    assert make.calls == 1
    assert airport.counted == {"refused" if isinstance(error, Overloaded) else "failed": 50}
    with pytest.raises(type(error)):
        await airport.ask(make)
    assert make.calls == 2
    assert await airport.store.lease("k", "another", 1)


async def test_a_timeout_of_the_works_own_is_a_failure_like_any_other(airport: Airport) -> None:
    make = Maker(TimeoutError())
    make.gate.set()
    with pytest.raises(TimeoutError):
        await airport.ask(make)
    assert airport.counted == {"failed": 1}


@pytest.mark.parametrize("error", [BadAnswer("no"), None])
async def test_who_leaves_just_as_the_flight_ends_disturbs_nobody(airport: Airport, error: Exception | None) -> None:
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: heard.append(context))
    make = Maker(error)
    crowd = [airport.ask(make) for _ in range(3)]
    await settle()
    make.gate.set()
    for task in crowd[:2]:
        task.cancel()
    found = await asyncio.gather(*crowd, return_exceptions=True)
    assert type(found[2]) is (BadAnswer if error else Outcome)
    await settle()
    assert await airport.store.lease("k", "another", 1)
    make = Maker()
    del crowd, found
    gc.collect()
    await settle()
    assert heard == []


async def test_a_failure_grows_no_traceback_with_those_who_hear_of_it(airport: Airport) -> None:
    error = BadAnswer("no")
    make = Maker(error)
    crowd = [airport.ask(make) for _ in range(200)]
    await settle()
    make.gate.set()
    await asyncio.gather(*crowd, return_exceptions=True)
    depth, traceback = 0, error.__traceback__
    while traceback:
        depth, traceback = depth + 1, traceback.tb_next
    assert depth < 20


async def test_work_that_cancels_itself_leaves_nobody_waiting(airport: Airport) -> None:
    async def make() -> Made:
        raise asyncio.CancelledError

    with pytest.raises(Unavailable):
        await airport.ask(make)


async def test_what_must_not_be_stored_is_shared_all_the_same(airport: Airport) -> None:
    make = Maker(store=False)
    crowd = [airport.ask(make) for _ in range(3)]
    await settle()
    make.gate.set()
    assert {outcome.value for outcome in await asyncio.gather(*crowd)} == {b"1"}
    assert (await airport.ask(make)).value == b"2"


async def test_a_value_may_be_kept_under_a_second_key(airport: Airport) -> None:
    make = Maker(also="second")
    make.gate.set()
    await airport.ask(make)
    await settle()
    entry = await airport.flights.stale("second")
    assert entry is not None
    assert entry.value == b"1"


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
