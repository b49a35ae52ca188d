"""How one release has done lately, by the answers that it made itself: what came out of the cache says nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shared.wire.base import Degradation
from shared.wire.recommend import RecommendAnswer

WINDOW_S = 600.0
KEPT = 1_000
FAULTS: frozenset[Degradation] = frozenset(
    {"ranker_timeout", "ranker_unavailable", "ranker_overloaded", "retrieval_unavailable"}
)
"""Of the release's own parts. The others are the store's, or the user's."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """Milliseconds of the answers without a fault, the shortest first: the whole but the wait in the ranker's queue,
    which all releases share, and the two parts that are the release's own."""

    answers: int = 0
    faults: int = 0
    unsure: int = 0
    ms: tuple[float, ...] = ()
    retrieval_ms: tuple[float, ...] = ()
    rank_ms: tuple[float, ...] = ()


def quantile(ms: Sequence[float], share: float) -> float:
    """Of what is sorted; 0 of nothing."""
    return ms[int(share * (len(ms) - 1))] if ms else 0.0


@dataclass(frozen=True, slots=True)
class _Seen:
    at: float
    fault: bool
    unsure: bool
    ms: float = 0.0
    retrieval_ms: float = 0.0
    rank_ms: float = 0.0
    """0 where the language model had no part in it."""


class Health:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[_Seen] = deque(maxlen=KEPT)
        self._numbers: Numbers | None = None

    def answered(self, answer: RecommendAnswer) -> None:
        reasons = answer.degradation
        fault = bool(reasons) and not FAULTS.isdisjoint(reasons)
        took = answer.timing_ms
        ms = max(0.0, took.total - took.queue)
        self._add(_Seen(self._clock(), fault, "low_confidence" in reasons, ms, took.retrieval, took.rank))

    def failed(self) -> None:
        """No answer at all."""
        self._add(_Seen(self._clock(), True, False))

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
            whole = [one for one in self._seen if not one.fault]
            self._numbers = Numbers(
                answers=len(self._seen),
                faults=sum(one.fault for one in self._seen),
                unsure=sum(one.unsure for one in self._seen),
                ms=tuple(sorted(one.ms for one in whole)),
                retrieval_ms=tuple(sorted(one.retrieval_ms for one in whole)),
                rank_ms=tuple(sorted(one.rank_ms for one in whole if one.rank_ms)),
            )
        return self._numbers
