"""Sets of items, held out per user."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.data.holdout import holdout
from tests.ranker import tiny

SEQUENCES = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=60), min_size=1, max_size=6)


@given(SEQUENCES, st.integers(0, 5))
def test_random_parts_are_disjoint_and_hold_every_item_once(sequences: list[list[int]], seed: int) -> None:
    parts = holdout(tiny.prepared(sequences, tiny.catalog(40)), "random", seed)
    for sequence, *pieces in zip(sequences, parts.train, parts.valid, parts.test, strict=True):
        assert sorted(np.concatenate(pieces).tolist()) == sorted(set(sequence))
        if len(set(sequence)) >= 3:
            tenth = max(1, round(0.1 * len(set(sequence))))
            assert (len(pieces[1]), len(pieces[2])) == (tenth, tenth)
            assert len(pieces[0])
        else:
            assert not len(pieces[1])


@given(SEQUENCES)
def test_the_last_items_are_those_of_the_other_protocols(sequences: list[list[int]]) -> None:
    parts = holdout(tiny.prepared(sequences, tiny.catalog(40)), "last", 0)
    for sequence, train, valid, test in zip(sequences, parts.train, parts.valid, parts.test, strict=True):
        if len(sequence) >= 3:
            assert (valid.tolist(), test.tolist()) == ([sequence[-2]], [sequence[-1]])
            assert train.tolist() == list(dict.fromkeys(sequence[:-2]))
        else:
            assert (len(valid), len(test), train.tolist()) == (0, 0, list(dict.fromkeys(sequence)))


def test_another_seed_holds_out_others() -> None:
    data = tiny.prepared([list(range(1, 41))] * 3, tiny.catalog(40))
    one, again, other = (holdout(data, "random", seed).test for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0], one[1])
