"""Cutting histories into windows, and padding them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.batches import pad_left, train_batches, windows
from shared.catalog import PAD

LENGTHS = st.lists(st.integers(0, 40), max_size=6)
WINDOW = st.integers(1, 12)
seeded = settings(derandomize=True, deadline=None)


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Sequences whose items are all different, so that each event has a name."""
    starts = np.cumsum([1, *lengths])
    return [np.arange(start, start + length) for start, length in zip(starts, lengths, strict=False)]


@given(LENGTHS, WINDOW)
@seeded
def test_every_item_but_the_first_is_a_target_exactly_once(lengths: list[int], window: int) -> None:
    sequences = numbered(lengths)
    targets = Counter(int(item) for piece in windows(sequences, window) for item in piece[1:])
    assert targets == Counter(int(item) for sequence in sequences for item in sequence[1:])


@given(LENGTHS, WINDOW)
@seeded
def test_a_window_is_a_run_of_one_user_and_never_too_long(lengths: list[int], window: int) -> None:
    sequences = numbered(lengths)
    for piece in windows(sequences, window):
        assert 2 <= len(piece) <= window + 1
        assert any(set(piece) <= set(sequence) for sequence in sequences)
        assert (np.diff(piece) == 1).all()


@given(LENGTHS, WINDOW)
@seeded
def test_only_a_users_oldest_window_may_be_short(lengths: list[int], window: int) -> None:
    for sequence in numbered(lengths):
        pieces = windows([sequence], window)
        assert all(len(piece) == window + 1 for piece in pieces[:-1])


@given(LENGTHS, WINDOW)
@seeded
def test_padding_keeps_the_most_recent_items_on_the_right(lengths: list[int], window: int) -> None:
    sequences = numbered(lengths)
    padded_BL = pad_left(sequences, window)
    assert padded_BL.shape == (len(lengths), max(1, min(window, max(lengths, default=1))))
    for row, sequence in zip(padded_BL.tolist(), sequences, strict=True):
        kept = sequence[-window:].tolist()
        assert row == [PAD] * (len(row) - len(kept)) + kept


def test_an_empty_history_is_all_padding() -> None:
    assert pad_left([(), (3, 4)], 5).tolist() == [[PAD, PAD], [3, 4]]
    assert pad_left([()], 5).tolist() == [[PAD]]


def test_an_epoch_holds_every_window_once_in_an_order_that_the_seed_alone_decides() -> None:
    pieces = windows(numbered([30, 7, 2]), 4)
    epochs = [list(train_batches(pieces, 3, 4, np.random.default_rng(seed))) for seed in (1, 1, 2)]
    flat = [[tuple(row) for batch in epoch for row in batch.tolist()] for epoch in epochs]
    assert flat[0] == flat[1] != flat[2]
    assert sorted(flat[0]) == sorted(flat[2])
    assert len(set(flat[0])) == len(pieces)
