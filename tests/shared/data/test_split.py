"""Leave-one-out: nothing leaks, nothing is lost."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shared.artifact import Manifest
from shared.catalog import Catalog, Item
from shared.data.prepared import Prepared
from shared.data.split import cases, train_sequence

SEQUENCES = st.lists(st.lists(st.integers(1, 9), max_size=8), max_size=12)


def prepared(sequences: list[list[int]]) -> Prepared:
    catalog = Catalog(tuple(Item(str(i), f"t{i}") for i in range(1, 10)))
    offsets = np.cumsum([0, *map(len, sequences)])
    items = np.array([item for sequence in sequences for item in sequence], np.int32)
    users = [f"u{u}" for u in range(len(sequences))]
    return Prepared(catalog, users, offsets, items, Manifest(kind="data", method="table"))


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
