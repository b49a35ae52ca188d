"""Ways to do the same, timed in turns: whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

CALLS = 2_000
"""Of each way, at most."""
Calls = Mapping[str, Callable[[int], object]]


def timed(calls: Calls, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a call, which hears which turn it is; the first turn is for warming up. Each
    turn has an order of its own: what one leaves in the processor's caches, any other may find."""
    order = np.random.default_rng(0)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    until, turn = time.perf_counter() + seconds, 0
    while turn < 3 or (time.perf_counter() < until and turn < CALLS):
        for name in order.permutation(list(calls)).tolist():
            call = calls[name]
            began = time.perf_counter()
            call(turn)
            taken[name].append(time.perf_counter() - began)
        turn += 1
    return {name: figures(each[1:]) for name, each in taken.items()}


def figures(seconds: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(np.asarray(seconds) * 1000, [50, 99])
    return {"p50": round(float(p50), 4), "p99": round(float(p99), 4)}
