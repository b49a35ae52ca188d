"""Item sequences as left-padded tensors.

Shapes:  B sequences  L positions, oldest first, PAD = 0 on the left
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from shared.catalog import PAD


def pad_left(sequences: Sequence[Sequence[int] | np.ndarray], window: int) -> Tensor:
    """The last `window` items of each, as int64 B x L with L the longest that is left (at least 1)."""
    length = max(1, min(window, max((len(s) for s in sequences), default=1)))
    padded_BL = np.full((len(sequences), length), PAD, dtype=np.int64)
    for row, sequence in zip(padded_BL, sequences, strict=True):
        kept = sequence[-length:]
        if len(kept):
            row[-len(kept) :] = kept
    return torch.from_numpy(padded_BL)


def windows(sequences: Iterable[np.ndarray], window: int) -> list[np.ndarray]:
    """Cuts each sequence from its end into pieces of window + 1 items that overlap by one.

    So every item but a user's first is the target of exactly one position, whatever the length.
    """
    pieces = []
    for sequence in sequences:
        stop = len(sequence)
        while stop >= 2:
            start = max(0, stop - window - 1)
            pieces.append(sequence[start:stop])
            stop = start + 1
    return pieces


def train_batches(pieces: Sequence[np.ndarray], size: int, window: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """One epoch in random order: B x (L + 1); inputs are [:, :-1], targets [:, 1:]."""
    order = rng.permutation(len(pieces))
    for start in range(0, len(order), size):
        yield pad_left([pieces[i] for i in order[start : start + size]], window + 1)
