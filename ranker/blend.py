"""The final score: the language model's opinion blended with the retriever's, so that it is never worse.

    score_i = (1 - w) log softmax(retriever)_i + w log softmax(labels)_i      over the candidates of one user

w is fitted on validation users (`fit`). w = 0 is the retriever's order, w = 1 the language model alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from shared import metrics
from shared.candidate import Candidate, Ranking

CHI_SQUARE_5_PERCENT = 3.841
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


def ranking(
    listed: Sequence[Candidate], labels_C: np.ndarray, mass: float, weight: float, notes: tuple[str, ...] = ()
) -> Ranking:
    """The candidates of one user, best first by their blended log probability."""
    blended_C = blend(np.array([c.score for c in listed]), labels_C, weight)
    log_C = log_softmax(labels_C)
    places = order(blended_C)
    best = tuple(Candidate(listed[place].item, float(blended_C[place])) for place in places)
    p_C = np.exp(log_C)
    entropy = max(0.0, float(-(p_C * np.where(p_C > 0, log_C, 0)).sum()))
    # Who is not heard cannot make the order doubtful.
    return Ranking(best, min(1.0, mass) if weight else 1.0, entropy, notes, tuple(log_C[places].tolist()))


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
    likeliest: float
    likelihood_ratio: float
    """2 (log likelihood with the language model - without), of the likeliest weight."""
    gain: metrics.Difference
    """In NDCG@10 over the retriever's order, on the same users: of the weight that was given, else of the likeliest."""


def fit(
    retrieval_UC: np.ndarray, labels_UC: np.ndarray, truth_U: np.ndarray, seed: int, given: float | None = None
) -> Fit:
    """`given`, if there is one; else the weight under which the truth is likeliest, if that is no chance and costs no
    NDCG@10; else 0.

    A conditional logit (McFadden, 1974) of the truth among a user's candidates: P = softmax(s blend(w)), the
    scale s free for each w. NDCG@10 of some hundred users jumps with single places; the likelihood hears how
    sure each stage was. The language model gets its say where the likelihood ratio passes the 5 % point of
    chi-square with one degree of freedom.
    """
    found = truth_U >= 0
    weights = WEIGHTS if given is None else sorted({*WEIGHTS, given})
    users = {w: metrics.ndcg(truth_ranks(blend(retrieval_UC, labels_UC, w), truth_U), 10) for w in weights}
    curve = {f"{w:.2f}": float(users[w].mean()) for w in WEIGHTS}
    if not found.any():
        return Fit(given or 0.0, curve, 0.0, 0.0, metrics.paired(users[0.0], users[0.0], seed))
    told = {w: log_likelihood(blend(retrieval_UC[found], labels_UC[found], w), truth_U[found]) for w in WEIGHTS}
    best = max(WEIGHTS, key=lambda w: (told[w], -w))
    ratio = 2 * (told[best] - told[0.0])
    gain = metrics.paired(users[best if given is None else given], users[0.0], seed)
    earned = best if ratio >= CHI_SQUARE_5_PERCENT and gain.mean >= 0 else 0.0
    return Fit(earned if given is None else given, curve, best, ratio, gain)


def report(fitted: Fit) -> dict[str, Any]:
    """For a manifest's metrics."""
    return {
        "blend_gain": asdict(fitted.gain),
        "blend_curve": fitted.curve,
        "blend_likeliest": fitted.likeliest,
        "blend_likelihood_ratio": round(fitted.likelihood_ratio, 3),
    }


def log_likelihood(scores_UC: np.ndarray, truth_U: np.ndarray) -> float:
    """Of the truths under softmax(s scores), at the best scale s; concave in s, so thirds find it."""
    finite_UC = np.where(np.isfinite(scores_UC), scores_UC, -1e9)

    def at(log_scale: float) -> float:
        return float(log_softmax(np.exp(log_scale) * finite_UC)[np.arange(len(truth_U)), truth_U].sum())

    low, high = np.log(0.01), np.log(100.0)
    for _ in range(60):
        third = (high - low) / 3
        if at(low + third) < at(high - third):
            low += third
        else:
            high -= third
    return at((low + high) / 2)
