"""The final score: the language model's opinion blended with the retriever's, so that it is never worse.

    score_i = (1 - w) log softmax(retriever)_i + w log softmax(labels)_i      over the candidates of one user

w is fitted on validation users. w = 0 is the retriever's order, w = 1 the language model alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shared import metrics

WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


def log_softmax(scores_UC: np.ndarray) -> np.ndarray:
    """Over the last axis; -inf marks a missing candidate and stays -inf."""
    shifted = scores_UC - scores_UC.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def blend(retrieval_UC: np.ndarray, labels_UC: np.ndarray, weight: float) -> np.ndarray:
    """Log scores U x C; rows and columns as given."""
    if weight == 0:
        return log_softmax(retrieval_UC)
    if weight == 1:
        return log_softmax(labels_UC)
    return (1 - weight) * log_softmax(retrieval_UC) + weight * log_softmax(labels_UC)


def order(scores_UC: np.ndarray) -> np.ndarray:
    """Places of the candidates, best first; ties keep the order they came in."""
    return np.argsort(-scores_UC, axis=-1, kind="stable")


def truth_ranks(scores_UC: np.ndarray, truth_U: np.ndarray) -> np.ndarray:
    """Ranks from 1 after sorting; truth_U is the truth's column, or -1 where the retriever missed it (rank 0)."""
    ranks_UC = np.argsort(order(scores_UC), axis=-1) + 1
    found_U = truth_U >= 0
    ranks_U = np.full(len(truth_U), metrics.MISSED)
    ranks_U[found_U] = ranks_UC[found_U, truth_U[found_U]]
    return ranks_U


@dataclass(frozen=True, slots=True)
class Fit:
    weight: float
    curve: dict[str, float]
    """NDCG@10 on the validation users, by weight."""
    gain: metrics.Difference
    """Of the chosen weight over the retriever's order, on the same users."""


def fit(retrieval_UC: np.ndarray, labels_UC: np.ndarray, truth_U: np.ndarray, seed: int) -> Fit:
    """The weight with the best NDCG@10, unless its gain over the retriever may be chance: then 0.

    Chance is judged by the paired 95 % interval. 21 weights are tried on the same users, and without this
    test the best of them looks better than the retriever even where the language model knows nothing.
    """
    users = {w: metrics.ndcg(truth_ranks(blend(retrieval_UC, labels_UC, w), truth_U), 10) for w in WEIGHTS}
    curve = {f"{w:.2f}": float(values.mean()) for w, values in users.items()}
    best = max(WEIGHTS, key=lambda w: (curve[f"{w:.2f}"], -w))
    gain = metrics.paired(users[best], users[0.0], seed)
    return Fit(best if gain.low > 0 else 0.0, curve, gain)
