"""What every store of users, sessions, item states and records does."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.ports import Click, Record, State, Stored, Who
from services.gateway.state.bounds import Bounds
from shared.errors import BadInput
from shared.wire.users import ItemState
from tests.services.gateway.state.conftest import Open
from tests.services.gateway.state.words import NOW, S1, U1, T, dismissed, stored, took

pytestmark = pytest.mark.anyio

SHORT_S = 0.2
HIDDEN = ItemState(hidden=True)
RECORD = Record("r1", ("a", "b"), "llamarec", "ranker")


async def test_nobody_has_nothing(state: State) -> None:
    assert await state.read(T, [U1, S1]) == await state.read(T, [S1, U1])
    assert await stored(state) == Stored()


async def test_events_are_kept_in_the_order_of_their_timestamps(state: State) -> None:
    await state.append(T, [took("e1", "a", 10), took("e2", "c", 30)], NOW)
    await state.append(T, [took("e3", "b", 20), took("e4", "first", 5)], NOW)
    assert (await stored(state)).items == ("first", "a", "b", "c")


async def test_equal_timestamps_keep_the_order_of_arrival(state: State) -> None:
    await state.append(T, [took("e1", "z", 10), took("e2", "y", 10)], NOW)
    await state.append(T, [took("e3", "x", 10), took("e4", "before", 9)], NOW)
    assert (await stored(state)).items == ("before", "z", "y", "x")


async def test_an_event_without_a_timestamp_happened_when_it_arrived(state: State) -> None:
    await state.append(T, [took("e1", "later", NOW + 1), took("e2", "now"), took("e3", "earlier", NOW - 1)], NOW)
    assert (await stored(state)).items == ("earlier", "now", "later")


async def test_an_item_taken_twice_stands_twice(state: State) -> None:
    await state.append(T, [took("e1", "a", 1), took("e2", "b", 2), took("e3", "a", 3)], NOW)
    assert (await stored(state)).items == ("a", "b", "a")


async def test_the_same_event_counts_once_also_within_a_call(state: State) -> None:
    first = await state.append(T, [took("e1", "a", 1), took("e1", "b", 2)], NOW)
    again = await state.append(T, [took("e1", "c", 3), took("e2", "d", 4)], NOW)
    assert (first.accepted, first.duplicates, again.accepted, again.duplicates) == (1, 1, 1, 1)
    assert (await stored(state)).items == ("a", "d")


async def test_two_users_may_use_the_same_event_id(state: State) -> None:
    found = await state.append(T, [took("e1", "a", user_id="u1"), took("e1", "a", user_id="u2")], NOW)
    assert (found.accepted, found.versions) == (2, {U1: 1, Who("user", "u2"): 1})


async def test_the_version_counts_events_and_a_read_sees_it(state: State) -> None:
    first = await state.append(T, [took("e1", "a", 2), dismissed("e2", "b", 1)], NOW)
    again = await state.append(T, [took("e1", "a", 2), took("e3", "c", 3)], NOW)
    assert (first.versions[U1], again.versions[U1]) == (2, 3)
    assert (await stored(state)).version == 3


async def test_a_dismissed_item_is_seen_and_not_in_the_history(state: State) -> None:
    await state.append(T, [took("e1", "a"), dismissed("e2", "b")], NOW)
    found = await stored(state)
    assert (found.items, found.seen) == (("a",), {"b"})


async def test_an_event_of_a_user_and_a_session_belongs_to_both(state: State) -> None:
    found = await state.append(T, [took("e1", "a", user_id="u1", session_id="s1")], NOW)
    assert (found.accepted, found.versions) == (1, {U1: 1, S1: 1})
    assert (await state.read(T, [S1, U1])).stored == (Stored(("a",), version=1), Stored(("a",), version=1))


async def test_a_user_and_a_session_of_the_same_id_are_two(state: State) -> None:
    await state.append(T, [took("e1", "a", user_id="x"), took("e2", "b", session_id="x")], NOW)
    assert (await stored(state, Who("user", "x"))).items == ("a",)
    assert (await stored(state, Who("session", "x"))).items == ("b",)


async def test_a_full_history_lets_the_oldest_go_to_the_seen_items(opened: Open) -> None:
    state = opened(Bounds(history=3))
    await state.append(T, [took(f"e{n}", f"i{n}", n) for n in range(1, 6)], NOW)
    found = await stored(state)
    assert (found.items, found.seen) == (("i3", "i4", "i5"), {"i1", "i2"})


async def test_an_event_older_than_all_of_a_full_history_is_accepted_and_seen(opened: Open) -> None:
    state = opened(Bounds(history=2))
    await state.append(T, [took("e1", "a", 10), took("e2", "b", 11)], NOW)
    late = await state.append(T, [took("e3", "old", 1)], NOW)
    found = await stored(state)
    assert (late.accepted, found.items, found.seen, found.version) == (1, ("a", "b"), {"old"}, 3)


async def test_the_seen_items_are_bounded_to_the_most_recent(opened: Open) -> None:
    state = opened(Bounds(seen=2))
    await state.append(T, [dismissed("e1", "new", 30), dismissed("e2", "old", 10), dismissed("e3", "mid", 20)], NOW)
    await state.append(T, [dismissed("e4", "mid", 5), dismissed("e5", "newest", 40)], NOW)
    assert (await stored(state)).seen == {"new", "newest"}


async def test_an_item_seen_again_stays_for_longer(opened: Open) -> None:
    state = opened(Bounds(seen=2))
    await state.append(T, [dismissed("e1", "a", 10), dismissed("e2", "b", 20), dismissed("e3", "a", 30)], NOW)
    await state.append(T, [dismissed("e4", "c", 25)], NOW)
    assert (await stored(state)).seen == {"a", "c"}


async def test_event_ids_are_known_for_as_many_events_as_agreed(opened: Open) -> None:
    state = opened(Bounds(event_ids=3))
    await state.append(T, [took(f"e{n}", "a") for n in range(4)], NOW)
    again = await state.append(T, [took(f"e{n}", "a") for n in (1, 2, 3)], NOW)
    assert again.accepted == 0
    assert (await state.append(T, [took("e0", "a")], NOW)).accepted == 1


async def test_a_session_is_forgotten_and_a_user_is_not(opened: Open) -> None:
    state = opened(Bounds(session_ttl_s=SHORT_S))
    await state.append(T, [took("e1", "a", session_id="s1", user_id="u1"), dismissed("e2", "b", session_id="s1")], NOW)
    await asyncio.sleep(SHORT_S * 1.5)
    assert await stored(state, S1) == Stored()
    assert (await stored(state)).items == ("a",)
    assert (await state.append(T, [took("e1", "a", session_id="s1")], NOW)).accepted == 1


async def test_an_erased_user_starts_anew_and_stays_erased(state: State) -> None:
    await state.append(T, [took("e1", "a"), dismissed("e2", "b")], NOW)
    assert await state.erase(T, "u1") > 0
    assert await stored(state) == Stored(version=2, erased=True)
    found = await state.append(T, [took("e1", "c")], NOW)
    assert (found.accepted, found.versions[U1]) == (1, 3)
    assert await stored(state) == Stored(("c",), version=3, erased=True)


async def test_an_erasure_takes_the_sessions_of_the_users_events_along(state: State) -> None:
    await state.append(T, [took("e1", "a", session_id="s1", user_id="u1"), took("e2", "b", session_id="s2")], NOW)
    assert await state.erase(T, "u1") > 0
    assert await stored(state, S1) == Stored()
    assert (await stored(state, Who("session", "s2"))).items == ("b",)


async def test_who_was_never_here_can_be_erased_twice(state: State) -> None:
    assert (await state.erase(T, "u1"), await state.erase(T, "u1")) == (0, 0)
    assert await stored(state) == Stored(erased=True)
    assert await stored(state, Who("session", "u1")) == Stored()
    assert await stored(state, tenant="other") == Stored()


async def test_an_erasure_of_an_erased_user_keeps_the_count(state: State) -> None:
    await state.append(T, [took("e1", "a")], NOW)
    await state.erase(T, "u1")
    await state.append(T, [took("e2", "b"), took("e3", "c")], NOW)
    await state.erase(T, "u1")
    assert (await stored(state)).version == 3


async def test_the_states_of_items_are_those_that_are_not_the_default(state: State) -> None:
    renamed = ItemState(available=False, categories=["Horror", "Côté"])
    await state.set_item(T, "a", HIDDEN)
    await state.set_item(T, "b", renamed)
    await state.set_item(T, "c", ItemState())
    found = await state.items(T)
    assert found.items == {"a": HIDDEN, "b": renamed}
    assert (found.of("a"), found.of("c")) == (HIDDEN, None)


async def test_every_change_of_an_items_state_makes_a_new_version(state: State) -> None:
    versions = [0, *[await state.set_item(T, "a", one) for one in (HIDDEN, ItemState(available=False), ItemState())]]
    assert versions == sorted(set(versions))
    assert (await state.read(T, [])).items_version == (await state.items(T)).version == versions[-1]
    assert not (await state.items(T)).items


async def test_what_was_read_of_the_items_does_not_change_later(state: State) -> None:
    await state.set_item(T, "a", HIDDEN)
    before = await state.items(T)
    await state.set_item(T, "b", HIDDEN)
    assert before.items == {"a": HIDDEN}
    assert (await state.items(T)).items == {"a": HIDDEN, "b": HIDDEN}


async def test_too_many_item_states_are_refused_and_a_known_one_is_not(opened: Open) -> None:
    state = opened(Bounds(item_states=2))
    await state.set_item(T, "a", HIDDEN)
    version = await state.set_item(T, "b", HIDDEN)
    with pytest.raises(BadInput, match="TANDEM_MAX_ITEM_STATES"):
        await state.set_item(T, "c", HIDDEN)
    assert (await state.items(T)).version == version
    await state.set_item(T, "b", ItemState(available=False))
    await state.set_item(T, "b", ItemState())
    await state.set_item(T, "c", HIDDEN)
    assert set((await state.items(T)).items or {}) == {"a", "c"}


async def test_an_interaction_with_a_recommended_item_is_a_click_once(state: State) -> None:
    await state.record(T, "u1", RECORD)
    click = took("e1", "b", recommendation_id="r1")
    assert list((await state.append(T, [click, click], NOW)).clicked) == [Click("llamarec", "ranker")]
    assert list((await state.append(T, [click], NOW)).clicked) == []


async def test_an_event_of_a_user_and_a_session_is_one_click(state: State) -> None:
    await state.record(T, None, RECORD)
    found = await state.append(T, [took("e1", "b", recommendation_id="r1", user_id="u1", session_id="s1")], NOW)
    assert list(found.clicked) == [Click("llamarec", "ranker")]


async def test_what_is_no_click(state: State) -> None:
    await state.record(T, "u1", RECORD)
    events = [
        took("e1", "elsewhere", recommendation_id="r1"),
        took("e2", "a", recommendation_id="unknown"),
        took("e3", "a"),
        dismissed("e4", "b", recommendation_id="r1"),
    ]
    assert list((await state.append(T, events, NOW)).clicked) == []
    assert list((await state.append("other", [took("e1", "a", recommendation_id="r1")], NOW)).clicked) == []


async def test_a_record_is_forgotten(opened: Open) -> None:
    state = opened(Bounds(record_ttl_s=SHORT_S))
    await state.record(T, "u1", RECORD)
    await asyncio.sleep(SHORT_S * 1.5)
    assert list((await state.append(T, [took("e1", "a", recommendation_id="r1")], NOW)).clicked) == []


HOSTILE = ("a:b", "a", "b", "{x}", "x", "", "%3A", ":", "ü", "\N{CJK UNIFIED IDEOGRAPH-6F22}", "a b", "*", "a:", ":b")


async def test_no_tenant_and_no_id_reaches_into_another(state: State) -> None:
    names = [(tenant, user) for tenant in HOSTILE for user in HOSTILE if user]
    for tenant, user in names:
        await state.append(tenant, [took("e1", f"{tenant}/{user}", user_id=user)], NOW)
        await state.append(tenant, [took("e1", f"session {tenant}/{user}", session_id=user)], NOW)
    for tenant, user in names:
        assert (await stored(state, Who("user", user), tenant)).items == (f"{tenant}/{user}",)
        assert (await stored(state, Who("session", user), tenant)).items == (f"session {tenant}/{user}",)
    await state.erase("a", "b")
    untouched = [name for name in names if name != ("a", "b")]
    assert all([(await stored(state, Who("user", user), tenant)).version for tenant, user in untouched])
    assert all([not (await stored(state, Who("user", user), tenant)).erased for tenant, user in untouched])


async def test_item_states_and_records_of_one_tenant_are_not_anothers(state: State) -> None:
    for tenant in HOSTILE:
        await state.set_item(tenant, f"item of {tenant}", HIDDEN)
        await state.record(tenant, "u1", Record("r1", ("a",), tenant, "ranker"))
    for tenant in HOSTILE:
        assert (await state.items(tenant)).items == {f"item of {tenant}": HIDDEN}
        found = await state.append(tenant, [took("e1", "a", recommendation_id="r1")], NOW)
        assert list(found.clicked) == [Click(tenant, "ranker")]
