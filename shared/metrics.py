"""Ranking and classification metrics, per user where they can be, so that systems compare in pairs.

A rank counts from 1; MISSED says that the truth is not in the list. One truth per user, so that
Recall@k = HitRate@k and NDCG@k = 1 / log2(1 + rank) within the first k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MISSED = 0
CUTOFFS = (1, 5, 10, 20)


def rank_of(truth: int, ranked: Sequence[int]) -> int:
    """The place of `truth` in a list that is best first, from 1; MISSED where it is not there."""
    return next((place for place, item in enumerate(ranked, start=1) if item == truth), MISSED)


def recall(ranks_U: np.ndarray, k: int) -> np.ndarray:
    """Per user, 0 or 1: the truth is among the first k."""
    return _within(ranks_U, k).astype(np.float64)


def ndcg(ranks_U: np.ndarray, k: int) -> np.ndarray:
    """Per user, 0..1. One relevant item, so the ideal gain is 1."""
    hit_U = _within(ranks_U, k)
    return np.where(hit_U, 1 / np.log2(1 + np.where(hit_U, ranks_U, 1)), 0.0)


def mrr(ranks_U: np.ndarray, k: int) -> np.ndarray:
    """Per user, 0..1: the reciprocal rank within the first k."""
    hit_U = _within(ranks_U, k)
    return np.where(hit_U, 1 / np.where(hit_U, ranks_U, 1), 0.0)


def table(ranks_U: np.ndarray, cutoffs: Sequence[int] = CUTOFFS) -> dict[str, float]:
    """Means over users: {"recall@10": ...}. An empty set of users gives nan."""
    measures = {"recall": recall, "ndcg": ndcg, "mrr": mrr}
    return {
        f"{name}@{k}": float(measure(ranks_U, k).mean()) if len(ranks_U) else float("nan")
        for name, measure in measures.items()
        for k in cutoffs
    }


def auc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half; nan where a class is missing, or a score
    is no number."""
    positives = int(labels_N.sum())
    negatives = len(labels_N) - positives
    if positives == 0 or negatives == 0 or np.isnan(scores_N).any():
        return float("nan")
    rank_sum = float(_average_ranks(scores_N)[labels_N.astype(bool)].sum())
    return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives)


def uauc(users_N: np.ndarray, labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """AUC per user, averaged over the users who have both classes (CoLLM, section 5.1)."""
    auc_U = _auc_of_each(users_N, labels_N, scores_N)
    return float(np.nanmean(auc_U)) if not np.isnan(auc_U).all() else float("nan")


def resampled_auc(
    users_N: np.ndarray, labels_N: np.ndarray, scores_N: np.ndarray, seed: int, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """AUC and UAUC, `resamples` of each: every time as many users are drawn, with replacement, and each brings all of
    their pairs. nan where those drawn have one class. One seed draws the same users whatever the scores are, so that
    the difference of two systems is taken resample by resample."""
    users, of_N = np.unique(users_N, return_inverse=True)
    auc_U = _auc_of_each(users_N, labels_N, scores_N)
    both_U = ~np.isnan(auc_U)
    order_N = np.argsort(scores_N, kind="stable")
    tied = np.unique(scores_N[order_N], return_index=True)[1]
    of_N, positive_N = of_N[order_N], labels_N[order_N].astype(np.float64)
    rng = np.random.default_rng(seed)
    auc_R, uauc_R = np.empty(resamples), np.empty(resamples)
    step = max(1, 1_000_000 // max(1, len(users_N)))
    with np.errstate(invalid="ignore"):
        for start in range(0, resamples, step):
            here = slice(start, min(start + step, resamples))
            times_RU = rng.multinomial(len(users), np.full(len(users), 1 / len(users)), size=here.stop - start)
            times_RN = times_RU[:, of_N]
            above_RT = np.add.reduceat(times_RN * positive_N, tied, axis=1)
            below_RT = np.add.reduceat(times_RN * (1 - positive_N), tied, axis=1)
            won_R = (above_RT * (below_RT.cumsum(axis=1) - below_RT / 2)).sum(axis=1)
            auc_R[here] = won_R / (above_RT.sum(axis=1) * below_RT.sum(axis=1))
            uauc_R[here] = times_RU[:, both_U] @ auc_U[both_U] / times_RU[:, both_U].sum(axis=1)
    return auc_R, uauc_R


def interval(values_R: np.ndarray) -> tuple[float, float]:
    """Low and high: between them lie 95 % of the resamples; nan where there is none."""
    known_R = values_R[~np.isnan(values_R)]
    low, high = np.quantile(known_R, [0.025, 0.975]) if len(known_R) else (np.nan, np.nan)
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Difference:
    """a - b per user: the mean, its 95 % bootstrap interval, a two-sided randomisation p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def paired(a_U: np.ndarray, b_U: np.ndarray, seed: int, resamples: int = 10_000) -> Difference:
    """Compares two systems on the same users: percentile bootstrap over users, and sign flips for the p-value.

    Resamples go in slices, so that memory stays at a few MB for any number of users. Users on whom both
    systems agree are counted, not drawn one by one: they add exactly 0.
    """
    if a_U.shape != b_U.shape:
        raise ValueError(f"paired samples need equal shapes, got {a_U.shape} and {b_U.shape}")
    users = len(a_U)
    difference_U = a_U - b_U
    differ_D = difference_U[difference_U != 0]
    if users == 0 or len(differ_D) == 0:
        return Difference(0.0, 0.0, 0.0, 1.0)
    rng = np.random.default_rng(seed)
    observed = float(difference_U.mean())
    means_R = np.empty(resamples)
    flipped_R = np.empty(resamples)
    step = max(1, 2_000_000 // len(differ_D))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn_R = rng.binomial(users, len(differ_D) / users, size=stop - start)
        for r, drawn in enumerate(drawn_R, start=start):
            means_R[r] = differ_D[rng.integers(0, len(differ_D), drawn)].sum() / users
        signs_RD = rng.integers(0, 2, size=(stop - start, len(differ_D)), dtype=np.int8) * 2 - 1
        flipped_R[start:stop] = signs_RD @ differ_D / users
    low, high = interval(means_R)
    extreme = int((np.abs(flipped_R) >= abs(observed) - 1e-12).sum())
    return Difference(observed, low, high, (extreme + 1) / (resamples + 1))


def _within(ranks_U: np.ndarray, k: int) -> np.ndarray:
    return np.asarray((ranks_U != MISSED) & (ranks_U <= k))


def _auc_of_each(users_N: np.ndarray, labels_N: np.ndarray, scores_N: np.ndarray) -> np.ndarray:
    """Per user, in ascending order of their indices."""
    order_N = np.argsort(users_N, kind="stable")
    starts = np.unique(users_N[order_N], return_index=True)[1][1:]
    groups = zip(np.split(labels_N[order_N], starts), np.split(scores_N[order_N], starts), strict=True)
    return np.array([auc(labels, scores) for labels, scores in groups])


def _average_ranks(scores_N: np.ndarray) -> np.ndarray:
    """Ranks from 1 in ascending order; tied scores share the mean of their places."""
    _, inverse_N, counts = np.unique(scores_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse_N]
