"""What a language model says of a user's candidates, and the ranker that blends it with the retriever's scores.

Shapes:  U users  C candidates
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ranker.blend import Fit, fit, ranking
from ranker.evaluate import CANDIDATES, Questions, ask
from shared.candidate import Candidate, Ranking
from shared.data.prepared import Prepared
from shared.data.split import cases
from shared.errors import BadInput
from shared.history import History
from shared.progress import progress
from shared.protocols import Retriever, Reused

CHUNK = 64


@dataclass(frozen=True, slots=True)
class Opinion:
    """logits_C: higher is better, one per candidate in the order given. mass: the probability that the model
    keeps within its possible answers, 0..1. notes: what a caller should know of how it came about."""

    logits_C: np.ndarray
    mass: float = 1.0
    notes: tuple[str, ...] = ()


def known(mass_N: np.ndarray) -> float:
    """The mean; 1 where the engine read the labels alone and cannot tell."""
    mean = float(np.mean(mass_N))
    return 1.0 if np.isnan(mean) else mean


class Scorer(Protocol):
    max_candidates: int

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        """items: per history at least one and at most max_candidates dense indices."""
        ...


class ServedScorer(Scorer, Protocol):
    """What the queue asks beside."""

    def tokens(self, history: History, items: Sequence[int]) -> int:
        """That the language model reads for it, what may be cached included."""
        ...

    def reused(self) -> Reused: ...


class BlendedRanker:
    """A Ranker out of a Scorer. weight 0 is the retriever's order, 1 the language model alone."""

    def __init__(self, scorer: ServedScorer, weight: float) -> None:
        self.scorer, self.weight = scorer, weight
        self.max_candidates = scorer.max_candidates

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        """Scores are blended log probabilities over the candidates of one user."""
        longest = max((len(listed) for listed in candidates), default=0)
        if longest > self.max_candidates:
            raise BadInput(f"{longest} candidates, and this ranker takes {self.max_candidates}. Send fewer.")
        pairs = [(h, listed) for h, listed in zip(histories, candidates, strict=True) if listed]
        if not pairs:
            return [Ranking(())] * len(candidates)
        told = iter(self.scorer.score([h for h, _ in pairs], [[c.item for c in listed] for _, listed in pairs]))
        return [self._ranking(listed, next(told)) if listed else Ranking(()) for listed in candidates]

    def tokens(self, history: History, candidates: Sequence[Candidate]) -> int:
        return self.scorer.tokens(history, [candidate.item for candidate in candidates])

    def reused(self) -> Reused:
        return self.scorer.reused()

    def _ranking(self, listed: Sequence[Candidate], opinion: Opinion) -> Ranking:
        return ranking(listed, opinion.logits_C, opinion.mass, self.weight, opinion.notes)


def fit_blend(data: Prepared, retriever: Retriever, scorer: Scorer, seed: int, candidates: int = CANDIDATES) -> Fit:
    """To the validation users' retrieved candidates."""
    asked = ask(retriever, list(cases(data, "valid")), candidates, data.user_ids)
    logits_UC, _ = opinions(scorer, asked, "fit the blend")
    return fit(asked.scores_UC, logits_UC, asked.truth_U, seed)


def opinions(
    scorer: Scorer, asked: Questions, what: str | None, only_found: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Logits U x C (-inf for a missing candidate) and mass U; users without the truth stay at 0 and nan."""
    logits_UC = np.where(asked.items_UC > 0, 0.0, -np.inf)
    mass_U = np.full(len(logits_UC), np.nan)
    rows = np.flatnonzero(asked.truth_U >= 0) if only_found else np.arange(len(logits_UC))
    with progress(what, len(rows), "users") as advance:
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            real = [asked.items_UC[u] > 0 for u in chunk]
            items = [asked.items_UC[u][here].tolist() for u, here in zip(chunk, real, strict=True)]
            for u, here, opinion in zip(
                chunk, real, scorer.score([asked.history(u) for u in chunk], items), strict=True
            ):
                logits_UC[u, here] = opinion.logits_C
                mass_U[u] = opinion.mass
            advance(len(chunk))
    return logits_UC, mass_U
