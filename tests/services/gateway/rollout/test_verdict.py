"""What is proven against a release, and what is chance."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.rollout.health import Numbers
from services.gateway.rollout.verdict import Limits, verdict, wilson

LIMITS = Limits()
times = st.lists(st.floats(0.1, 10_000), max_size=200).map(sorted).map(tuple)


@st.composite
def numbers(draw: st.DrawFn, most: int = 1_000) -> Numbers:
    answers = draw(st.integers(0, most))
    ms = draw(times)[:answers]
    ranked = draw(times)[: len(ms)]
    faults, unsure = draw(st.integers(0, answers - len(ms))), draw(st.integers(0, answers))
    return Numbers(answers, faults, unsure, ms, ms, ranked)


def cause(new: Numbers, old: Numbers) -> str | None:
    found = verdict(new, old, LIMITS)
    return found.cause if found else None


def good(answers: int, ms: float = 100.0) -> Numbers:
    """Each took so long in the ranker, and a millisecond in retrieval."""
    return Numbers(answers, 0, 0, (ms + 1,) * answers, (1.0,) * answers, (ms,) * answers)


@given(numbers())
def test_nobody_is_worse_than_itself(one: Numbers) -> None:
    assert verdict(one, one, LIMITS) is None


@given(numbers(most=LIMITS.answers - 1), numbers())
def test_few_answers_prove_nothing(new: Numbers, old: Numbers) -> None:
    assert verdict(new, old, LIMITS) is None


@given(numbers(most=LIMITS.answers - 1) | st.integers(20, 1_000).map(good), st.integers(20, 1_000))
def test_a_release_whose_every_answer_fails_goes(old: Numbers, answers: int) -> None:
    assert cause(Numbers(answers, answers), old) == "faults"


@given(st.integers(1, 1_000), st.integers(20, 1_000), st.floats(5, 1_000))
def test_five_times_slower_goes_once_there_are_enough(new: int, old: int, ms: float) -> None:
    found = cause(good(new, 5 * ms), good(old, ms))
    assert found == ("latency" if new >= LIMITS.answers else None)


@given(st.integers(20, 100), st.integers(0, 80), st.integers(20, 1_000), st.integers(1, 100))
def test_more_faults_never_make_it_better(answers: int, well: int, beside: int, more: int) -> None:
    new, worse = (Numbers(answers + extra, max(0, answers - well) + extra) for extra in (0, more))
    assert cause(new, good(beside)) is None or cause(worse, good(beside)) == "faults"


@given(numbers(), numbers(), st.floats(1, 1_000))
def test_a_slower_live_release_never_makes_the_canary_worse(new: Numbers, old: Numbers, factor: float) -> None:
    parts = [tuple(ms * factor for ms in part) for part in (old.ms, old.retrieval_ms, old.rank_ms)]
    slower = Numbers(old.answers, old.faults, old.unsure, *parts)
    assert cause(new, old) is not None or cause(new, slower) is None


@pytest.mark.parametrize("seed", range(5))
def test_chance_alone_takes_nothing_back(seed: int) -> None:
    """A thousand looks at two releases with the same 5 % of faults and the same long tail."""
    chance = random.Random(seed)

    def drawn(answers: int) -> Numbers:
        faults = sum(chance.random() < 0.05 for _ in range(answers))
        ms = sorted(chance.lognormvariate(4, 0.5) for _ in range(answers - faults))
        return Numbers(answers, faults, faults, tuple(ms), tuple(ms), tuple(ms))

    looks = [verdict(drawn(chance.randint(20, 200)), drawn(200), LIMITS) for _ in range(1_000)]
    assert sum(found is not None for found in looks) <= 1


def test_what_fails_for_both_is_nobodys_fault() -> None:
    assert cause(Numbers(50, 50), Numbers(500, 500)) is None


def test_unsure_answers_count_apart_from_faults() -> None:
    assert cause(Numbers(200, 0, 80, (1.0,) * 200), Numbers(200, 0, 20, (1.0,) * 200)) == "low_confidence"
    assert cause(Numbers(200, 0, 30, (1.0,) * 200), Numbers(200, 0, 20, (1.0,) * 200)) is None


def test_without_anything_to_compare_with_only_the_blatant_goes() -> None:
    assert cause(Numbers(50, 45), Numbers()) == "faults"
    assert cause(Numbers(50, 10), Numbers()) is None
    assert cause(good(50, 10_000), Numbers()) is None


def test_of_answers_that_take_milliseconds_nobody_feels_a_multiple() -> None:
    assert cause(good(100, 5.0), good(100, 1.0)) is None


def test_a_slow_part_that_is_small_beside_the_other_is_nothing() -> None:
    old = Numbers(100, 0, 0, (201.0,) * 100, (1.0,) * 100, (200.0,) * 100)
    small = Numbers(100, 0, 0, (220.0,) * 100, (20.0,) * 100, (200.0,) * 100)
    large = Numbers(100, 0, 0, (500.0,) * 100, (300.0,) * 100, (200.0,) * 100)
    assert (cause(small, old), cause(large, old)) == (None, "latency")


def test_the_reason_has_both_sides() -> None:
    found = verdict(Numbers(40, 40), good(300), LIMITS)
    assert found is not None
    assert found.reason == "40 of 40 answers had a fault, 0 of 300 answers beside it"


@given(st.integers(0, 1_000), st.integers(0, 1_000))
def test_an_interval_holds_its_share(hits: int, more: int) -> None:
    count = hits + more
    low, high = wilson(hits, count)
    assert 0 <= low <= high <= 1
    assert count == 0 or low - 1e-9 <= hits / count <= high + 1e-9


def test_an_interval_is_wilsons() -> None:
    """As in Brown, Cai and DasGupta's formula: 10 of 100 at 95 %."""
    assert wilson(10, 100, z=1.96) == pytest.approx((0.0552, 0.1744), abs=1e-4)
