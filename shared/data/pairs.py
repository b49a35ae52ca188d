"""Labelled pairs of user and item (did the user like it?) and next items, as the papers' evaluations ask them.

Users count from 1, 0 is nobody; items are dense catalogue indices. Histories are left padded, oldest first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Pairs:
    """warm_N: both sides are in the training data often enough, by the paper's own rule."""

    users_N: np.ndarray
    items_N: np.ndarray
    labels_N: np.ndarray
    histories_NL: np.ndarray
    warm_N: np.ndarray

    def __len__(self) -> int:
        return len(self.users_N)

    def take(self, rows: np.ndarray) -> Pairs:
        return Pairs(
            self.users_N[rows], self.items_N[rows], self.labels_N[rows], self.histories_NL[rows], self.warm_N[rows]
        )


@dataclass(frozen=True, slots=True)
class PairData:
    """user_ids[u - 1] is user u."""

    name: str
    catalog: Catalog
    user_ids: tuple[str, ...]
    train: Pairs
    valid: Pairs
    test: Pairs
    digest: str


@dataclass(frozen=True, slots=True)
class Nexts:
    """After histories_NL[n], item nexts_N[n] came."""

    histories_NL: np.ndarray
    nexts_N: np.ndarray

    def __len__(self) -> int:
        return len(self.nexts_N)

    def take(self, rows: np.ndarray) -> Nexts:
        return Nexts(self.histories_NL[rows], self.nexts_N[rows])


@dataclass(frozen=True, slots=True)
class NextData:
    name: str
    catalog: Catalog
    train: Nexts
    valid: Nexts
    test: Nexts
    digest: str


def left_padded(histories: Sequence[Sequence[int] | np.ndarray], window: int) -> np.ndarray:
    """N x window, int32: the last items of each history."""
    padded_NL = np.zeros((len(histories), window), dtype=np.int32)
    for row, history in zip(padded_NL, histories, strict=True):
        kept = history[-window:]
        if len(kept):
            row[-len(kept) :] = kept
    return padded_NL


def real(history_L: Iterable[int]) -> list[int]:
    """One history without its padding."""
    return [int(item) for item in history_L if item]
