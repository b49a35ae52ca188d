"""What is kept of histories: under keys that hold the whole history and the version, within a bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.states import BACK, OVERHEAD, SHARED_FROM, States

seeded = settings(derandomize=True, deadline=None, max_examples=100)
HISTORIES = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def keys(items: list[int], version: str = "34cd") -> list[bytes]:
    return States(version, 1000).keys(np.array(items))


@given(HISTORIES)
@seeded
def test_the_keys_are_those_of_the_shorter_histories_one_by_one(items: list[int]) -> None:
    shorter = [keys(items[:stop])[0] for stop in range(len(items), 0, -1)]
    assert keys(items) == shorter[: BACK + 1]


@given(HISTORIES, HISTORIES)
@seeded
def test_two_histories_share_a_key_only_where_they_are_the_same(one: list[int], other: list[int]) -> None:
    assert (keys(one)[0] == keys(other)[0]) == (one == other)


def test_another_version_has_other_keys() -> None:
    assert not set(keys([1, 2, 3])) & set(keys([1, 2, 3], version="other"))


def put(states: States, items: Sequence[int], state: bytes) -> bytes:
    key = states.keys(np.array(items))[0]
    states.keep(key, state, len(items))
    return key


def nearest(states: States, items: Sequence[int]) -> tuple[int, bytes | None]:
    [found] = states.nearest([np.array(items)])
    assert found.key == states.keys(np.array(items))[0]
    return found.missing, found.state


def test_the_longest_known_part_is_found() -> None:
    states = States("v", 10_000)
    put(states, [1, 2], b"two")
    put(states, [1, 2, 3, 4], b"four")
    assert nearest(states, [1, 2, 3, 4, 5, 6]) == (2, b"four")
    assert nearest(states, [1, 2, 3, 4]) == (0, b"four")
    assert nearest(states, [1, 2, 3]) == (1, b"two")
    assert nearest(states, [2, 2, 3]) == (0, None)


def test_nothing_older_than_a_few_items_is_looked_for() -> None:
    states = States("v", 10_000)
    put(states, [1], b"state")
    assert nearest(states, [1] * (1 + BACK)) == (BACK, b"state")
    assert nearest(states, [1] * (2 + BACK)) == (0, None)


def test_the_least_recently_used_goes_first_and_the_bytes_are_bounded() -> None:
    states = States("v", 3 * (OVERHEAD + 100))
    for item in (1, 2, 3):
        put(states, [item], bytes(100))
    nearest(states, [1])
    put(states, [4], bytes(100))
    assert [nearest(states, [item])[1] is not None for item in (1, 2, 3, 4)] == [True, False, True, True]
    assert len(states) == 3


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    states = States("v", OVERHEAD)
    put(states, [1], b"1")
    assert len(states) == 0


class Elsewhere:
    """A `Shared` in this process, which notes what it is asked."""

    def __init__(self) -> None:
        self.kept: dict[bytes, bytes] = {}
        self.asked: list[int] = []

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked.append(len(keys))
        return [self.kept.get(key) for key in keys]

    def write(self, key: bytes, state: bytes) -> None:
        self.kept[key] = state

    def watch(self, heard: Callable[[str], None]) -> None: ...

    def close(self) -> None: ...


LONG = list(range(1, SHARED_FROM + 1))


def test_what_one_process_made_another_finds_and_asks_for_once() -> None:
    elsewhere = Elsewhere()
    put(States("v", 10_000, shared=elsewhere), LONG, b"state")
    other = States("v", 10_000, shared=elsewhere)
    assert nearest(other, [*LONG, 7]) == (1, b"state")
    assert nearest(other, [*LONG, 7]) == (1, b"state")
    assert elsewhere.asked == [1 + BACK]


def test_several_users_are_one_question() -> None:
    elsewhere = Elsewhere()
    put(States("v", 10_000, shared=elsewhere), [5, *LONG], b"five")
    histories = [np.array([user, *LONG, 7]) for user in (4, 5, 6)]
    found = States("v", 10_000, shared=elsewhere).nearest(histories)
    assert [one.state for one in found] == [None, b"five", None]
    assert elsewhere.asked == [3 * (1 + BACK)]


def test_short_histories_stay_in_this_process() -> None:
    elsewhere = Elsewhere()
    states = States("v", 10_000, shared=elsewhere)
    put(states, LONG[:-1], b"state")
    assert nearest(States("v", 10_000, shared=elsewhere), LONG[:-1]) == (0, None)
    assert (elsewhere.kept, elsewhere.asked) == ({}, [])
