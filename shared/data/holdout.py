"""What each user is trained on and asked about, as sets of items: for recommenders that predict several at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.data.prepared import Prepared
from shared.data.split import train_sequence

Split = Literal["last", "random"]


@dataclass(frozen=True, slots=True)
class Holdout:
    """By user: distinct dense indices, in the order of their first event. A user may have nothing held out."""

    train: list[np.ndarray]
    valid: list[np.ndarray]
    test: list[np.ndarray]


def holdout(data: Prepared, split: Split, seed: int) -> Holdout:
    """last: the last item is the test's, the one before it validation's, as everywhere in Tandem. random: a tenth
    of each user's items, at least one, for each (CLLM4Rec, section 4.1); users of fewer than 3 items only train."""
    if split == "last":
        sequences = list(data.sequences())
        whole = [s if len(s) >= 3 else s[:0] for s in sequences]
        return Holdout(
            [_distinct(train_sequence(s)) for s in sequences], [s[-2:-1] for s in whole], [s[-1:] for s in whole]
        )
    parts = [_random(_distinct(s), np.random.default_rng((seed, u))) for u, s in enumerate(data.sequences())]
    return Holdout([p[0] for p in parts], [p[1] for p in parts], [p[2] for p in parts])


def _random(items: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if len(items) < 3:
        return items, items[:0], items[:0]
    tenth = max(1, round(0.1 * len(items)))
    order = rng.permutation(len(items))
    pieces = order[2 * tenth :], order[:tenth], order[tenth : 2 * tenth]
    train, valid, test = (items[np.sort(piece)] for piece in pieces)
    return train, valid, test


def _distinct(items: np.ndarray) -> np.ndarray:
    return items[np.sort(np.unique(items, return_index=True)[1])]
