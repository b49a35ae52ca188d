"""What every cache promises, whatever it is made of."""

from __future__ import annotations

import pytest

from tests.services.gateway.cache.conftest import MAX_ENTRY_BYTES, Timed

pytestmark = pytest.mark.anyio
JITTERED = 1.11
"""A time to live is over after this many of itself, and not before EARLY of it."""
EARLY = 0.89


async def test_nothing_is_found_where_nothing_was_put(timed: Timed) -> None:
    assert await timed.store.get("k") is None


@pytest.mark.parametrize("value", [b"", b"plain", bytes(range(256)), b"x" * MAX_ENTRY_BYTES])
async def test_what_was_put_comes_back_byte_for_byte(timed: Timed, value: bytes) -> None:
    await timed.store.put("k", value, 10, 10)
    entry = await timed.store.get("k")
    assert entry is not None
    assert (entry.value, entry.fresh, entry.age_s) == (value, True, 0.0)


async def test_an_entry_is_fresh_then_stale_then_gone(timed: Timed) -> None:
    await timed.store.put("k", b"v", 10, 20)
    timed.clock.advance(10 * EARLY)
    young = await timed.store.get("k")
    timed.clock.advance(10 * (JITTERED - EARLY))
    old = await timed.store.get("k")
    timed.clock.advance(20 * JITTERED)
    assert young is not None
    assert old is not None
    assert (young.fresh, young.age_s) == (True, pytest.approx(10 * EARLY))
    assert (old.fresh, old.age_s, old.value) == (False, pytest.approx(10 * JITTERED), b"v")
    assert await timed.store.get("k") is None


async def test_without_any_time_to_live_nothing_is_kept(timed: Timed) -> None:
    await timed.store.put("k", b"v", 0, 0)
    assert await timed.store.get("k") is None


async def test_the_last_put_counts(timed: Timed) -> None:
    await timed.store.put("k", b"old", 10, 10)
    timed.clock.advance(5)
    await timed.store.put("k", b"new", 10, 10)
    timed.clock.advance(8)
    entry = await timed.store.get("k")
    assert entry is not None
    assert (entry.value, entry.fresh) == (b"new", True)


async def test_deleting_takes_the_named_keys_and_no_others(timed: Timed) -> None:
    for key in ("a", "b", "c"):
        await timed.store.put(key, key.encode(), 10, 10)
    await timed.store.delete(["a", "c", "never there"])
    await timed.store.delete([])
    assert [await timed.store.get(key) is not None for key in ("a", "b", "c")] == [False, True, False]


async def test_what_lies_under_a_prefix_is_forgotten_and_nothing_else(timed: Timed) -> None:
    under = [f"td1:t:cache:user:a:{n}" for n in range(30)]
    others = ["td1:t:cache:user:b:1", "td1:t:cache:ranking:a", "td1:t2:cache:user:a:1"]
    for key in (*under, *others):
        await timed.store.put(key, b"v", 10, 10)
        assert await timed.store.get(key) is not None
    assert await timed.store.forget("td1:t:cache:user:a:") == len(under)
    assert [await timed.store.get(key) for key in under] == [None] * len(under)
    assert all([await timed.store.get(key) is not None for key in others])
    assert await timed.store.forget("td1:t:cache:user:a:") == 0


async def test_what_is_too_large_is_not_kept(timed: Timed) -> None:
    await timed.store.put("k", b"x" * (MAX_ENTRY_BYTES + 1), 10, 10)
    assert await timed.store.get("k") is None


async def test_a_lease_has_one_owner(timed: Timed) -> None:
    assert await timed.store.lease("k", "a", 60_000)
    assert not await timed.store.lease("k", "b", 60_000)
    assert await timed.store.lease("other", "b", 60_000)


async def test_a_lease_is_no_entry(timed: Timed) -> None:
    await timed.store.lease("k", "a", 60_000)
    assert await timed.store.get("k") is None


async def test_a_released_lease_is_free_and_only_its_owner_releases_it(timed: Timed) -> None:
    await timed.store.lease("k", "a", 60_000)
    await timed.store.release("k", "b")
    assert not await timed.store.lease("k", "b", 60_000)
    await timed.store.release("k", "a")
    assert await timed.store.lease("k", "b", 60_000)


async def test_an_owner_who_is_late_releases_nothing_of_the_next(timed: Timed) -> None:
    await timed.store.lease("k", "a", 30)
    await timed.sleep(0.06)
    assert await timed.store.lease("k", "b", 60_000)
    await timed.store.release("k", "a")
    assert not await timed.store.lease("k", "a", 60_000)


async def test_its_owner_renews_a_lease(timed: Timed) -> None:
    await timed.store.lease("k", "a", 200)
    assert await timed.store.lease("k", "a", 60_000)
    await timed.sleep(0.25)
    assert not await timed.store.lease("k", "b", 60_000)


async def test_a_closed_store_can_be_closed_again(timed: Timed) -> None:
    await timed.store.put("k", b"v", 10, 10)
    await timed.store.aclose()
    await timed.store.aclose()
