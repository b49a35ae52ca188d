"""Before a retriever serves: what its index finds against what the model itself scores highest, for some histories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

import numpy as np

from shared.errors import BadArtifact
from shared.history import History
from shared.protocols import Retriever

if TYPE_CHECKING:
    from shared.data.prepared import Prepared

SAMPLE, DEPTH = 32, 20
MIN_RECALL = 0.95
TIE = 1e-3
"""Scores this close, relative to the score at DEPTH where that is above 1, count as equal."""
CHUNK = 8
MADE_UP = 10
"""Items of a history that nobody had."""

Exact = Callable[[Sequence[History]], np.ndarray]
"""The model's own scores of the whole catalogue, B x (1 + items); the first column means nothing."""


def require_recall(retriever: Retriever, exact: Exact, histories: Sequence[History], owner: str) -> None:
    """Raises BadArtifact where less than MIN_RECALL of the model's best are found."""
    recalls: list[float] = []
    for start in range(0, len(histories), CHUNK):
        asked = histories[start : start + CHUNK]
        for found, scores_V in zip(retriever.retrieve(asked, DEPTH), exact(asked), strict=True):
            recalls.append(_recall({candidate.item for candidate in found}, scores_V))
    mean = float(np.mean(recalls))
    if not mean >= MIN_RECALL:
        raise BadArtifact(
            f"{owner} finds {mean:.0%} of what its model scores highest, for {len(histories)} histories; "
            f"{MIN_RECALL:.0%} are needed. Its index and its weights are not of one training: train it anew."
        )


def _recall(found: AbstractSet[int], scores_V: np.ndarray) -> float:
    """Whatever scores as high as the last of the best is as good. NaN is never found."""
    scores_N = scores_V[1:]
    depth = min(DEPTH, len(scores_N))
    last = float(np.partition(scores_N, -depth)[-depth])
    good = scores_V[sorted(found)] >= last - TIE * max(1.0, abs(last))
    return min(1.0, float(good.sum()) / depth)


def sample(stored: Prepared | None, items: int) -> list[History]:
    """Of stored users, evenly spread; where there are none, made up, and the same each time."""
    if stored is not None and len(stored):
        users = np.unique(np.linspace(0, len(stored) - 1, SAMPLE).astype(int))
        return [History(tuple(map(int, stored.sequence(user)))) for user in users]
    random = np.random.default_rng(0)
    return [History(tuple(map(int, random.integers(1, items + 1, MADE_UP)))) for _ in range(SAMPLE)]
