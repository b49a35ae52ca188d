"""Which index a catalogue gets, and that no scan is served whose recall was not good enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retriever import build as building
from retriever.build import MIN_RECALL, build
from retriever.index import OVERFETCH, ItemIndex, K
from shared.candidate import Candidate

N, D = 4_000, 16


def random(items: int = N) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(items, D)), rng.normal(size=items), rng.normal(size=(64, D))


@pytest.fixture(scope="module")
def scan() -> ItemIndex:
    index, report = build(*random(), flat_up_to=N - 1)
    assert (index.kind, report.kind) == ("scan", "scan")
    return index


FLAT = ItemIndex.build(*random()[:2])
USERS = random()[2]


def overlap(found: list[list[Candidate]], expected: list[list[Candidate]]) -> float:
    shared = [len({c.item for c in one} & {c.item for c in other}) for one, other in zip(found, expected, strict=True)]
    return sum(shared) / sum(map(len, expected))


def test_a_small_catalogue_is_searched_exactly() -> None:
    index, report = build(*random(), flat_up_to=N)
    assert (index.kind, report.kind, report.recall, report.tried) == ("flat", "flat", 1.0, {})


def test_the_least_effort_that_is_good_enough_is_kept_with_its_recall(scan: ItemIndex) -> None:
    _, report = build(*random(), flat_up_to=0)
    *before, last = report.tried.items()
    assert all(recall < MIN_RECALL for _, recall in before)
    assert last == (report.effort, report.recall) == (scan.effort, report.tried[scan.effort])
    assert overlap(scan.search(USERS, K), FLAT.search(USERS, K)) == pytest.approx(report.recall, abs=0.02)


def test_a_scan_that_never_finds_enough_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "MIN_RECALL", 1.1)
    monkeypatch.setattr(building, "EFFORTS", (20, 40))
    index, report = build(*random(), flat_up_to=0)
    assert (index.kind, report.kind, report.recall) == ("flat", "flat", 1.0)
    assert list(report.tried) == [20, 40]
    assert index.search(USERS, K) == FLAT.search(USERS, K)


def test_items_stand_in_for_users_where_there_are_none() -> None:
    items_ND, bias_N, _ = random()
    assert build(items_ND, bias_N, flat_up_to=0)[1].recall >= MIN_RECALL


def test_a_scans_scores_are_exact(scan: ItemIndex) -> None:
    for one, other in zip(scan.search(USERS, K), FLAT.search(USERS, K), strict=True):
        exact = {c.item: c.score for c in other}
        assert all(c.score == pytest.approx(exact[c.item], abs=1e-4) for c in one if c.item in exact)
        assert [c.score for c in one] == sorted((c.score for c in one), reverse=True)


@pytest.mark.parametrize("banned", [1, 50, OVERFETCH, OVERFETCH + 1, N - 5])
def test_the_best_are_excluded_and_recall_stays(scan: ItemIndex, banned: int) -> None:
    best = [[c.item for c in one] for one in FLAT.search(USERS, banned)]
    found, exact = scan.search(USERS, K, best), FLAT.search(USERS, K, best)
    assert overlap(found, exact) >= MIN_RECALL - 0.01
    for one, taken in zip(found, best, strict=True):
        assert not {c.item for c in one} & set(taken)
        assert len(one) == min(K, N - banned)


def test_everything_excluded_leaves_nothing(scan: ItemIndex) -> None:
    assert scan.search(USERS[:2], K, [range(1, N + 1), []])[0] == []


def test_a_long_answer_is_as_good(scan: ItemIndex) -> None:
    assert overlap(scan.search(USERS, 500), FLAT.search(USERS, 500)) > MIN_RECALL


def test_a_saved_scan_answers_as_before_with_the_same_effort(scan: ItemIndex, tmp_path: Path) -> None:
    scan.save(tmp_path)
    loaded = ItemIndex.load(tmp_path, N)
    assert (loaded.kind, loaded.effort) == (scan.kind, scan.effort)
    assert loaded.search(USERS, K, [[5]] * 64) == scan.search(USERS, K, [[5]] * 64)
    np.testing.assert_array_equal(loaded.rows([1, N]), FLAT.rows([1, N]))
