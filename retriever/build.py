"""Which index a catalogue gets: flat while that is quick, then a scan that has shown its recall."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np

from retriever.index import FLAT_UP_TO, ItemIndex, K, rows_of

EFFORTS = (160, 320, 640, 1280, 2560, 5120)
MIN_RECALL = 0.99
QUERIES = 256
TRAINING_ROWS = 100_000
"""Sixteen levels per dimension are learnt from a sample of the items."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the artifact's manifest says of its index. recall: at 20, against exact search. tried: each effort of the
    scan that was measured, with its recall; a flat index with a `tried` is one that no scan was good enough for."""

    kind: str
    effort: int
    recall: float
    queries: int
    tried: dict[int, float]

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "tried": {str(effort): recall for effort, recall in self.tried.items()}}


def build(
    items_ND: np.ndarray, bias_N: np.ndarray, users_BD: np.ndarray | None = None, flat_up_to: int = FLAT_UP_TO
) -> tuple[ItemIndex, Report]:
    """users_BD: the queries that the recall is measured with; items stand in for users where there are none."""
    flat = ItemIndex.build(items_ND, bias_N)
    if len(flat) <= flat_up_to:
        return flat, Report(flat.kind, 0, 1.0, 0, {})
    users_BD = _sample(items_ND if users_BD is None else users_BD)
    exact = flat.search(users_BD, K)
    worst_B = np.array([found[-1].score for found in exact])
    scan = _scan(rows_of(items_ND, bias_N))
    tried: dict[int, float] = {}
    for effort in EFFORTS:
        scan.k_factor = effort / K
        index = ItemIndex(scan)
        tried[effort] = _recall(index, users_BD, worst_B)
        if tried[effort] >= MIN_RECALL:
            return index, Report(index.kind, effort, tried[effort], len(users_BD), tried)
    return flat, Report(flat.kind, 0, 1.0, len(users_BD), tried)


def _scan(vectors_ND: np.ndarray) -> Any:
    width = vectors_ND.shape[1]
    index = faiss.index_factory(width, f"PQ{width}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    index.train(_sample(vectors_ND, TRAINING_ROWS))
    index.add(vectors_ND)
    return index


def _recall(index: ItemIndex, users_BD: np.ndarray, worst_B: np.ndarray) -> float:
    """By score, so that of two equal items either will do."""
    found = index.search(users_BD, K)
    within_B = worst_B - 1e-5 * np.maximum(1, np.abs(worst_B))
    hits = [sum(candidate.score >= worst for candidate in one) / K for one, worst in zip(found, within_B, strict=True)]
    return round(float(np.mean(hits)), 5)


def _sample(rows_ND: np.ndarray, count: int = QUERIES) -> np.ndarray:
    """Evenly spaced, at most so many."""
    return np.ascontiguousarray(rows_ND[:: -(-len(rows_ND) // count)], dtype=np.float32)
