"""How one answer is being made: for whom, until when, what degraded it, and where the time went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from shared.deadline import Deadline
from shared.errors import DeadlineExceeded, TandemError, Unavailable
from shared.wire.base import Cache, Degradation

T = TypeVar("T")
log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Course:
    tenant: str
    deadline: Deadline
    allow_degraded: bool = True
    began: float = field(default_factory=time.perf_counter)
    degradation: list[Degradation] = field(default_factory=list)
    cache: Cache = "miss"
    cache_ms: float = 0.0

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000

    def degrade(self, reason: Degradation, error: TandemError) -> None:
        """Notes it, or raises what the caller gets who allows no degraded answer."""
        if not self.allow_degraded:
            raise (error if isinstance(error, Unavailable | DeadlineExceeded) else Unavailable(str(error))) from error
        log.debug("degraded", reason=reason, error=type(error).__name__, detail=str(error))
        if reason not in self.degradation:
            self.degradation.append(reason)


async def within(deadline: Deadline, work: Awaitable[T]) -> T:
    """Held here and not only by the collaborator: one that is stopped can't keep time."""
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded("the budget of this request is spent") from None
