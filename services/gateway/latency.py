"""How long a collaborator takes at present: the 95th percentile over the last half minute."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 30.0
"""Older answers say nothing: whoever was slow gets another chance once they are forgotten."""
KEPT = 512
ENOUGH = 20
"""Fewer answers give no percentile."""
FEW = 2
"""Misses that are no accident any more, where next to nothing was answered in such a time."""
NEAR = 0.8
"""A miss counts against budgets up to this much larger: 1 / NEAR."""


class Latency:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._missed: deque[tuple[float, float]] = deque(maxlen=KEPT)
        self._p95: float | None = None
        self._stale = True

    def add(self, ms: float) -> None:
        self._seen.append((self._clock(), ms))
        self._stale = True

    def missed(self, budget_ms: float) -> None:
        """No answer came within that time, or none was promised."""
        self._missed.append((self._clock(), budget_ms))

    def p95_ms(self) -> float | None:
        """None where too little is known."""
        oldest = self._clock() - WINDOW_S
        while self._seen and self._seen[0][0] < oldest:
            self._seen.popleft()
            self._stale = True
        if self._stale:
            ordered = sorted(ms for _, ms in self._seen)
            self._p95 = ordered[int(0.95 * (len(ordered) - 1))] if len(ordered) >= ENOUGH else None
            self._stale = False
        return self._p95

    def fits(self, remaining_ms: float) -> bool:
        p95 = self.p95_ms()
        return p95 is None or p95 <= remaining_ms

    def serves(self, remaining_ms: float) -> bool:
        """It fits, and those who had about as long were not left without an answer: what never comes in time has no
        percentile."""
        oldest = self._clock() - WINDOW_S
        misses = sum(at >= oldest and remaining_ms * NEAR <= budget_ms for at, budget_ms in self._missed)
        hits = sum(at >= oldest and ms <= remaining_ms for at, ms in self._seen)
        return self.fits(remaining_ms) and not (misses >= FEW and misses > 0.05 * (misses + hits))
