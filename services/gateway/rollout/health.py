"""How one release has done lately, by the answers that it made itself: what came out of the cache says nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from shared.wire import Degradation, RecommendAnswer

WINDOW_S = 600.0
KEPT = 1_000
FAULTS: frozenset[Degradation] = frozenset(
    {"ranker_timeout", "ranker_unavailable", "ranker_overloaded", "retrieval_unavailable"}
)
"""Of the release's own parts. The others are the store's, or the user's."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """ms: of the answers without a fault, the shortest first."""

    answers: int = 0
    faults: int = 0
    unsure: int = 0
    ms: tuple[float, ...] = ()

    def took_ms(self, quantile: float) -> float | None:
        return self.ms[int(quantile * (len(self.ms) - 1))] if self.ms else None


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    fault: bool
    unsure: bool
    ms: float


class Health:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[_Seen] = deque(maxlen=KEPT)
        self._numbers: Numbers | None = None

    def answered(self, answer: RecommendAnswer) -> None:
        reasons = answer.degradation
        fault = bool(reasons) and not FAULTS.isdisjoint(reasons)
        # All releases wait in one queue before the language model: a slow one makes the others wait, not slow.
        ms = max(0.0, answer.timing_ms.total - answer.timing_ms.queue)
        self._add(_Seen(self._clock(), fault, "low_confidence" in reasons, ms))

    def failed(self) -> None:
        """No answer at all."""
        self._add(_Seen(self._clock(), True, False, 0.0))

    def clear(self) -> None:
        """What was seen of it in another role says nothing about this one."""
        self._seen.clear()
        self._numbers = None

    def _add(self, seen: _Seen) -> None:
        self._seen.append(seen)
        self._numbers = None

    def numbers(self) -> Numbers:
        oldest = self._clock() - WINDOW_S
        while self._seen and self._seen[0].at < oldest:
            self._seen.popleft()
            self._numbers = None
        if self._numbers is None:
            self._numbers = Numbers(
                answers=len(self._seen),
                faults=sum(one.fault for one in self._seen),
                unsure=sum(one.unsure for one in self._seen),
                ms=tuple(sorted(one.ms for one in self._seen if not one.fault)),
            )
        return self._numbers
