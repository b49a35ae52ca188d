"""Questions to a ranker, and its answers, in retriever order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ranker.backbone import Backbone
from ranker.blend import fit
from ranker.engines.local import LocalEngine
from ranker.evaluate import Questions, ask, questions, score
from ranker.prompt import PromptBuilder
from ranker.sensitivity import kendall_tau, order_sensitivity
from shared.candidate import Candidate
from shared.data.split import Case
from tests.ranker import tiny

ITEMS = 40


def case(history: list[int], truth: int) -> Case:
    return Case(0, np.array(history), truth)


CASES = [case([1, 2], 3), case([7, 5, 9], 38), case([20], 22), case([3, 4, 3], 4)]


class Shuffling(tiny.Neighbours):
    def retrieve(self, *args: Any) -> list[list[Candidate]]:
        rng = np.random.default_rng(1)
        items = [[c.item for c in row] for row in super().retrieve(args[0], ITEMS, args[2])]
        return [[Candidate(int(i), 1.0 / n) for n, i in enumerate(rng.permutation(row)[: args[1]], 1)] for row in items]


@pytest.fixture(scope="module")
def builder(bpe: Backbone) -> PromptBuilder:
    return PromptBuilder(bpe.tokenizer, tiny.catalog(ITEMS), "compact", max_history=5)


@pytest.fixture
def asked() -> Questions:
    return ask(tiny.Neighbours(ITEMS), CASES, 10)


def test_the_whole_history_is_excluded_a_repeated_truth_with_it(asked: Questions) -> None:
    for one, items_C in zip(CASES, asked.items_UC, strict=True):
        assert not set(items_C.tolist()) & set(one.history.tolist())
    assert ask(tiny.Neighbours(ITEMS), CASES, ITEMS).truth_U[3] == -1


def test_who_buys_again_teaches_no_blend_that_titles_give_the_answer_away() -> None:
    """Titles that say nothing, a retriever that knows nothing, every third truth in the history: "whose title stands
    there twice?" would answer, were what serving excludes among the candidates."""
    rng = np.random.default_rng(0)
    histories = rng.integers(1, ITEMS + 1, (400, 6))
    truths = np.where(rng.random(400) < 0.3, histories[:, 2], rng.integers(1, ITEMS + 1, 400))
    asked = ask(Shuffling(ITEMS), [Case(0, h, int(t)) for h, t in zip(histories, truths, strict=True)], 20)
    twice_UC = np.stack([np.isin(items_C, h) for items_C, h in zip(asked.items_UC, histories, strict=True)])
    assert (asked.truth_U >= 0).sum() > 50
    assert fit(asked.scores_UC, 9.0 * twice_UC, asked.truth_U, seed=0).weight == 0


def test_the_truths_column_is_where_it_stands_or_minus_one(asked: Questions) -> None:
    for one, items_C, truth in zip(CASES, asked.items_UC, asked.truth_U, strict=True):
        assert (truth == -1) == (one.truth not in items_C)
        assert truth == -1 or items_C[truth] == one.truth


def test_where_the_catalogue_runs_out_there_is_item_zero_at_minus_infinity() -> None:
    asked = ask(tiny.Neighbours(6), [case([1, 2], 3)], 10)
    assert (asked.items_UC[0] > 0).sum() == 4
    assert np.isneginf(asked.scores_UC[0, 4:]).all()


def test_logits_are_the_engines_for_each_users_prompt(bpe: Backbone, builder: PromptBuilder, asked: Questions) -> None:
    engine = LocalEngine(bpe)
    logits_UC, mass_U = score(engine, builder, asked, None, only_found=False)
    for row, one in enumerate(CASES):
        prompt = builder.build(one.history.tolist(), asked.items_UC[row].tolist())
        alone = engine.label_logits([prompt], builder.labels)
        np.testing.assert_allclose(logits_UC[row], alone.logits_BK[0, :10], atol=2e-5)
        assert mass_U[row] == pytest.approx(alone.mass_B[0], abs=1e-5)


def test_users_whose_truth_was_missed_are_spared_the_forward(bpe: Backbone, builder: PromptBuilder) -> None:
    asked = questions(CASES[:2], np.array([[3, 4, 5], [6, 7, 8]]), np.zeros((2, 3), dtype=np.float32))
    logits_UC, mass_U = score(LocalEngine(bpe), builder, asked, None)
    assert asked.truth_U.tolist() == [0, -1]
    assert logits_UC[1].tolist() == [0, 0, 0]
    assert np.isnan(mass_U).tolist() == [False, True]


def test_missing_candidates_score_minus_infinity(bpe: Backbone, builder: PromptBuilder) -> None:
    asked = ask(tiny.Neighbours(6), [case([1, 2], 3)], 10)
    logits_UC, _ = score(LocalEngine(bpe), builder, asked, None)
    assert np.isfinite(logits_UC[0, :4]).all()
    assert np.isneginf(logits_UC[0, 4:]).all()


def test_some_users_or_another_order_are_the_same_questions(asked: Questions) -> None:
    some = asked.take(np.array([3, 0]))
    assert some.items_UC.tolist() == asked.items_UC[[3, 0]].tolist()
    assert some.truth_U.tolist() == asked.truth_U[[3, 0]].tolist()
    order_UC = np.random.default_rng(0).permuted(np.tile(np.arange(10), (4, 1)), axis=1)
    other = asked.reorder(order_UC)
    for row, truth in enumerate(asked.truth_U):
        assert sorted(other.items_UC[row]) == sorted(asked.items_UC[row])
        assert (other.truth_U[row] == -1) == (truth == -1)
        assert truth == -1 or other.items_UC[row, other.truth_U[row]] == CASES[row].truth


def test_kendalls_tau_counts_pairs_that_agree_less_those_that_do_not() -> None:
    one = np.array([[3.0, 2.0, 1.0]])
    assert kendall_tau(one, one) == 1
    assert kendall_tau(one, -one) == -1
    assert kendall_tau(one, np.array([[3.0, 1.0, 2.0]])) == pytest.approx(1 / 3)
    assert np.isnan(kendall_tau(np.empty((0, 3)), np.empty((0, 3))))


def test_order_sensitivity_compares_every_order_with_the_retrievers(bpe: Backbone, builder: PromptBuilder) -> None:
    cases = [case([n % ITEMS + 1], (n + 3) % ITEMS + 1) for n in range(12)]
    orders = order_sensitivity(LocalEngine(bpe), builder, ask(tiny.Neighbours(ITEMS), cases, 10), seed=0, users=12)
    assert [one.name for one in orders][:2] == ["retriever", "reversed"]
    assert orders[0].kendall_tau == 1
    assert all(-1 <= one.kendall_tau <= 1 and 0 <= one.first_label_share <= 1 for one in orders)
