"""What every Ranker keeps. A test class inherits this, and gives `ranker` (a fixture) and `items`."""

from __future__ import annotations

import itertools
import math

import pytest

from shared.candidate import Candidate, Ranking
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Ranker


class RankerContract:
    items: int
    """Size of the catalogue; at least 21."""
    tolerance: float = 1e-4
    """By how much a score may differ between a batch and a single request."""

    @pytest.fixture
    def ranker(self) -> Ranker:
        raise NotImplementedError

    def test_it_is_a_ranker(self, ranker: Ranker) -> None:
        assert isinstance(ranker, Ranker)

    def test_the_same_candidates_come_back_best_first(self, ranker: Ranker) -> None:
        for ranking, given in zip(self.ranked(ranker), self.candidates(), strict=True):
            scores = [candidate.score for candidate in ranking.candidates]
            assert sorted(c.item for c in ranking.candidates) == sorted(c.item for c in given)
            assert scores == sorted(scores, reverse=True)

    def test_numbers_are_finite_and_in_range(self, ranker: Ranker) -> None:
        for ranking in self.ranked(ranker):
            assert all(math.isfinite(candidate.score) for candidate in ranking.candidates)
            assert 0 <= ranking.label_mass <= 1 + 1e-6
            assert 0 <= ranking.entropy <= math.log(max(2, len(ranking.candidates))) + 1e-6

    def test_what_it_says_unblended_is_one_distribution_over_its_candidates(self, ranker: Ranker) -> None:
        for ranking in self.ranked(ranker):
            if ranking.unblended:
                assert len(ranking.unblended) == len(ranking.candidates)
                assert sum(map(math.exp, ranking.unblended)) == pytest.approx(1)

    def test_ties_keep_the_order_they_came_in(self, ranker: Ranker) -> None:
        for ranking, given in zip(self.ranked(ranker), self.candidates(), strict=True):
            place = {candidate.item: place for place, candidate in enumerate(given)}
            for one, next_ in itertools.pairwise(ranking.candidates):
                assert one.score > next_.score or place[one.item] < place[next_.item]

    def test_a_batch_equals_its_singles(self, ranker: Ranker) -> None:
        singles = [
            ranker.rank([history], [given])[0]
            for history, given in zip(self.histories(), self.candidates(), strict=True)
        ]
        self.assert_same(self.ranked(ranker), singles)

    def test_the_same_question_twice_has_the_same_answer(self, ranker: Ranker) -> None:
        """But for rounding: what was computed for the first may be reused for the second."""
        self.assert_same(self.ranked(ranker), self.ranked(ranker))

    def test_an_empty_batch_is_an_empty_answer(self, ranker: Ranker) -> None:
        assert ranker.rank([], []) == []

    def test_one_candidate_comes_back_alone(self, ranker: Ranker) -> None:
        [ranking] = ranker.rank([History((1, 2))], [[Candidate(3, 0.5)]])
        assert [candidate.item for candidate in ranking.candidates] == [3]

    def test_a_user_without_a_history_is_ranked(self, ranker: Ranker) -> None:
        given = self.candidates()[0]
        for user_id in (None, "nobody knows this one"):
            [ranking] = ranker.rank([History((), user_id)], [given])
            assert sorted(c.item for c in ranking.candidates) == sorted(c.item for c in given)
            assert all(math.isfinite(candidate.score) for candidate in ranking.candidates)

    def test_more_candidates_than_it_takes_are_refused(self, ranker: Ranker) -> None:
        many = [Candidate(item, 0.0) for item in range(1, ranker.max_candidates + 2)]
        with pytest.raises(BadInput, match=str(ranker.max_candidates)):
            ranker.rank([History((1,))], [many])

    def ranked(self, ranker: Ranker) -> list[Ranking]:
        return ranker.rank(self.histories(), self.candidates())

    def histories(self) -> list[History]:
        long = tuple(n % self.items + 1 for n in range(200))
        return [History((1, 2, 3)), History(long, "u1"), History((5,), "u2")]

    def candidates(self) -> list[list[Candidate]]:
        """Of differing lengths, in retriever order."""
        items = [[7, 9, 8], list(range(1, 21)), [21, 4]]
        return [[Candidate(item, 20.0 - place) for place, item in enumerate(one)] for one in items]

    def assert_same(self, one: list[Ranking], other: list[Ranking]) -> None:
        for ranking, expected in zip(one, other, strict=True):
            scores = {candidate.item: candidate.score for candidate in expected.candidates}
            assert {c.item: c.score for c in ranking.candidates} == pytest.approx(scores, abs=self.tolerance)
            assert ranking.label_mass == pytest.approx(expected.label_mass, abs=self.tolerance)
            assert ranking.entropy == pytest.approx(expected.entropy, abs=10 * self.tolerance)
