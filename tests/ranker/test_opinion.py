"""The ranker out of an opinion and the retriever's scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ranker.backbone import Backbone
from ranker.blend import log_softmax
from ranker.engines.local import LocalEngine
from ranker.llamarec.rank import LlamaRecRanker
from ranker.opinion import BlendedRanker, Opinion
from ranker.prompt import PromptBuilder
from shared.candidate import Candidate
from shared.history import History
from shared.protocols import Reused
from tests.ranker import tiny


def test_a_language_model_that_is_not_heard_makes_nothing_doubtful() -> None:
    class Unsure:
        max_candidates = 5

        def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
            return [Opinion(np.zeros(len(listed)), mass=0.01) for listed in items]

    given = [Candidate(3, 2.0), Candidate(4, 1.0)]
    for weight, mass in ((0.0, 1.0), (0.5, 0.01)):
        [ranking] = BlendedRanker(Unsure(), weight).rank([History((1,))], [given])
        assert ranking.label_mass == mass


@pytest.mark.parametrize(("weight", "heard"), [(0.0, 1.0), (0.3, 0.02)])
def test_llamarec_is_no_exception(bpe: Backbone, weight: float, heard: float) -> None:
    class Mumbling(LocalEngine):
        def label_logits(self, *args: Any, **more: Any) -> Any:
            found = super().label_logits(*args, **more)
            return replace(found, mass_B=np.full_like(found.mass_B, 0.02))

    builder = PromptBuilder(bpe.tokenizer, tiny.catalog(40), "compact", max_history=5)
    given = [Candidate(3, 2.0), Candidate(4, 1.0)]
    [ranking] = LlamaRecRanker(Mumbling(bpe), builder, 5, weight).rank([History((1,))], [given])
    assert ranking.label_mass == pytest.approx(heard)


def test_each_candidate_keeps_what_the_language_model_alone_says_of_it() -> None:
    class Sure:
        max_candidates = 5

        def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
            return [Opinion(np.array([0.1 * item for item in listed])) for listed in items]

        def tokens(self, history: History, items: Sequence[int]) -> int:
            return 0

        def reused(self) -> Reused:
            return Reused()

    given = [Candidate(3, 9.0), Candidate(8, 2.0), Candidate(5, 1.0)]
    own = dict(zip([3, 8, 5], log_softmax(np.array([0.3, 0.8, 0.5])), strict=True))
    for weight, first in ((0.0, 3), (1.0, 8)):
        [ranking] = BlendedRanker(Sure(), weight).rank([History((1,))], [given])
        assert ranking.candidates[0].item == first
        assert list(ranking.unblended) == pytest.approx([own[c.item] for c in ranking.candidates])
