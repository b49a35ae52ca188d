"""LlamaRec as it serves: a prompt, or branches of one, in one forward; its letters blended with retrieval's scores."""

from __future__ import annotations

from collections.abc import Sequence

from ranker.blend import ranking
from ranker.engines.protocol import Engine
from ranker.prompt import PromptBuilder
from ranker.verbalizer import Letters, letters
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
        asked = [pair for pair in zip(histories, candidates, strict=True) if pair[1]]
        if not asked:
            return [Ranking(())] * len(candidates)
        told = letters(
            self.engine,
            self.builder,
            [history.items for history, _ in asked],
            [[candidate.item for candidate in listed] for _, listed in asked],
            [[candidate.score for candidate in listed] for _, listed in asked],
            keep=True,
        )
        found = iter(told)
        return [self._ranking(listed, next(found)) if listed else Ranking(()) for listed in candidates]

    def tokens(self, history: History, candidates: Sequence[Candidate]) -> int:
        return self.builder.tokens(history.items, [candidate.item for candidate in candidates])

    def reused(self) -> Reused:
        return self.engine.reused() if isinstance(self.engine, TellsReuse) else Reused()

    def _ranking(self, listed: Sequence[Candidate], told: Letters) -> Ranking:
        return ranking(listed, told.logits_C, told.mass, self.weight)
