"""The bound of requests in flight follows how late the event loop is."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.http.pulse import BEAT_S, FEWEST, LATE_S, Pulse

pytestmark = pytest.mark.anyio
BLOCKED_S = BEAT_S + 2 * LATE_S


async def block() -> None:
    """One beat that comes late."""
    await asyncio.sleep(0)
    time.sleep(BLOCKED_S)  # noqa: ASYNC251
    await asyncio.sleep(0.001)


async def test_beyond_the_bound_nobody_enters() -> None:
    pulse = Pulse(2)
    assert [pulse.enter() for _ in "123"] == [True, True, False]
    pulse.inside -= 1
    assert pulse.enter()


async def test_a_late_loop_lowers_the_bound_below_what_is_inside() -> None:
    pulse = Pulse(1000)
    for _ in range(100):
        pulse.enter()
    await block()
    assert pulse.limit == 80
    assert not pulse.enter()


async def test_the_bound_never_falls_below_a_few() -> None:
    pulse = Pulse(1000)
    pulse.enter()
    await block()
    assert pulse.limit == FEWEST
    small = Pulse(3)
    small.enter()
    await block()
    assert small.limit == 3


async def test_it_rises_again_without_anybody_inside() -> None:
    pulse = Pulse(FEWEST + 3)
    pulse.enter()
    await block()
    pulse.inside -= 1
    until = time.monotonic() + 20
    while pulse.limit < FEWEST + 3:
        assert time.monotonic() < until
        await asyncio.sleep(BEAT_S)
    assert [pulse.enter() for _ in range(FEWEST + 4)] == [True] * (FEWEST + 3) + [False]
