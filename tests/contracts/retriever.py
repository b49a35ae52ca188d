"""What every ServedRetriever keeps. A test class inherits this, and gives `retriever` (a fixture) and `items`."""

from __future__ import annotations

import math

import pytest

from shared.candidate import Candidate
from shared.history import History
from shared.protocols import ServedRetriever


class RetrieverContract:
    items: int
    """Size of the catalogue; at least 10."""
    tolerance: float = 1e-4
    """By how much a score may differ between a batch and a single request."""

    @pytest.fixture
    def retriever(self) -> ServedRetriever:
        raise NotImplementedError

    def test_it_is_a_retriever(self, retriever: ServedRetriever) -> None:
        assert isinstance(retriever, ServedRetriever)

    def test_the_best_come_first_and_once(self, retriever: ServedRetriever) -> None:
        for found in retriever.retrieve(self.histories(), 5):
            assert len({candidate.item for candidate in found}) == 5
            assert all(1 <= candidate.item <= self.items for candidate in found)
            assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
            assert all(math.isfinite(candidate.score) for candidate in found)

    def test_fewer_are_the_head_of_more(self, retriever: ServedRetriever) -> None:
        few, many = (retriever.retrieve(self.histories(), k) for k in (3, 8))
        self.assert_same(few, [found[:3] for found in many])

    def test_the_excluded_never_come_back(self, retriever: ServedRetriever) -> None:
        histories = self.histories()
        best = [[candidate.item for candidate in found] for found in retriever.retrieve(histories, 4)]
        without = retriever.retrieve(histories, self.items, best)
        for found, banned in zip(without, best, strict=True):
            assert not {candidate.item for candidate in found} & set(banned)
            assert len(found) == self.items - 4

    def test_nothing_excluded_is_the_same_as_no_exclusion(self, retriever: ServedRetriever) -> None:
        histories = self.histories()
        nothing: list[list[int]] = [[] for _ in histories]
        self.assert_same(retriever.retrieve(histories, 5), retriever.retrieve(histories, 5, nothing))

    def test_there_are_never_more_than_the_catalogue_has(self, retriever: ServedRetriever) -> None:
        [found] = retriever.retrieve([History((1,))], self.items + 5)
        assert sorted(candidate.item for candidate in found) == list(range(1, self.items + 1))

    def test_excluding_everything_leaves_nothing(self, retriever: ServedRetriever) -> None:
        assert retriever.retrieve([History((1,))], 5, [list(range(1, self.items + 1))]) == [[]]

    def test_a_batch_equals_its_singles(self, retriever: ServedRetriever) -> None:
        histories = self.histories()
        exclude = [[1], [2, 3], [], [4]]
        singles = [
            retriever.retrieve([history], 6, [banned])[0] for history, banned in zip(histories, exclude, strict=True)
        ]
        self.assert_same(retriever.retrieve(histories, 6, exclude), singles)

    def test_an_empty_batch_is_an_empty_answer(self, retriever: ServedRetriever) -> None:
        assert retriever.retrieve([], 5) == []

    def test_a_history_of_any_length_is_answered(self, retriever: ServedRetriever) -> None:
        long = History(tuple(n % self.items + 1 for n in range(3000)))
        assert [len(found) for found in retriever.retrieve([long, History((1,))], 5)] == [5, 5]

    def test_given_items_get_the_scores_that_retrieval_gives(self, retriever: ServedRetriever) -> None:
        histories = self.histories()
        found = retriever.retrieve(histories, self.items)
        given = [sorted(candidate.item for candidate in one)[::2] for one in found]
        expected = [[c for c in one if c.item in kept] for one, kept in zip(found, given, strict=True)]
        self.assert_same(retriever.score(histories, given), expected)

    def test_no_items_score_nothing(self, retriever: ServedRetriever) -> None:
        assert retriever.score([History((1,))], [[]]) == [[]]

    def test_vectors_have_length_one_or_none(self, retriever: ServedRetriever) -> None:
        vectors = retriever.vectors([1, 2, self.items])
        lengths = (vectors**2).sum(axis=1)
        assert len(vectors) == 3
        assert all(length == pytest.approx(1, abs=1e-4) or length == 0 for length in lengths)
        assert len(retriever.vectors([])) == 0

    def histories(self) -> list[History]:
        return [History((1, 2, 3)), History((self.items,)), History((2, 2, 2), "u2"), History((5, 1), "u3")]

    def assert_same(self, one: list[list[Candidate]], other: list[list[Candidate]]) -> None:
        for found, expected in zip(one, other, strict=True):
            assert [c.item for c in found] == [c.item for c in expected]
            assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=self.tolerance)
