"""Full-catalogue ranks of the held-out items: top-k per user, never a users x items matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from shared.data.split import Case
from shared.history import History
from shared.metrics import rank_of
from shared.progress import progress
from shared.protocols import Retriever

Exclusion = Literal["window", "history"]
CHUNK = 1024


def excluded(case: Case, exclusion: Exclusion, window: int) -> np.ndarray:
    """What must not be recommended: the items that the model sees (the papers), or all (as served).

    A truth among them is missed, as in serving. Left among the candidates it would give itself away to every ranker
    that reads titles: no other candidate's stands in the history.
    """
    return np.unique(case.history[-window:] if exclusion == "window" else case.history)


def retrieved(
    retriever: Retriever,
    cases: Sequence[Case],
    k: int,
    exclusion: Exclusion,
    window: int,
    what: str | None = "retrieve",
) -> tuple[np.ndarray, np.ndarray]:
    """Items (int32) and scores (float32), users x k, best first; item 0 where the catalogue ran out."""
    items_UK = np.zeros((len(cases), k), dtype=np.int32)
    scores_UK = np.full((len(cases), k), -np.inf, dtype=np.float32)
    with progress(what, len(cases), "users") as advance:
        for start in range(0, len(cases), CHUNK):
            chunk = cases[start : start + CHUNK]
            histories = [History(tuple(case.history[-window:].tolist())) for case in chunk]
            exclude = [excluded(case, exclusion, window) for case in chunk]
            found = retriever.retrieve(histories, k, exclude)  # type: ignore[arg-type]
            for row, candidates in enumerate(found, start=start):
                items_UK[row, : len(candidates)] = [c.item for c in candidates]
                scores_UK[row, : len(candidates)] = [c.score for c in candidates]
            advance(len(chunk))
    return items_UK, scores_UK


def ranks(items_UK: np.ndarray, cases: Sequence[Case]) -> np.ndarray:
    """Per user, the truth's place from 1, or MISSED."""
    return np.array([rank_of(c.truth, row) for c, row in zip(cases, items_UK.tolist(), strict=True)], dtype=int)
