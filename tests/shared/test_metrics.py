"""Against plain loops, hand-worked numbers, and what every metric must do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.metrics import MISSED, auc, interval, mrr, ndcg, paired, rank_of, recall, resampled_auc, table, uauc

RANKS = st.lists(st.integers(0, 30), max_size=50)


def plain(ranks: list[int], k: int) -> tuple[list[float], list[float], list[float]]:
    hits = [1.0 if rank != MISSED and rank <= k else 0.0 for rank in ranks]
    gains = [1 / math.log2(1 + rank) if hit else 0.0 for rank, hit in zip(ranks, hits, strict=True)]
    reciprocals = [1 / rank if hit else 0.0 for rank, hit in zip(ranks, hits, strict=True)]
    return hits, gains, reciprocals


@given(RANKS, st.integers(1, 25))
def test_rank_metrics_equal_plain_loops(ranks: list[int], k: int) -> None:
    array = np.array(ranks, dtype=np.int64)
    for measure, expected in zip((recall, ndcg, mrr), plain(ranks, k), strict=True):
        np.testing.assert_allclose(measure(array, k), expected, atol=1e-12)


def test_rank_metrics_of_a_worked_example() -> None:
    """Three users: found first, found third, missed. NDCG@5 = (1 + 1/log2(4) + 0) / 3."""
    measured = table(np.array([1, 3, MISSED]), cutoffs=(1, 5))
    assert measured["recall@1"] == measured["ndcg@1"] == measured["mrr@1"] == pytest.approx(1 / 3)
    assert measured["recall@5"] == pytest.approx(2 / 3)
    assert measured["ndcg@5"] == pytest.approx(0.5)
    assert measured["mrr@5"] == pytest.approx(4 / 9)


def test_the_cutoff_itself_counts() -> None:
    ranks = np.array([10, 11])
    assert recall(ranks, 10).tolist() == [1.0, 0.0]


@given(RANKS)
def test_metrics_grow_with_k_and_stay_in_order(ranks: list[int]) -> None:
    array = np.array(ranks, dtype=np.int64)
    for measure in (recall, ndcg, mrr):
        assert (measure(array, 5) <= measure(array, 10)).all()
    assert (mrr(array, 10) <= ndcg(array, 10) + 1e-12).all()
    assert (ndcg(array, 10) <= recall(array, 10)).all()


def test_an_oracle_is_perfect_and_a_miss_is_nothing() -> None:
    assert set(table(np.ones(7, dtype=int)).values()) == {1.0}
    assert set(table(np.full(7, MISSED)).values()) == {0.0}


def test_no_users_have_no_mean() -> None:
    assert all(math.isnan(value) for value in table(np.array([], dtype=int)).values())


def test_a_random_order_of_n_recalls_k_of_n() -> None:
    ranks = np.random.default_rng(0).integers(1, 101, 200_000)
    assert table(ranks)["recall@10"] == pytest.approx(0.1, abs=0.003)


def test_rank_of_counts_from_one_and_knows_a_truncated_list() -> None:
    assert rank_of(7, [7, 8]) == 1
    assert rank_of(8, [7, 8]) == 2
    assert rank_of(9, [7, 8]) == rank_of(9, []) == MISSED


LABELLED = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), max_size=40)


def plain_auc(labels: np.ndarray, scores: np.ndarray) -> float:
    pairs = [
        1.0 if positive > negative else 0.5 if positive == negative else 0.0
        for positive in scores[labels == 1]
        for negative in scores[labels == 0]
    ]
    return sum(pairs) / len(pairs) if pairs else math.nan


@given(LABELLED)
def test_auc_equals_all_pairs_with_ties_halved(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], float)
    assert auc(labels, scores) == pytest.approx(plain_auc(labels, scores), nan_ok=True)


@given(LABELLED, st.integers(1, 5))
def test_uauc_is_the_mean_over_users_with_both_classes(rows: list[tuple[int, int]], users: int) -> None:
    labels, scores = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], float)
    user = np.arange(len(rows)) % users
    values = [plain_auc(labels[user == u], scores[user == u]) for u in range(users)]
    valid = [value for value in values if not math.isnan(value)]
    expected = sum(valid) / len(valid) if valid else math.nan
    assert uauc(user, labels, scores) == pytest.approx(expected, nan_ok=True)


def test_auc_of_worked_examples() -> None:
    labels = np.array([1, 0, 1, 0])
    assert auc(labels, np.array([4.0, 1.0, 3.0, 2.0])) == 1.0
    assert auc(labels, -np.array([4.0, 1.0, 3.0, 2.0])) == 0.0
    assert auc(labels, np.zeros(4)) == 0.5
    assert auc(labels, np.array([0.9, 0.8, 0.3, 0.1])) == 0.75
    assert math.isnan(auc(np.ones(3, int), np.arange(3.0)))


@given(LABELLED)
def test_auc_sees_only_the_order(rows: list[tuple[int, int]]) -> None:
    labels, scores = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], float)
    assert auc(labels, scores) == pytest.approx(auc(labels, np.exp(scores) * 7), nan_ok=True)


@given(LABELLED.filter(bool), st.integers(1, 5))
def test_resampled_auc_is_the_auc_of_the_pairs_that_those_drawn_bring(rows: list[tuple[int, int]], users: int) -> None:
    labels, scores = np.array([r[0] for r in rows], int), np.array([r[1] for r in rows], float)
    user = np.arange(len(rows)) % users
    found, per_user = resampled_auc(user, labels, scores, seed=3, resamples=8)
    there = len(np.unique(user))
    for r, times in enumerate(np.random.default_rng(3).multinomial(there, [1 / there] * there, size=8)):
        # Whoever is drawn twice is two people.
        pairs = [np.flatnonzero(user == u) for u, many in enumerate(times) for _ in range(many)]
        drawn, whose = np.concatenate(pairs), np.repeat(np.arange(there), list(map(len, pairs)))
        assert found[r] == pytest.approx(plain_auc(labels[drawn], scores[drawn]), nan_ok=True)
        assert per_user[r] == pytest.approx(uauc(whose, labels[drawn], scores[drawn]), nan_ok=True)


def test_the_interval_of_an_auc_covers_the_truth_about_as_often_as_it_says() -> None:
    """Positives of N(1, 1) over negatives of N(0, 1): the AUC is Phi(1 / sqrt 2) = .7602, for each user and for all."""
    rng, covered = np.random.default_rng(1), np.zeros(2)
    for trial in range(100):
        users, labels = np.repeat(np.arange(60), 8), rng.integers(0, 2, 480)
        drawn = resampled_auc(users, labels, labels + rng.normal(size=480), seed=trial, resamples=200)
        covered += [low <= 0.7602 <= high for low, high in map(interval, drawn)]
    assert (covered >= 88).all()


def test_one_seed_draws_the_same_users_for_every_system() -> None:
    rng = np.random.default_rng(0)
    users, labels, scores = rng.integers(0, 20, 200), rng.integers(0, 2, 200), rng.normal(size=200)
    for one, other in zip(*(resampled_auc(users, labels, s, seed=5) for s in (scores, 3 * scores)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_nothing_drawn_has_no_interval() -> None:
    assert all(map(math.isnan, interval(np.full(3, np.nan))))


def test_a_system_does_not_differ_from_itself() -> None:
    values = np.random.default_rng(0).random(50)
    difference = paired(values, values, seed=1)
    assert (difference.mean, difference.low, difference.high, difference.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_a_comparison_is_its_seed() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(80), rng.random(80)
    assert paired(a, b, seed=3, resamples=500) == paired(a, b, seed=3, resamples=500)
    assert paired(a, b, seed=3, resamples=500) != paired(a, b, seed=4, resamples=500)


def test_a_constant_difference_has_no_width() -> None:
    difference = paired(np.full(40, 0.75), np.full(40, 0.5), seed=0, resamples=1_000)
    assert difference.mean == difference.low == difference.high == pytest.approx(0.25)
    assert difference.p_value == pytest.approx(1 / 1_001)


def test_swapping_the_systems_mirrors_the_difference() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(200), rng.random(200)
    there, back = paired(a, b, seed=0), paired(b, a, seed=0)
    assert there.mean == pytest.approx(-back.mean)
    assert there.low == pytest.approx(-back.high, abs=0.005)
    assert there.p_value == pytest.approx(back.p_value, abs=0.02)


def test_the_interval_is_as_wide_as_theory_says_where_most_users_agree() -> None:
    """A normal approximation: 1.96 standard errors, the agreeing users counted."""
    rng = np.random.default_rng(2)
    a = np.where(rng.random(5_000) < 0.1, rng.normal(0.3, 1.0, 5_000), 0.0)
    difference = paired(a, np.zeros(5_000), seed=0, resamples=4_000)
    error = a.std() / math.sqrt(len(a))
    assert difference.low == pytest.approx(a.mean() - 1.96 * error, abs=0.1 * error)
    assert difference.high == pytest.approx(a.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        difference = paired(rng.normal(0.2, 1.0, 100), np.zeros(100), seed=trial, resamples=400)
        covered += difference.low <= 0.2 <= difference.high
    assert covered >= 180


def test_two_users_who_disagree_prove_nothing() -> None:
    """Sign flips of (1, 1): 2 of 4 are as extreme, so p is about one half."""
    difference = paired(np.array([1.0, 1.0, 0.0]), np.zeros(3), seed=0)
    assert difference.p_value == pytest.approx(0.5, abs=0.02)


def test_unequal_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        paired(np.zeros(3), np.zeros(4), seed=0)


def test_no_users_do_not_differ() -> None:
    assert paired(np.array([]), np.array([]), seed=0).p_value == 1.0
