"""Each method asks an engine as it asks the modules that training trains, and what it keeps changes no score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ranker import backbone
from ranker.backbone import Backbone
from ranker.behaviour.models import Name
from ranker.blend import log_softmax
from ranker.cllm4rec.rank import RecLLMScorer
from ranker.collm.rank import CoLLMScorer
from ranker.engines.local import LocalEngine
from ranker.engines.protocol import LabelScores
from ranker.llara.prompt import Answer
from ranker.llara.rank import LLaRAScorer
from ranker.opinion import Opinion, ServedScorer
from shared.errors import BadInput
from shared.history import History
from tests.ranker import tiny
from tests.ranker.cllm4rec import made as cllm4rec
from tests.ranker.collm import made as collm
from tests.ranker.llara import made as llara

HISTORIES = [History((5, 9, 2), "u3"), History((), None), History((1, 4), "u1")]
ITEMS = [[7, 3, 11], [4, 8], list(range(1, 13))]


@pytest.fixture(scope="module")
def yes_and_no(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Its tokenizer has them as single tokens."""
    tokenizer = tiny.bpe([*tiny.corpus(), *["Answer: Yes", "Answer: No"] * 20])
    folder = tiny.save(tmp_path_factory.mktemp("backbone") / "yes", tokenizer, tiny.llama(len(tokenizer)))
    return backbone.load(str(folder), dtype=torch.float32)


def assert_same(found: list[Opinion], expected: list[Opinion]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(log_softmax(one.logits_C), log_softmax(other.logits_C), atol=1e-4)
        assert one.mass == pytest.approx(other.mass, abs=1e-4)
        assert one.notes == other.notes


def assert_asks_as_in_training(served: ServedScorer, trained: ServedScorer) -> None:
    for _ in range(2):  # the second time out of what was kept
        assert_same(served.score(HISTORIES, ITEMS), trained.score(HISTORIES, ITEMS))
    assert served.tokens(HISTORIES[0], ITEMS[0]) > 0


@pytest.mark.parametrize("name", ["mf", "din"])
def test_collm(yes_and_no: Backbone, name: Name) -> None:
    model, users = collm.model(yes_and_no, name), {"u1": 1, "u3": 3}
    engine = LocalEngine(yes_and_no)
    assert_asks_as_in_training(CoLLMScorer(model, users, 20, engine), CoLLMScorer(model, users, 20))
    assert engine.reused().tokens_reused > engine.reused().tokens_computed / 2


@pytest.mark.parametrize("answer", ["title", "letter"])
def test_llara(bpe: Backbone, answer: Answer) -> None:
    model = llara.model(bpe, answer)
    assert_asks_as_in_training(LLaRAScorer(model, 20, engine=LocalEngine(bpe)), LLaRAScorer(model, 20))


def test_recllm(bpe: Backbone) -> None:
    documents, model, users = cllm4rec.documents(bpe), cllm4rec.model(bpe), {"u1": 1, "u3": 3}
    served = RecLLMScorer(model, documents, users, 20, engine=LocalEngine(bpe))
    assert_asks_as_in_training(served, RecLLMScorer(model, documents, users, 20))


def test_a_users_vector_is_computed_once_for_any_candidates(bpe: Backbone) -> None:
    served = RecLLMScorer(cllm4rec.model(bpe), cllm4rec.documents(bpe), {"u1": 1, "u3": 3}, 20, engine=LocalEngine(bpe))
    served.score(HISTORIES, ITEMS)
    before = served.reused()
    served.score(HISTORIES[:1], [[9, 1]])
    assert served.reused().tokens_computed == before.tokens_computed
    assert served.reused().vectors == before.vectors + 1
    served.score([History((5, 9), "u3"), History((5, 9, 2), "u1")], [[1], [1]])
    assert served.reused().vectors == before.vectors + 1


class LabelsOnly:
    def label_logits(self, *args: object, **kwargs: object) -> LabelScores:
        raise AssertionError

    def last_hidden(self, *args: object, **kwargs: object) -> np.ndarray:
        raise AssertionError

    def close(self) -> None:
        pass


def test_titles_are_not_asked_of_an_engine_that_tells_labels_alone(bpe: Backbone) -> None:
    with pytest.raises(BadInput, match=r"needs titles' likelihoods, which LabelsOnly does not tell"):
        LLaRAScorer(llara.model(bpe, "title"), 20, engine=LabelsOnly())
    LLaRAScorer(llara.model(bpe, "letter"), 20, engine=LabelsOnly())
