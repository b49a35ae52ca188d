"""What is kept of histories: under keys that hold the whole history and the version, within a bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.states import BACK, OVERHEAD, States

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


def test_the_longest_known_part_is_found() -> None:
    states = States("v", 10_000)
    for stop in (2, 4):
        states.put(states.keys(np.arange(1, stop + 1))[0], bytes([stop]))
    assert states.nearest(states.keys(np.arange(1, 7))) == (2, b"\x04")
    assert states.nearest(states.keys(np.arange(1, 5))) == (0, b"\x04")
    assert states.nearest(states.keys(np.arange(2, 7))) is None


def test_nothing_older_than_a_few_items_is_looked_for() -> None:
    states = States("v", 10_000)
    states.put(states.keys(np.array([1]))[0], b"state")
    assert states.nearest(states.keys(np.ones(1 + BACK))) == (BACK, b"state")
    assert states.nearest(states.keys(np.ones(2 + BACK))) is None


def test_the_least_recently_used_goes_first_and_the_bytes_are_bounded() -> None:
    states = States("v", 3 * (OVERHEAD + 100))
    for name in (b"a", b"b", b"c"):
        states.put(name, bytes(100))
    states.get(b"a")
    states.put(b"d", bytes(100))
    assert states.get(b"b") is None
    assert [states.get(name) is not None for name in (b"a", b"c", b"d")] == [True] * 3
    assert len(states) == 3


def test_what_is_larger_than_the_bound_is_not_kept() -> None:
    states = States("v", OVERHEAD)
    states.put(b"a", b"1")
    assert len(states) == 0
