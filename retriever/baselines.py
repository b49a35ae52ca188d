"""Collaborative filtering from the library `implicit`, on the same split and behind the same protocol.

Not for serving: the rows that a sequential model has to beat. Needs the extra `baselines`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from shared.candidate import Candidate
from shared.errors import BadInput
from shared.history import History
from shared.protocols import Retriever

CHUNK = 512


class Implicit:
    """A fitted model of `implicit`; a user is his history's items, whether training saw him or not."""

    def __init__(self, model: Any, items: int) -> None:
        self._model, self._items = model, items

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        banned = [frozenset(e) for e in exclude] if exclude is not None else [frozenset()] * len(histories)
        answers: list[list[Candidate]] = []
        for start in range(0, len(histories), CHUNK):
            chunk, barred = histories[start : start + CHUNK], banned[start : start + CHUNK]
            answers += self._chunk([h.items for h in chunk], k, barred)
        return answers

    def _chunk(self, rows: Sequence[Sequence[int]], k: int, banned: Sequence[frozenset[int]]) -> list[list[Candidate]]:
        asked = min(self._items, k + max(map(len, banned)))
        found, scores = self._model.recommend(
            np.arange(len(rows)),
            interactions(rows, self._items),
            N=asked,
            filter_already_liked_items=False,
            recalculate_user=True,
        )
        return [
            [Candidate(int(i) + 1, float(s)) for i, s in zip(items, values, strict=True) if int(i) + 1 not in barred][
                :k
            ]
            for items, values, barred in zip(found, scores, banned, strict=True)
        ]


def interactions(sequences: Iterable[Sequence[int] | np.ndarray], items: int) -> csr_matrix:
    """Users x items, 1 where the user has the item; column i is dense index i + 1."""
    rows = [np.unique(np.asarray(s, dtype=np.int64)) - 1 for s in sequences]
    lengths = [len(row) for row in rows]
    indices = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return csr_matrix((np.ones(len(indices), dtype=np.float32), indices, indptr), shape=(len(rows), items))


def als(sequences: Sequence[np.ndarray], items: int, seed: int) -> Retriever:
    """Weighted matrix factorisation (Hu, Koren and Volinsky, 2008), 64 factors as LRURec's width."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(factors=64, regularization=0.05, alpha=2.0, iterations=15, random_state=seed)
    model.fit(interactions(sequences, items), show_progress=False)
    return Implicit(model, items)


def item_knn(sequences: Sequence[np.ndarray], items: int, seed: int) -> Retriever:
    """Cosine over users, the 100 nearest items of each."""
    from implicit.nearest_neighbours import CosineRecommender

    model = CosineRecommender(K=100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # implicit warns of its own matrix format
        model.fit(interactions(sequences, items), show_progress=False)
    return _NoFactors(model, items)


class _NoFactors(Implicit):
    """Neighbourhood models have no user factors to recalculate, and implicit's take no such argument."""

    def _chunk(self, rows: Sequence[Sequence[int]], k: int, banned: Sequence[frozenset[int]]) -> list[list[Candidate]]:
        answers = []
        similarity = self._model.similarity
        for row, barred in zip(interactions(rows, self._items), banned, strict=True):
            scores = (row @ similarity).toarray()[0]
            scores[[i - 1 for i in barred]] = -np.inf
            best = np.argsort(-scores, kind="stable")[:k]
            answers.append([Candidate(int(i) + 1, float(scores[i])) for i in best if scores[i] > 0])
        return answers


BASELINES: dict[str, Callable[[Sequence[np.ndarray], int, int], Retriever]] = {"als": als, "item-knn": item_knn}


def fit(name: str, sequences: Sequence[np.ndarray], items: int, seed: int) -> Retriever:
    """Raises BadInput for an unknown name, or where the extra is not installed."""
    if name not in BASELINES:
        raise BadInput(f"baseline {name!r} is unknown; there are {', '.join(BASELINES)}")
    try:
        return BASELINES[name](sequences, items, seed)
    except ModuleNotFoundError as error:
        raise BadInput(f"baseline {name!r} needs {error.name}: pip install 'tandem-rec[baselines]'") from None
