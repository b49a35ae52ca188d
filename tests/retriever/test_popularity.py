"""The most-clicked items, in an order that anybody can check."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.popularity import Popularity, count
from shared.history import History
from shared.protocols import Retriever
from tests.contracts.retriever import RetrieverContract

NOBODY = [History(())]


class TestPopularity(RetrieverContract):
    items = 30

    @pytest.fixture
    def retriever(self) -> Retriever:
        return Popularity(np.array([0, *np.random.default_rng(0).integers(0, 5, self.items)]))


def test_the_most_clicked_come_first_with_their_share_of_all_events() -> None:
    [found] = Popularity(np.array([0, 1, 5, 2])).retrieve(NOBODY, 3)
    assert [(c.item, c.score) for c in found] == [(2, 0.625), (3, 0.25), (1, 0.125)]


def test_equal_counts_keep_catalogue_order() -> None:
    [found] = Popularity(np.array([0, 2, 7, 2, 7, 2])).retrieve(NOBODY, 5)
    assert [c.item for c in found] == [2, 4, 1, 3, 5]


def test_an_item_that_nobody_clicked_comes_last_with_score_zero() -> None:
    [found] = Popularity(np.array([0, 0, 3])).retrieve(NOBODY, 5)
    assert [(c.item, c.score) for c in found] == [(2, 1.0), (1, 0.0)]


def test_no_events_at_all_still_give_the_catalogue() -> None:
    [found] = Popularity(np.zeros(4, dtype=np.int64)).retrieve(NOBODY, 5)
    assert [(c.item, c.score) for c in found] == [(1, 0.0), (2, 0.0), (3, 0.0)]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20), st.integers(1, 25), st.sets(st.integers(0, 20)))
@settings(derandomize=True, deadline=None)
def test_the_list_is_the_sorted_catalogue_without_the_excluded(counts: list[int], k: int, banned: set[int]) -> None:
    ordered = sorted(range(1, len(counts) + 1), key=lambda item: (-counts[item - 1], item))
    [found] = Popularity(np.array([0, *counts])).retrieve(NOBODY, k, [sorted(banned)])
    assert [c.item for c in found] == [item for item in ordered if item not in banned][:k]


def test_every_event_is_counted_repeats_too() -> None:
    sequences = [np.array([1, 1, 3]), np.array([3, 1]), np.array([], dtype=np.int64)]
    assert count(sequences, 4).tolist() == [0, 3, 0, 2, 0]
