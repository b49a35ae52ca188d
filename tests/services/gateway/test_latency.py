from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.latency import ENOUGH, KEPT, NEAR, WINDOW_S, Latency


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_too_few_answers_say_nothing() -> None:
    latency = Latency(Clock())
    for _ in range(ENOUGH - 1):
        latency.add(50.0)
    assert latency.p95_ms() is None
    assert latency.fits(0.1)
    latency.add(50.0)
    assert latency.p95_ms() == 50.0
    assert not latency.fits(49.9)
    assert latency.fits(50.0)


def test_old_answers_are_forgotten() -> None:
    clock = Clock()
    latency = Latency(clock)
    for _ in range(100):
        latency.add(500.0)
    clock.now += WINDOW_S + 1
    assert latency.p95_ms() is None


def test_what_never_comes_in_time_serves_nobody_in_such_a_hurry() -> None:
    clock = Clock()
    latency = Latency(clock)
    latency.missed(100.0)
    assert latency.serves(100.0)
    latency.missed(100.0)
    assert not latency.serves(30.0)
    assert not latency.serves(100.0 / NEAR)
    assert latency.serves(101.0 / NEAR)
    for _ in range(100):
        latency.add(90.0)
    assert latency.serves(100.0)
    assert not latency.serves(80.0)
    clock.now += WINDOW_S + 1
    assert latency.serves(30.0)


@given(st.lists(st.floats(0.1, 1e4), min_size=ENOUGH, max_size=3 * KEPT))
def test_it_is_the_95th_percentile_of_the_latest(seen: list[float]) -> None:
    latency = Latency(Clock())
    for ms in seen:
        latency.add(ms)
    latest = sorted(seen[-KEPT:])
    below = sum(ms <= (latency.p95_ms() or 0) for ms in latest) / len(latest)
    assert latency.p95_ms() in latest
    assert below >= 0.95 - 1 / len(latest) == pytest.approx(0.95 - 1 / len(latest))
