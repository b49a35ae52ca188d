"""Whatever is asked for at once is made once; who leaves and what fails leaves nobody waiting."""

from __future__ import annotations

import asyncio
import gc

import pytest

from services.gateway.cache.flight import Made, Outcome
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, Unavailable
from tests.services.gateway.cache.flights import Airport, Maker, settle, until

pytestmark = pytest.mark.anyio


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
