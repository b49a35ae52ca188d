"""Top-k by inner product in FAISS. The bias is one more dimension: score = hidden . item + bias.

flat: every item is scored, exactly. Up to some 200,000 items that is a millisecond on one core.
scan: every item is scored in 4 bits a dimension, and the best of these again in full. Unlike a graph or an inverted
list it assumes nothing of the vectors: with inner products of random ones, where those must visit half of all items,
it finds 999 of 1000 in a fourteenth of flat's time (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from shared.candidate import Candidate
from shared.catalog import PAD
from shared.errors import BadArtifact

FILE = "index.faiss"
FLAT_UP_TO = 200_000
K = 20
"""What the recall is measured at, and an index's `effort` is for."""
PER_PLACE = 3
"""A scan scores at least so many items in full for each place of the answer and each item that is not wanted."""
OVERFETCH = 500
"""So many exclusions are taken out of a longer answer where users are searched together, or a scan is. For one user of
a flat index FAISS's selector, which asks for each item, is as fast as no exclusion at all, and so it is with more."""
GPU_K = 2048
"""The longest answer of a GPU index."""
BLAS_FROM = 512
"""Queries times dimensions. Up to 128,000 FAISS 1.15 goes through the catalogue anew for each query, which for 32 users
takes three to eight times as long as one matrix product (facebookresearch/faiss pull request 5109 lowers it too)."""
_faiss: Any = faiss  # its stubs do not know all arguments

faiss.cvar.distance_compute_blas_threshold = min(faiss.cvar.distance_compute_blas_threshold, BLAS_FROM)


class ItemIndex:
    """Immutable once built: a new catalogue is a new index, swapped whole."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self._scans = isinstance(index, faiss.IndexRefineFlat)
        self._flat: Any = faiss.downcast_index(index.refine_index) if self._scans else index
        self._gpu: Any = _on_gpu(self._flat)

    @classmethod
    def build(cls, items_ND: np.ndarray, bias_N: np.ndarray) -> ItemIndex:
        """Flat. Row i is the item with dense index i + 1: PAD is not in the index."""
        vectors = rows_of(items_ND, bias_N)
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

    @property
    def _selects(self) -> bool:
        return not self._scans and self._gpu is None

    @property
    def kind(self) -> str:
        return "scan" if self._scans else "flat"

    @property
    def effort(self) -> int:
        """Items that a scan scores in full for K places; 0 for flat, which scores all."""
        return round(self._index.k_factor * K) if self._scans else 0

    @property
    def bytes_per_item(self) -> int:
        """Of vectors and codes."""
        codes = self._index.base_index.sa_code_size() if self._scans else 0
        return int(self._flat.sa_code_size() + codes)

    @property
    def raw(self) -> Any:
        """FAISS's own: what a benchmark compares with."""
        return self._index

    def rows(self, items: Sequence[int]) -> np.ndarray:
        """The vectors of these dense indices with the bias as the last column, len(items) x (D + 1)."""
        if not len(items):
            return np.zeros((0, self._index.d), dtype=np.float32)
        rows: np.ndarray = self._flat.reconstruct_batch(np.asarray(items, dtype=np.int64) - 1)
        return rows

    def search(
        self, hidden_BD: np.ndarray, k: int, exclude: Sequence[Collection[int]] | None = None
    ) -> list[list[Candidate]]:
        """The k best items per row, best first, without the dense indices in `exclude`."""
        queries = np.concatenate((hidden_BD, _ones(len(hidden_BD))), axis=1, dtype=np.float32)
        if exclude is None:
            exclude = [()] * len(queries)
        most = max(map(len, exclude), default=0)
        if most > OVERFETCH or (most and len(queries) == 1 and self._selects):
            return [self._one(query[None], k, banned) for query, banned in zip(queries, exclude, strict=True)]
        scores_BK, rows_BK = self._best(queries, k, most)
        found = zip(scores_BK.tolist(), rows_BK.tolist(), exclude, strict=True)
        return [_candidates(scores, rows, k, banned) for scores, rows, banned in found]

    def _one(self, query: np.ndarray, k: int, banned: Collection[int]) -> list[Candidate]:
        if len(banned) > OVERFETCH or (len(banned) and self._selects):
            scores_1K, rows_1K = self._selected(query, k, banned)
            return _candidates(scores_1K[0].tolist(), rows_1K[0].tolist(), k, ())
        scores_1K, rows_1K = self._best(query, k, len(banned))
        return _candidates(scores_1K[0].tolist(), rows_1K[0].tolist(), k, banned)

    def _best(self, queries: np.ndarray, k: int, banned: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows of the k best beside so many that are not wanted."""
        places = min(k + banned, len(self))
        if self._gpu is not None and places <= GPU_K:
            found: tuple[np.ndarray, np.ndarray] = self._gpu.search(queries, places)
        elif self._scans:
            wanted = _faiss.IndexRefineSearchParameters(k_factor=max(PER_PLACE, self.effort / places))
            found = self._index.search(queries, places, params=wanted)
        else:
            found = self._index.search(queries, places)
        return found

    def _selected(self, query: np.ndarray, k: int, banned: Collection[int]) -> tuple[np.ndarray, np.ndarray]:
        """Exact, whatever the kind."""
        rows = np.fromiter(banned, dtype=np.int64, count=len(banned)) - 1
        if len(rows) <= OVERFETCH:
            selector = _faiss.IDSelectorNot(_faiss.IDSelectorBatch(rows))
        else:
            allowed_N = np.ones(len(self), dtype=bool)
            allowed_N[rows[(rows >= 0) & (rows < len(self))]] = False
            selector = _faiss.IDSelectorBitmap(np.packbits(allowed_N, bitorder="little"))
        found: tuple[np.ndarray, np.ndarray] = self._flat.search(
            query, min(k, len(self)), params=_faiss.SearchParameters(sel=selector)
        )
        return found


def rows_of(items_ND: np.ndarray, bias_N: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.hstack([items_ND, bias_N[:, None]]), dtype=np.float32)


def _candidates(scores: list[float], rows: list[int], k: int, banned: Collection[int]) -> list[Candidate]:
    """Few steps: beside a search of 12,000 items, each is a hundredth."""
    items = [row + 1 for row in rows[:k]]
    unwanted = frozenset((PAD, *banned))  # FAISS fills up with row -1 where there are fewer: that is PAD
    if unwanted.isdisjoint(items):
        return list(map(Candidate, items, scores))
    kept = [n for n, row in enumerate(rows) if row + 1 not in unwanted]
    return [Candidate(rows[n] + 1, scores[n]) for n in kept[:k]]


@lru_cache(maxsize=64)
def _ones(count: int) -> np.ndarray:
    return np.ones((count, 1), dtype=np.float32)


def _on_gpu(flat: faiss.Index) -> Any:
    """A copy on the first GPU where faiss-gpu is installed in place of faiss-cpu; None elsewhere. Untested: no machine
    of ours had one."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None
    return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, flat)
