"""k-core against a loop over sets."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.data.filter import k_core

EVENTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=80)


def plain_core(events: list[tuple[int, int]], min_user: int, min_item: int) -> list[int]:
    kept = list(range(len(events)))
    while True:
        users = Counter(events[e][0] for e in kept)
        items = Counter(events[e][1] for e in kept)
        fewer = [e for e in kept if users[events[e][0]] >= min_user and items[events[e][1]] >= min_item]
        if fewer == kept:
            return kept
        kept = fewer


@given(EVENTS, st.integers(0, 5), st.integers(0, 5))
def test_the_core_equals_a_plain_loop(events: list[tuple[int, int]], min_user: int, min_item: int) -> None:
    users, items = (np.array([e[side] for e in events], np.int32) for side in (0, 1))
    assert k_core(users, items, min_user, min_item).tolist() == plain_core(events, min_user, min_item)


@given(EVENTS)
def test_zero_and_one_keep_everything(events: list[tuple[int, int]]) -> None:
    users, items = (np.array([e[side] for e in events], np.int32) for side in (0, 1))
    assert len(k_core(users, items, 0, 0)) == len(k_core(users, items, 1, 1)) == len(events)


def test_one_removal_pulls_the_next() -> None:
    """Item 2 has one event; without it user 1 has one; without that item 1 has one; then nothing stands."""
    users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    assert len(k_core(users, items, 2, 2)) == 0
