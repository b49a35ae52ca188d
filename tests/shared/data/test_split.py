"""Leave-one-out: nothing leaks, nothing is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.artifact import Manifest
from shared.catalog import Catalog, Item
from shared.data.prepared import Prepared
from shared.data.split import cases, newly, spaced, train_sequence

SEQUENCES = st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=12)


def prepared(sequences: list[list[int]]) -> Prepared:
    catalog = Catalog(tuple(Item(str(i), f"t{i}") for i in range(1, 10)))
    offsets = np.cumsum([0, *map(len, sequences)])
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    users = [f"u{u}" for u in range(len(sequences))]
    return Prepared(catalog, users, offsets, items, Manifest(kind="data", method="table"))


@given(st.integers(0, 300), st.integers(0, 300))
def test_some_are_spaced_from_the_first_to_the_last(count: int, most: int) -> None:
    places = spaced(count, most)
    assert len(places) == (min(count, most) if most else count)
    if most > 1 and count:
        gaps = np.diff(places)
        assert (places[0], places[-1]) == (0, count - 1)
        assert len(gaps) == 0 or 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1


@given(st.lists(st.integers(1, 5)))
def test_an_event_is_new_where_the_item_was_not_there_before(sequence: list[int]) -> None:
    expected = [item not in sequence[:t] for t, item in enumerate(sequence)]
    assert newly(np.array(sequence, dtype=np.int64)).tolist() == expected


@given(SEQUENCES)
def test_train_valid_and_test_make_up_the_whole_sequence(sequences: list[list[int]]) -> None:
    data = prepared(sequences)
    valid = {case.user: case for case in cases(data, "valid")}
    test = {case.user: case for case in cases(data, "test")}
    assert valid.keys() == test.keys() == {u for u, s in enumerate(sequences) if len(s) >= 3}
    for user, sequence in enumerate(sequences):
        train = train_sequence(data.sequence(user)).tolist()
        if user in test:
            assert [*train, valid[user].truth, test[user].truth] == sequence
        else:
            assert train == sequence


@given(SEQUENCES)
def test_no_question_shows_its_answer_or_what_comes_after(sequences: list[list[int]]) -> None:
    data = prepared(sequences)
    for part, hidden in (("valid", 2), ("test", 1)):
        for case in cases(data, part):  # type: ignore[arg-type]
            assert case.history.tolist() == sequences[case.user][:-hidden]
            assert case.truth == sequences[case.user][-hidden]


def test_short_users_only_train() -> None:
    data = prepared([[1, 2], [3], []])
    assert list(cases(data, "valid")) == list(cases(data, "test")) == []
    assert [train_sequence(s).tolist() for s in data.sequences()] == [[1, 2], [3], []]
