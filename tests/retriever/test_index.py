"""FAISS against brute force. Small whole numbers are exact in float32, so that even ties must match to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retriever.index import ItemIndex
from shared.candidate import Candidate
from shared.catalog import PAD
from shared.errors import BadArtifact

seeded = settings(derandomize=True, deadline=None, max_examples=60)
SIZES = st.tuples(st.integers(1, 30), st.integers(1, 5), st.integers(1, 4))


def draw(items: int, width: int, users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (items, width), items, (users, width)
    items_ND, bias_N, hidden_BD = (rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes)
    return items_ND, bias_N, hidden_BD


@given(SIZES, st.integers(1, 40), st.integers(0, 10_000), st.data())
@seeded
def test_search_equals_brute_force_with_bias_and_exclusions(
    sizes: tuple[int, int, int], k: int, seed: int, data: st.DataObject
) -> None:
    items_ND, bias_N, hidden_BD = draw(*sizes, seed)
    exclude = [data.draw(st.lists(st.integers(PAD, len(items_ND)))) for _ in hidden_BD]
    found = ItemIndex.build(items_ND, bias_N).search(hidden_BD, k, exclude)
    for candidates, hidden_D, banned in zip(found, hidden_BD, exclude, strict=True):
        scores = {i: float(hidden_D @ items_ND[i - 1] + bias_N[i - 1]) for i in range(1, len(items_ND) + 1)}
        allowed = [score for item, score in scores.items() if item not in banned]
        assert [c.score for c in candidates] == sorted(allowed, reverse=True)[:k]
        assert all(c.score == scores[c.item] and c.item not in banned for c in candidates)
        assert len({c.item for c in candidates}) == len(candidates)


def test_real_numbers_agree_with_brute_force_in_double_precision() -> None:
    rng = np.random.default_rng(0)
    items_ND, bias_N, hidden_BD = rng.normal(size=(500, 64)), rng.normal(size=500), rng.normal(size=(20, 64))
    scores_BN = hidden_BD @ items_ND.T + bias_N
    best_BK = np.argsort(-scores_BN, axis=1)[:, :20]
    for row, found in enumerate(ItemIndex.build(items_ND, bias_N).search(hidden_BD, 20)):
        assert [c.item - 1 for c in found] == best_BK[row].tolist()
        np.testing.assert_allclose([c.score for c in found], scores_BN[row, best_BK[row]], atol=1e-4)


def test_more_than_is_left_gives_what_is_left_and_never_the_padding_item() -> None:
    items_ND, bias_N, hidden_BD = draw(6, 3, 1, 0)
    [found] = ItemIndex.build(items_ND, bias_N).search(hidden_BD, 50, [[PAD, 2, 4]])
    assert sorted(c.item for c in found) == [1, 3, 5, 6]


@pytest.mark.parametrize("users", [1, 2])
def test_exclusions_may_be_arrays(users: int) -> None:
    items_ND, bias_N, _ = draw(6, 3, 1, 0)
    found = ItemIndex.build(items_ND, bias_N).search(np.ones((users, 3)), 6, [np.array([1, 2, 3])] * users)  # type: ignore[list-item]
    assert [sorted(c.item for c in candidates) for candidates in found] == [[4, 5, 6]] * users


def test_one_users_exclusions_do_not_touch_another() -> None:
    items_ND, bias_N, _ = draw(6, 3, 1, 0)
    found = ItemIndex.build(items_ND, bias_N).search(np.ones((2, 3)), 6, [[1, 2, 3], []])
    assert [len(candidates) for candidates in found] == [3, 6]


def test_an_item_outside_the_catalogue_is_excluded_already() -> None:
    items_ND, bias_N, hidden_BD = draw(6, 3, 1, 0)
    [found] = ItemIndex.build(items_ND, bias_N).search(hidden_BD, 6, [[7, 1_000_000]])
    assert len(found) == 6


def test_a_saved_index_answers_as_before(tmp_path: Path) -> None:
    items_ND, bias_N, hidden_BD = draw(20, 4, 3, 1)
    index = ItemIndex.build(items_ND, bias_N)
    index.save(tmp_path)
    loaded = ItemIndex.load(tmp_path, 20)
    assert len(loaded) == 20
    assert loaded.search(hidden_BD, 7, [[1], [], [2, 3]]) == index.search(hidden_BD, 7, [[1], [], [2, 3]])


def test_an_index_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    ItemIndex.build(*draw(20, 4, 1, 1)[:2]).save(tmp_path)
    with pytest.raises(BadArtifact, match=r"20 items, the catalogue 21"):
        ItemIndex.load(tmp_path, 21)


def test_numbers_come_out_as_plain_python() -> None:
    [[candidate]] = ItemIndex.build(np.ones((1, 2)), np.ones(1)).search(np.ones((1, 2)), 1)
    assert candidate == Candidate(1, 3.0)
    assert (type(candidate.item), type(candidate.score)) == (int, float)
