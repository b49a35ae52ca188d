"""LlamaRec as it serves, on a tiny model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ranker.backbone import Backbone
from ranker.engines.local import LocalEngine
from ranker.llamarec.rank import LlamaRecRanker
from ranker.prompt import PromptBuilder
from shared.candidate import Candidate, Ranking
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Ranker
from tests.contracts.ranker import RankerContract
from tests.ranker import tiny

ITEMS = 30
HISTORY = History((1, 2, 3))
TEN = [Candidate(item, float(30 - item)) for item in range(11, 21)]


def make(base: Backbone, weight: float, candidates: int = 20, template: str = "compact") -> LlamaRecRanker:
    builder = PromptBuilder(base.tokenizer, tiny.catalog(ITEMS), template, max_history=5)
    return LlamaRecRanker(LocalEngine(base), builder, candidates, weight)


class TestBlended(RankerContract):
    items = ITEMS

    @pytest.fixture
    def ranker(self, bpe: Backbone) -> Ranker:
        return make(bpe, 0.4)


class TestLanguageModelAlone(RankerContract):
    items = ITEMS

    @pytest.fixture
    def ranker(self, bpe: Backbone) -> Ranker:
        return make(bpe, 1.0)


class TestRetrieverAlone(RankerContract):
    items = ITEMS

    @pytest.fixture
    def ranker(self, bpe: Backbone) -> Ranker:
        return make(bpe, 0.0)


class TestOnSentencePiece(RankerContract):
    items = ITEMS

    @pytest.fixture
    def ranker(self, sentencepiece: Backbone) -> Ranker:
        return make(sentencepiece, 0.4)


class TestAsked(RankerContract):
    """A question for each title of the history."""

    items = ITEMS

    @pytest.fixture
    def ranker(self, bpe: Backbone) -> Ranker:
        return make(bpe, 0.4, template="asked")


class TestAskedOnSentencePiece(RankerContract):
    items = ITEMS

    @pytest.fixture
    def ranker(self, sentencepiece: Backbone) -> Ranker:
        return make(sentencepiece, 0.4, template="asked")


def order(ranking: Ranking) -> list[int]:
    return [candidate.item for candidate in ranking.candidates]


def test_weight_zero_keeps_the_retrievers_order(bpe: Backbone) -> None:
    [ranking] = make(bpe, 0.0).rank([HISTORY], [TEN])
    assert order(ranking) == [candidate.item for candidate in TEN]


def test_weight_one_is_the_order_of_the_label_logits_of_a_plain_forward(bpe: Backbone) -> None:
    ranker = make(bpe, 1.0)
    [ranking] = ranker.rank([HISTORY], [TEN])
    prompt = ranker.builder.build(HISTORY.items, [c.item for c in TEN])
    with torch.no_grad():
        logits_V = bpe.model(torch.tensor([prompt])).logits[0, -1].double()
    labels_K = logits_V[ranker.builder.labels[:10]]
    log_K = torch.log_softmax(labels_K, 0).numpy()
    assert order(ranking) == [TEN[place].item for place in np.argsort(-log_K)]
    assert [c.score for c in ranking.candidates] == pytest.approx(sorted(log_K, reverse=True), abs=1e-4)
    assert ranking.entropy == pytest.approx(float(-(np.exp(log_K) * log_K).sum()), abs=1e-4)


def test_the_label_mass_is_that_of_all_labels_in_the_whole_vocabulary(bpe: Backbone) -> None:
    ranker = make(bpe, 1.0)
    [ranking] = ranker.rank([HISTORY], [TEN])
    prompt = ranker.builder.build(HISTORY.items, [c.item for c in TEN])
    with torch.no_grad():
        share_V = torch.softmax(bpe.model(torch.tensor([prompt])).logits[0, -1].double(), 0)
    assert ranking.label_mass == pytest.approx(float(share_V[ranker.builder.labels].sum()), abs=1e-5)


def test_scores_are_log_probabilities_over_the_candidates_of_one_user(bpe: Backbone) -> None:
    for weight in (0.0, 1.0):
        [ranking] = make(bpe, weight).rank([HISTORY], [TEN])
        assert math.fsum(math.exp(c.score) for c in ranking.candidates) == pytest.approx(1, abs=1e-5)


def test_a_user_without_candidates_gets_an_empty_ranking_and_disturbs_nobody(bpe: Backbone) -> None:
    ranker = make(bpe, 0.5)
    [alone] = ranker.rank([HISTORY], [TEN])
    empty, other, last = ranker.rank([HISTORY, HISTORY, HISTORY], [[], TEN, []])
    assert empty == last == Ranking(())
    assert order(other) == order(alone)
    assert ranker.rank([HISTORY], [[]]) == [Ranking(())]


def test_a_user_without_history_is_ranked(bpe: Backbone) -> None:
    [ranking] = make(bpe, 0.5).rank([History(())], [TEN])
    assert sorted(order(ranking)) == sorted(c.item for c in TEN)


def test_it_takes_no_more_candidates_than_it_was_trained_for(bpe: Backbone) -> None:
    with pytest.raises(BadInput, match=r"10 candidates, and this ranker has 5 labels"):
        make(bpe, 0.5, candidates=5).rank([HISTORY], [TEN])


def test_histories_and_candidates_go_in_pairs(bpe: Backbone) -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        make(bpe, 0.5).rank([HISTORY], [TEN, TEN])
