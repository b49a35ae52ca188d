"""What a batch is said to take, out of what batches took."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ranking.pace import Pace

SIZES = st.integers(1, 32)


def seen(seconds_of: dict[int, float]) -> Pace:
    pace = Pace()
    for size, seconds in seconds_of.items():
        pace.saw(size, seconds)
    return pace


def test_what_nobody_saw_takes_no_time() -> None:
    assert (Pace().of(8), Pace().of_queue(100, 8)) == (0.0, 0.0)


@given(seen_sizes=st.lists(SIZES, min_size=1), asked=SIZES)
def test_on_a_cpu_it_is_never_less_than_the_truth(seen_sizes: list[int], asked: int) -> None:
    pace = seen({size: 0.1 * size for size in seen_sizes})
    assert pace.of(asked) >= 0.1 * asked - 1e-9


@given(seen_sizes=st.lists(SIZES, min_size=1), asked=SIZES)
def test_on_a_gpu_it_is_never_less_than_the_truth(seen_sizes: list[int], asked: int) -> None:
    pace = seen(dict.fromkeys(seen_sizes, 0.1))
    assert pace.of(asked) >= 0.1
    assert asked > max(seen_sizes) or pace.of(asked) == pytest.approx(0.1)


def test_one_by_one_is_sooner_where_a_batch_takes_as_long_as_its_parts() -> None:
    assert seen({1: 0.1, 3: 0.25}).prefers_one_by_one(3)
    assert not seen({1: 0.1, 3: 0.12}).prefers_one_by_one(3)


def test_what_was_never_tried_is_tried() -> None:
    assert not seen({1: 0.1, 3: 0.3}).prefers_one_by_one(2)
    assert not seen({2: 0.2}).prefers_one_by_one(2)


def test_a_queue_is_full_batches_and_a_rest() -> None:
    pace = seen({8: 0.5, 1: 0.2})
    assert pace.of_queue(8, 8) == 0.5
    assert pace.of_queue(17, 8) == pytest.approx(1.2)


def test_a_batch_that_took_long_once_is_forgotten_in_time() -> None:
    pace = seen({1: 10.0})
    for _ in range(20):
        pace.saw(1, 0.1)
    assert pace.of(1) < 0.2
