"""Slates out of windows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ranker.llara.batches import bindings_at, fixed_slates, nexts_of, slates_at
from shared.data.llara import windows
from shared.data.pairs import real
from shared.data.split import train_sequence
from tests.ranker import tiny
from tests.ranker.llara import made

CONFIG = made.config(Path("nowhere"), candidates=10)
DATA = nexts_of(tiny.DATA, CONFIG)
RETRIEVER = tiny.Neighbours(tiny.ITEMS)


def test_rows_are_every_window_of_the_training_sequences_and_what_is_held_out() -> None:
    expected = windows([train_sequence(s) for s in tiny.DATA.sequences()], 4, 3)
    assert np.array_equal(DATA.train.histories_NL, expected.histories_NL)
    for part, hidden in ((DATA.valid, 2), (DATA.test, 1)):
        for row, sequence in enumerate(tiny.DATA.sequences()):
            assert part.nexts_N[row] == sequence[-hidden]
            assert real(part.histories_NL[row]) == sequence[:-hidden][-4:].tolist()


def test_a_slate_holds_the_next_item_once_and_nothing_of_the_history() -> None:
    for slate, row in zip(fixed_slates(DATA.test, tiny.ITEMS, RETRIEVER, CONFIG), range(999), strict=False):
        assert slate.candidates[slate.right] == DATA.test.nexts_N[row]
        assert len(set(slate.candidates)) == len(slate.candidates) == 10
        wrong = set(slate.candidates) - {slate.candidates[slate.right]}
        assert not wrong & set(slate.history)


def test_evaluations_slates_are_the_same_at_every_call_and_other_for_another_seed() -> None:
    one, again = (fixed_slates(DATA.test, tiny.ITEMS, None, CONFIG) for _ in range(2))
    other = fixed_slates(DATA.test, tiny.ITEMS, None, made.config(Path("nowhere"), candidates=10, seed=2))
    assert one == again
    assert one != other
    some = DATA.test.take(np.arange(3))
    assert fixed_slates(some, tiny.ITEMS, None, CONFIG) == one[:3]


def test_training_draws_anew_in_the_next_epoch_and_repeats_by_seed() -> None:
    steps = len(DATA.train) // CONFIG.batch
    first = {(tuple(s.history), tuple(s.candidates)) for n in range(steps) for s in slates(n)}
    second = {(tuple(s.history), tuple(s.candidates)) for n in range(steps, 2 * steps) for s in slates(n)}
    assert not first & second
    assert slates(3) == slates(3)


def slates(step: int) -> list[made.LLaRA]:
    return slates_at(step, DATA.train, tiny.ITEMS, RETRIEVER, CONFIG)  # type: ignore[return-value]


def test_the_right_place_is_anywhere() -> None:
    many = [slate for n in range(100) for slate in slates_at(n, DATA.train, tiny.ITEMS, None, CONFIG)]
    counts = Counter(slate.right for slate in many)
    assert set(counts) == set(range(10))
    assert max(counts.values()) < 2 * len(many) / 10


def test_a_share_of_the_wrong_ones_is_the_retrievers() -> None:
    for hard, most in ((0.0, 8.0), (1.0, 9.0)):
        config = made.config(Path("nowhere"), candidates=10, hard=hard)
        near = []
        for row, slate in enumerate(fixed_slates(DATA.test, tiny.ITEMS, RETRIEVER, config)):
            last = int(DATA.test.histories_NL[row, -1])
            near.append(sum((i - last) % tiny.ITEMS <= 24 for i in slate.candidates))
        assert np.mean(near) <= most + 1
    assert np.mean(near) > 9


def test_a_small_catalogue_gives_short_slates() -> None:
    config = made.config(Path("nowhere"), hard=0.0)
    small = nexts_of(tiny.prepared([[1, 2, 3, 4, 5, 6]] * 3, tiny.catalog(8)), config)
    for slate in fixed_slates(small.test, 8, None, config):
        assert sorted(slate.candidates) == [1, 6, 7, 8]


def test_a_binding_asks_users_about_what_they_chose_next() -> None:
    rows = {(tuple(real(h)), int(n)) for h, n in zip(DATA.train.histories_NL, DATA.train.nexts_N, strict=True)}
    places = Counter[int]()
    for step in range(40):
        for one in bindings_at(step, DATA.train, tiny.ITEMS, CONFIG):
            assert len(set(one.candidates)) == len(one.candidates) == 10
            assert 1 <= len(one.asked) == len(one.histories) <= 5
            chosen = [one.candidates[place] for place in one.asked]
            assert {(tuple(h), item) for h, item in zip(one.histories, chosen, strict=True)} <= rows
            places.update(one.asked)
    assert set(places) == set(range(10))
    assert bindings_at(3, DATA.train, tiny.ITEMS, CONFIG) == bindings_at(3, DATA.train, tiny.ITEMS, CONFIG)
    assert bindings_at(3, DATA.train, tiny.ITEMS, CONFIG) != bindings_at(4, DATA.train, tiny.ITEMS, CONFIG)
    for one in bindings_at(0, DATA.train, 6, CONFIG):
        assert len(set(one.candidates)) == len(one.candidates) == 6
