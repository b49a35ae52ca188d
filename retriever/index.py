"""Exact top-k by inner product in FAISS. The bias is one more dimension: score = hidden . item + bias.

Up to some 200,000 items a flat index answers in about a millisecond on one core, with no recall to lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from shared.candidate import Candidate
from shared.errors import BadArtifact

FILE = "index.faiss"
_parameters: Any = faiss.SearchParameters  # its stub knows no arguments


class ItemIndex:
    """Immutable once built: a new catalogue is a new index, swapped whole."""

    def __init__(self, index: faiss.Index) -> None:
        self._index: Any = index

    @classmethod
    def build(cls, items_ND: np.ndarray, bias_N: np.ndarray) -> ItemIndex:
        """Row i is the item with dense index i + 1: PAD is not in the index."""
        vectors = np.ascontiguousarray(np.hstack([items_ND, bias_N[:, None]]), dtype=np.float32)
        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return cls(index)

    @classmethod
    def load(cls, folder: Path, items: int) -> ItemIndex:
        index = faiss.read_index(str(folder / FILE))
        if index.ntotal != items:
            raise BadArtifact(f"{folder / FILE} holds {index.ntotal} items, the catalogue {items}. Train it anew.")
        return cls(index)

    def save(self, folder: Path) -> None:
        faiss.write_index(self._index, str(folder / FILE))

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def rows(self, items: Sequence[int]) -> np.ndarray:
        """The vectors of these dense indices with the bias as the last column, len(items) x (D + 1)."""
        if not len(items):
            return np.zeros((0, self._index.d), dtype=np.float32)
        rows: np.ndarray = self._index.reconstruct_batch(np.asarray(items, dtype=np.int64) - 1)
        return rows

    def search(
        self, hidden_BD: np.ndarray, k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        """The k best items per row, best first, without the dense indices in `exclude`."""
        queries = np.hstack([hidden_BD, np.ones((len(hidden_BD), 1))]).astype(np.float32)
        k = min(k, len(self))
        if not exclude or not any(len(e) for e in exclude):
            return [_candidates(*found) for found in zip(*self._index.search(queries, k), strict=True)]
        answers = []
        for query, excluded in zip(queries, exclude, strict=True):
            rows = np.asarray(excluded, dtype=np.int64) - 1
            selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(rows))
            scores, found = self._index.search(query[None], k, params=_parameters(sel=selector))
            answers.append(_candidates(scores[0], found[0]))
        return answers


def _candidates(scores_K: np.ndarray, rows_K: np.ndarray) -> list[Candidate]:
    # FAISS fills up with row -1 where the selector leaves fewer than k.
    return [Candidate(int(r) + 1, float(s)) for s, r in zip(scores_K, rows_K, strict=True) if r >= 0]
