"""LlamaRec as it serves: one prompt a user, one forward, the letters' logits blended with the retriever's scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ranker.blend import blend, log_softmax, order
from ranker.engines.protocol import Engine
from ranker.engines.told import in_common
from ranker.prompt import PromptBuilder, ranks_of
from shared.candidate import Candidate, Ranking
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Reused, TellsReuse


class LlamaRecRanker:
    def __init__(self, engine: Engine, builder: PromptBuilder, candidates: int, weight: float) -> None:
        self.engine, self.builder, self.weight = engine, builder, weight
        self.max_candidates = candidates

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        """Scores are blended log probabilities over the candidates of one user."""
        longest = max((len(listed) for listed in candidates), default=0)
        if longest > self.max_candidates:
            raise BadInput(f"{longest} candidates, and this ranker has {self.max_candidates} labels. Send fewer.")
        prompts = [
            self.builder.build(history.items, [c.item for c in listed], ranks_of([c.score for c in listed]))
            for history, listed in zip(histories, candidates, strict=True)
        ]
        asked = [row for row, listed in enumerate(candidates) if listed]
        if not asked:
            return [Ranking(())] * len(candidates)
        keep = [in_common(prompts[row], self.builder.build(histories[row].items, [])) for row in asked]
        scores = self.engine.label_logits([prompts[row] for row in asked], self.builder.labels, keep=keep)
        answers = [Ranking(())] * len(candidates)
        for row, logits_K, mass in zip(asked, scores.logits_BK, scores.mass_B, strict=True):
            answers[row] = self._ranking(candidates[row], logits_K[: len(candidates[row])], float(mass))
        return answers

    def tokens(self, history: History, candidates: Sequence[Candidate]) -> int:
        return len(self.builder.build(history.items, [candidate.item for candidate in candidates]))

    def reused(self) -> Reused:
        return self.engine.reused() if isinstance(self.engine, TellsReuse) else Reused()

    def _ranking(self, listed: Sequence[Candidate], logits_C: np.ndarray, mass: float) -> Ranking:
        retrieval_C = np.array([c.score for c in listed])
        blended_C = blend(retrieval_C, logits_C, self.weight)
        log_C = log_softmax(logits_C)
        best = tuple(Candidate(listed[place].item, float(blended_C[place])) for place in order(blended_C))
        return Ranking(best, mass, float(-(np.exp(log_C) * log_C).sum()))
