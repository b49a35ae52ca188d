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


def train_sequence(sequence: np.ndarray) -> np.ndarray:
    """What training may see of a user, oldest first."""
    return sequence[:-2] if len(sequence) >= 3 else sequence


def cases(data: Prepared, part: Part) -> Iterator[Case]:
    """valid: after the training items. test: after training and validation items."""
    hidden = 2 if part == "valid" else 1
    for user, sequence in enumerate(data.sequences()):
        if len(sequence) >= 3:
            yield Case(user, sequence[:-hidden], int(sequence[-hidden]))
