"""Leave-one-out: a user's last item is the test truth, the one before it the validation truth.

Users with fewer than 3 items only train: they have nothing to hide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from shared.data.prepared import Prepared

Part = Literal["valid", "test"]


@dataclass(frozen=True, slots=True)
class Case:
    """One question of an evaluation: after `history` (oldest first), which item came? All dense indices."""

    user: int
    history: np.ndarray
    truth: int


def newly(sequence: np.ndarray) -> np.ndarray:
    """Per event whether the user had not taken that item before. Only such events ask what serving asks: it never
    recommends what is in the history, and among candidates what is in the history would be seen to be the answer."""
    new = np.zeros(len(sequence), dtype=bool)
    new[np.unique(sequence, return_index=True)[1]] = True
    return new


def spaced(count: int, most: int) -> np.ndarray:
    """Places of at most `most` out of `count`, evenly spaced from the first to the last; 0 is all."""
    return np.linspace(0, count - 1, most).round().astype(int) if 0 < most < count else np.arange(count)


def train_sequence(sequence: np.ndarray) -> np.ndarray:
    """What training may see of a user, oldest first."""
    return sequence[:-2] if len(sequence) >= 3 else sequence


def cases(data: Prepared, part: Part) -> Iterator[Case]:
    """valid: after the training items. test: after training and validation items."""
    hidden = 2 if part == "valid" else 1
    for user, sequence in enumerate(data.sequences()):
        if len(sequence) >= 3:
            yield Case(user, sequence[:-hidden], int(sequence[-hidden]))
