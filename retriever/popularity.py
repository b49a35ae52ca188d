"""The most-clicked items: the answer for a user about whom nothing is known, and the baseline to beat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from shared.candidate import Candidate
from shared.history import History


class Popularity:
    """counts_V[i] is how often training saw dense index i; the score is its share of all events.

    Equal counts keep catalogue order.
    """

    def __init__(self, counts_V: np.ndarray) -> None:
        share_V = counts_V / max(1, counts_V.sum())
        order = np.argsort(-counts_V[1:], kind="stable") + 1
        self._share_V = share_V
        self._best = [Candidate(int(i), float(share_V[i])) for i in order]

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        return [self._top(k, frozenset(e)) for e in exclude or [()] * len(histories)]

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[list[Candidate]]:
        return [by_score(given, self._share_V[np.asarray(given, dtype=np.int64)]) for given in items]

    def vectors(self, items: Sequence[int]) -> np.ndarray:
        return np.zeros((len(items), 1), dtype=np.float32)

    def _top(self, k: int, excluded: frozenset[int]) -> list[Candidate]:
        top: list[Candidate] = []
        for candidate in self._best:
            if len(top) == k:
                break
            if candidate.item not in excluded:
                top.append(candidate)
        return top


def by_score(items: Sequence[int], scores_N: np.ndarray) -> list[Candidate]:
    """Best first; equal scores keep the order that they came in."""
    order = np.argsort(-scores_N, kind="stable")
    return [Candidate(items[i], float(scores_N[i])) for i in order]


def count(sequences: Iterable[np.ndarray], items: int) -> np.ndarray:
    """Events per dense index, int64, length items + 1."""
    counts_V = np.zeros(items + 1, dtype=np.int64)
    for sequence in sequences:
        np.add.at(counts_V, sequence, 1)
    return counts_V
