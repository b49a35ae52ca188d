"""The blend: nobody gets a worse list than the retriever's, and chance is not taken for skill."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.blend import WEIGHTS, blend, fit, log_likelihood, log_softmax, order, truth_ranks
from shared.metrics import MISSED, ndcg

ROW = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=20)
seeded = settings(derandomize=True, deadline=None)


def draw(users: int, skill: float, seed: int, width: int = 20) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A retriever that knows a little, and labels that know `skill` about the truth and nothing else."""
    rng = np.random.default_rng(seed)
    truth_U = rng.integers(width, size=users)
    knows_UC = np.eye(width)[truth_U]
    retrieval_UC = -np.sort(-(rng.normal(size=(users, width)) + 1.0 * knows_UC), axis=1)
    places_UC = np.argsort(-(rng.normal(size=(users, width)) + 1.0 * knows_UC), axis=1)
    truth_U = (places_UC == truth_U[:, None]).argmax(1)
    return retrieval_UC, rng.normal(size=(users, width)) + skill * np.eye(width)[truth_U], truth_U


@given(ROW)
@seeded
def test_log_softmax_equals_a_plain_one(row: list[float]) -> None:
    exact = math.fsum(math.exp(x - max(row)) for x in row)
    expected = [x - max(row) - math.log(exact) for x in row]
    np.testing.assert_allclose(log_softmax(np.array([row])), [expected], atol=1e-9)


def test_huge_scores_do_not_overflow() -> None:
    assert log_softmax(np.array([[1e30, 0.0]])).tolist() == [[0.0, -1e30]]


@given(ROW, st.data())
@seeded
def test_weight_zero_is_the_retrievers_order_and_one_the_models(row: list[float], data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.floats(-50, 50, width=32), min_size=len(row), max_size=len(row)))
    retrieval_UC, labels_UC = np.array([row]), np.array([labels])
    for weight, own_UC in ((0.0, retrieval_UC), (1.0, labels_UC)):
        by_hand = sorted(range(len(row)), key=lambda place: -log_softmax(own_UC)[0, place])
        assert order(blend(retrieval_UC, labels_UC, weight))[0].tolist() == by_hand


def test_weight_zero_keeps_the_retrievers_order_where_the_model_says_nothing_at_all() -> None:
    nothing_UC = np.full((1, 3), np.nan)
    assert order(blend(np.array([[3.0, 2.0, 1.0]]), nothing_UC, 0.0)).tolist() == [[0, 1, 2]]


def test_between_the_ends_the_logs_of_both_are_mixed() -> None:
    """By hand: softmax (3/4, 1/4) and (1/5, 4/5), a quarter of the log of the second."""
    mixed = blend(np.log([[3.0, 1.0]]), np.log([[1.0, 4.0]]), 0.25)
    np.testing.assert_allclose(mixed, [[math.log(0.75**3 * 0.2) / 4, math.log(0.25**3 * 0.8) / 4]])


def test_a_constant_added_to_either_side_changes_nothing() -> None:
    retrieval_UC, labels_UC, _ = draw(20, 1.0, 0)
    np.testing.assert_allclose(blend(retrieval_UC + 7, labels_UC - 3, 0.3), blend(retrieval_UC, labels_UC, 0.3))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_ties_keep_the_order_they_came_in(weight: float) -> None:
    assert order(blend(np.zeros((1, 6)), np.ones((1, 6)), weight)).tolist() == [[0, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_missing_candidates_stay_last_and_change_nothing_for_the_others(weight: float) -> None:
    retrieval_UC, labels_UC, _ = draw(10, 1.0, 1, width=5)
    gap_U2 = np.full((10, 2), -np.inf)
    blended = blend(np.hstack([retrieval_UC, gap_U2]), np.hstack([labels_UC, gap_U2]), weight)
    np.testing.assert_allclose(blended[:, :5], blend(retrieval_UC, labels_UC, weight))
    assert np.isneginf(blended[:, 5:]).all()
    assert set(order(blended)[:, 5:].ravel().tolist()) == {5, 6}


def test_truth_ranks_count_from_one_and_a_missed_truth_is_missed() -> None:
    scores_UC = np.array([[1.0, 3.0, 2.0]] * 4)
    assert truth_ranks(scores_UC, np.array([0, 1, 2, -1])).tolist() == [3, 1, 2, MISSED]


def test_fit_finds_a_weight_for_a_model_that_knows_something() -> None:
    retrieval_UC, labels_UC, truth_U = draw(600, 2.0, 0)
    fitted = fit(retrieval_UC, labels_UC, truth_U, seed=0)
    assert 0 < fitted.weight < 1
    assert fitted.gain.low > 0
    told = {w: log_likelihood(blend(retrieval_UC, labels_UC, w), truth_U) for w in WEIGHTS}
    assert told[fitted.weight] == max(told.values())
    assert fitted.likelihood_ratio == pytest.approx(2 * (told[fitted.weight] - told[0.0]))


def test_the_likelihood_is_the_best_over_all_scales() -> None:
    """Against a plain loop over a fine grid of scales, in float64."""
    scores_UC, _, truth_U = draw(50, 0.0, 1)
    best = -math.inf
    for scale in np.geomspace(0.02, 50, 3000):
        total = 0.0
        for row, truth in zip(scores_UC, truth_U, strict=True):
            total += scale * row[truth] - math.log(sum(math.exp(scale * x) for x in row))
        best = max(best, total)
    assert log_likelihood(scores_UC, truth_U) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("skill", [-1.0, 0.0, 0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_fitted_blend_is_never_below_the_retriever_on_its_own_users(skill: float, seed: int) -> None:
    retrieval_UC, labels_UC, truth_U = draw(200, skill, seed)
    fitted = fit(retrieval_UC, labels_UC, truth_U, seed)
    chosen = ndcg(truth_ranks(blend(retrieval_UC, labels_UC, fitted.weight), truth_U), 10).mean()
    assert chosen >= ndcg(truth_ranks(retrieval_UC, truth_U), 10).mean()


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_knows_nothing_gets_no_weight(seed: int) -> None:
    assert fit(*draw(300, 0.0, seed), seed).weight == 0


def test_a_model_that_knows_everything_is_not_held_back() -> None:
    retrieval_UC, _, truth_U = draw(100, 0.0, 0)
    fitted = fit(retrieval_UC, 50 * np.eye(20)[truth_U], truth_U, seed=0)
    assert fitted.weight > 0
    assert max(fitted.curve.values()) == pytest.approx(1)


def test_the_same_users_and_seed_give_the_same_fit() -> None:
    assert fit(*draw(100, 1.0, 3), 5) == fit(*draw(100, 1.0, 3), 5)


def test_users_whose_truth_was_missed_count_zero_under_every_weight() -> None:
    retrieval_UC, labels_UC, truth_U = draw(100, 1.0, 0)
    half = fit(retrieval_UC, labels_UC, np.where(np.arange(100) % 2, truth_U, -1), 0)
    only = fit(retrieval_UC[1::2], labels_UC[1::2], truth_U[1::2], 0)
    np.testing.assert_allclose(np.array(list(half.curve.values())) * 2, list(only.curve.values()))
