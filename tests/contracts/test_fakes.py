"""A fake that breaks the contract would prove nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from shared.candidate import Candidate, Ranking
from shared.protocols import Ranker, Retriever
from tests.contracts.ranker import RankerContract
from tests.contracts.retriever import RetrieverContract
from tests.fakes import FakePopularity, FakeRanker, FakeRetriever


class TestFakeRetriever(RetrieverContract):
    items = 30

    @pytest.fixture
    def retriever(self) -> Retriever:
        return FakeRetriever(self.items)


class TestFakePopularity(RetrieverContract):
    items = 30

    @pytest.fixture
    def retriever(self) -> Retriever:
        return FakePopularity(self.items)


class TestFakeRanker(RankerContract):
    items = 30

    @pytest.fixture
    def ranker(self) -> Ranker:
        return FakeRanker()


class IndifferentRanker(FakeRanker):
    def _one(self, candidates: Sequence[Candidate]) -> Ranking:
        return Ranking(tuple(Candidate(candidate.item, 0.0) for candidate in candidates))


class TestRankerWithoutAnOpinion(RankerContract):
    items = 30

    @pytest.fixture
    def ranker(self) -> Ranker:
        return IndifferentRanker()
