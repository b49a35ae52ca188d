"""Pairs out of events."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ranker.collm.batches import MOST, everything, pairs_of, slates
from shared.data.pairs import Pairs, real
from shared.data.split import train_sequence
from tests.ranker import tiny
from tests.ranker.collm import made

RETRIEVER = tiny.Neighbours(tiny.ITEMS)


def config(**changes: object) -> made.CoLLMConfig:
    return made.config(Path("nowhere"), text_prompts=0, validation_pairs=100, **changes)


def liked(pairs: Pairs) -> np.ndarray:
    return np.flatnonzero(pairs.labels_N > 0)


def test_an_epoch_holds_every_training_event_with_its_own_past() -> None:
    made_pairs = pairs_of(tiny.DATA, RETRIEVER, config()).train
    found = {
        (int(made_pairs.users_N[n]), tuple(real(made_pairs.histories_NL[n])), int(made_pairs.items_N[n]))
        for n in liked(made_pairs)
    }
    expected = set()
    for user, sequence in enumerate(tiny.DATA.sequences(), start=1):
        seen = train_sequence(sequence).tolist()
        expected |= {(user, tuple(seen[max(0, t - made.WINDOW) : t]), seen[t]) for t in range(1, len(seen))}
    assert found == expected


def test_negatives_were_never_taken_and_come_as_often_as_asked() -> None:
    for hard in (0.0, 0.5, 1.0):
        data = pairs_of(tiny.DATA, RETRIEVER, config(negatives=3, hard=hard))
        for part in (data.train, data.valid):
            assert len(part) == 4 * len(liked(part))
            for n in np.flatnonzero(part.labels_N == 0):
                sequence = tiny.DATA.sequence(int(part.users_N[n]) - 1)
                assert int(part.items_N[n]) not in train_sequence(sequence)


def test_no_pair_tells_of_the_test_item() -> None:
    data = pairs_of(tiny.DATA, RETRIEVER, config())
    for part in (data.train, data.valid, everything(tiny.DATA, config())):
        for n in range(len(part)):
            hidden = int(tiny.DATA.sequence(int(part.users_N[n]) - 1)[-1])
            assert hidden not in part.histories_NL[n]
            assert part.labels_N[n] == 0 or part.items_N[n] != hidden


def test_hard_negatives_are_the_retrievers() -> None:
    pairs = pairs_of(tiny.DATA, RETRIEVER, config(hard=1.0)).train
    after = [(int(i) - int(h[-1])) % tiny.ITEMS for i, h in zip(pairs.items_N, pairs.histories_NL, strict=True)]
    assert max(after) <= 20 + made.WINDOW + 1
    uniform = pairs_of(tiny.DATA, RETRIEVER, config(hard=0.0)).train
    far = [(int(i) - int(h[-1])) % tiny.ITEMS for i, h in zip(uniform.items_N, uniform.histories_NL, strict=True)]
    assert max(far) > 30


def test_a_slate_is_one_event_and_its_negatives() -> None:
    pairs = pairs_of(tiny.DATA, RETRIEVER, config(negatives=3)).train
    found = slates(pairs)
    assert np.array_equal(np.concatenate(found), np.arange(len(pairs)))
    for rows in found:
        assert pairs.labels_N[rows].tolist() == [1, 0, 0, 0]
        assert len(set(pairs.users_N[rows])) == 1
        assert (pairs.histories_NL[rows] == pairs.histories_NL[rows[0]]).all()


def test_the_small_recommender_has_negatives_of_its_own_number() -> None:
    pairs = everything(tiny.DATA, config(negatives=1, behaviour_negatives=4))
    assert len(pairs) == 5 * len(liked(pairs))


def test_the_same_seed_gives_the_same_pairs() -> None:
    one, again, other = (pairs_of(tiny.DATA, RETRIEVER, config(seed=s)).train for s in (1, 1, 2))
    assert np.array_equal(one.items_N, again.items_N)
    assert not np.array_equal(one.items_N, other.items_N)


def test_a_slate_of_several_histories_holds_one_users_pairs_in_their_order() -> None:
    pairs = pairs_of(tiny.DATA, RETRIEVER, config(negatives=2)).train
    pairs = pairs.take(np.argsort(pairs.users_N, kind="stable"))
    exact, wide = slates(pairs), slates(pairs, together=8)
    for units in (exact, wide):
        assert np.concatenate(units).tolist() == list(range(len(pairs)))
        assert all(len(set(pairs.users_N[rows].tolist())) == 1 for rows in units)
    assert max(map(len, wide)) == 8
    assert all(len({tuple(history) for history in pairs.histories_NL[rows]}) == 1 for rows in exact)


def test_a_long_slate_is_cut() -> None:
    pairs = pairs_of(tiny.DATA, RETRIEVER, config(negatives=MOST + 4)).train
    assert max(map(len, slates(pairs))) == MOST
