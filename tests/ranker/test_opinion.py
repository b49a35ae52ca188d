"""The ranker out of an opinion and the retriever's scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranker.opinion import BlendedRanker, Opinion
from shared.candidate import Candidate
from shared.history import History


def test_a_language_model_that_is_not_heard_makes_nothing_doubtful() -> None:
    class Unsure:
        max_candidates = 5

        def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
            return [Opinion(np.zeros(len(listed)), mass=0.01) for listed in items]

    given = [Candidate(3, 2.0), Candidate(4, 1.0)]
    for weight, mass in ((0.0, 1.0), (0.5, 0.01)):
        [ranking] = BlendedRanker(Unsure(), weight).rank([History((1,))], [given])
        assert ranking.label_mass == mass
