"""Which items count as seen, and where the truth ends up."""

from __future__ import annotations

import numpy as np

from retriever.evaluate import excluded, ranks, retrieved
from retriever.popularity import Popularity
from shared.data.split import Case
from shared.metrics import MISSED


def case(history: list[int], truth: int) -> Case:
    return Case(0, np.array(history), truth)


def test_the_window_excludes_what_the_model_sees_and_the_history_everything() -> None:
    asked = case([5, 1, 2, 1, 3], truth=9)
    assert excluded(asked, "window", 3).tolist() == [1, 2, 3]
    assert excluded(asked, "history", 3).tolist() == [1, 2, 3, 5]


def test_a_truth_that_the_user_had_before_is_missed_as_in_serving() -> None:
    popularity, asked = Popularity(np.array([0, 9, 7, 5, 3])), [case([1, 2, 3], 2), case([1, 2, 3], 4)]
    for exclusion in ("window", "history"):
        items_UK, _ = retrieved(popularity, asked, 4, exclusion, 3, what=None)  # type: ignore[arg-type]
        assert ranks(items_UK, asked).tolist() == [MISSED, 1]


def test_ranks_count_from_one_over_the_catalogue_without_the_seen() -> None:
    """By popularity 1 > 2 > 3 > 4. The user has 1, so that 3 is second."""
    popularity = Popularity(np.array([0, 9, 7, 5, 3]))
    asked = [case([1], 3), case([4], 1), case([1, 2], 4)]
    items_UK, scores_UK = retrieved(popularity, asked, 2, "history", 10, what=None)
    assert items_UK.tolist() == [[2, 3], [1, 2], [3, 4]]
    assert ranks(items_UK, asked).tolist() == [2, 1, 2]
    assert (np.diff(scores_UK) <= 0).all()


def test_a_truth_below_the_cutoff_is_missed() -> None:
    asked = [case([1], 4)]
    items_UK, _ = retrieved(Popularity(np.array([0, 9, 7, 5, 3])), asked, 2, "window", 10, what=None)
    assert ranks(items_UK, asked).tolist() == [MISSED]


def test_where_the_catalogue_runs_out_there_is_item_zero_at_minus_infinity() -> None:
    items_UK, scores_UK = retrieved(Popularity(np.array([0, 2, 1])), [case([1], 2)], 4, "history", 5, what=None)
    assert items_UK.tolist() == [[2, 0, 0, 0]]
    assert np.isneginf(scores_UK[0, 1:]).all()


def test_users_beyond_one_chunk_are_answered_in_order() -> None:
    asked = [case([1 + n % 3], 1) for n in range(2500)]
    items_UK, _ = retrieved(Popularity(np.array([0, 9, 7, 5])), asked, 1, "history", 5, what=None)
    assert items_UK[:, 0].tolist() == [1 if n % 3 else 2 for n in range(2500)]
