"""The two services behind a breaker each; retrieval may be asked a second time. The ranker never is: it is the
expensive one, and a retry would double the load just when there is too much of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.gateway.cache.breaker import Breaker, is_silence
from services.gateway.course import within
from services.gateway.latency import Latency
from services.gateway.ports import RankingPort, RetrievalPort
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, ReleaseNotLoaded, Unavailable
from shared.wire.inner import (
    ModelList,
    RankAnswer,
    RankRequest,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.users import ItemAnswer

T = TypeVar("T")
PATIENT_MS = 50.0
"""Who was given less time and did not answer is not yet silent."""
HEDGE_AT_LEAST_MS = 10.0
SECOND_SHARE = 0.1
SECOND_AT_MOST = 10.0
"""Second questions are a tenth of the first ones, and ten in a row: else slowness would double the load."""


class Silent(DeadlineExceeded):
    """No answer, although there was time for one."""


def _is_fault(error: Exception) -> bool:
    """Who answers that a release is not loaded is alive, and whole again as soon as it is."""
    return isinstance(error, Silent) or (is_silence(error) and not isinstance(error, ReleaseNotLoaded))


class _Hop:
    def __init__(self, name: str, failures: int, open_s: float) -> None:
        self.breaker = Breaker(name, failures=failures, open_s=open_s, is_fault=_is_fault)

    async def call(self, work: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Raises Unavailable at once while the breaker is open."""
        return await self.breaker.call(lambda: self._patiently(work, deadline))

    async def _patiently(self, work: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        patient = deadline.remaining_ms() >= PATIENT_MS
        try:
            return await within(deadline, work())
        except DeadlineExceeded as error:
            if patient:
                raise Silent(str(error)) from None
            raise


class ResilientRetrieval:
    """`hedge`: a second question after the usual time of the first; whichever answers first counts."""

    def __init__(self, port: RetrievalPort, failures: int, open_s: float, hedge: bool) -> None:
        self._port = port
        self._hop = _Hop("the retrieval service", failures, open_s)
        self._latency = Latency()
        self._hedge = hedge
        self._seconds_left = SECOND_AT_MOST

    @property
    def breaker(self) -> Breaker:
        return self._hop.breaker

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        async def once() -> RetrieveAnswer:
            began = time.perf_counter()
            found = await self._port.retrieve(request, deadline)
            self._latency.add((time.perf_counter() - began) * 1000)
            return found

        usual_ms = self._latency.p95_ms() if self._hedge else None
        patience_s = max(usual_ms, HEDGE_AT_LEAST_MS) / 1000 if usual_ms is not None else None
        self._seconds_left = min(SECOND_AT_MOST, self._seconds_left + SECOND_SHARE)
        return await self._hop.call(lambda: at_most_twice(once, patience_s, self._may_ask_again), deadline)

    def _may_ask_again(self) -> bool:
        if self._seconds_left < 1:
            return False
        self._seconds_left -= 1
        return True

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._hop.call(lambda: self._port.score(request, deadline), deadline)

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return await self._hop.call(lambda: self._port.resolve(request, deadline), deadline)

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        return await self._hop.call(lambda: self._port.popular(k, deadline), deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        return await self._hop.call(lambda: self._port.item(item_id, deadline), deadline)

    async def models(self, deadline: Deadline) -> ModelList:
        return await self._hop.call(lambda: self._port.models(deadline), deadline)


class ResilientRanking:
    def __init__(self, port: RankingPort, failures: int, open_s: float) -> None:
        self._port = port
        self._hop = _Hop("the ranking service", failures, open_s)

    @property
    def breaker(self) -> Breaker:
        return self._hop.breaker

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        return await self._hop.call(lambda: self._port.rank(request, deadline), deadline)

    async def models(self, deadline: Deadline) -> ModelList:
        return await within(deadline, self._port.models(deadline))


async def at_most_twice(
    work: Callable[[], Awaitable[T]], patience_s: float | None, may: Callable[[], bool] = lambda: True
) -> T:
    """A second time, where it `may` be, when the first breaks off, or has not answered after `patience_s` (None: is
    waited for).

    Who answers that there is too much to do, or answers nonsense, is not asked again.
    """
    attempts = {asyncio.ensure_future(work())}
    try:
        done, _ = await asyncio.wait(attempts, timeout=patience_s)
        if (done and not _worth_another(next(iter(done)))) or not may():
            return await next(iter(attempts))
        attempts = {attempt for attempt in attempts if not attempt.done()} | {asyncio.ensure_future(work())}
        while True:
            done, running = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
            good = [attempt for attempt in done if attempt.exception() is None]
            if good or not running:
                return (good or list(done))[0].result()
            attempts = running
    finally:
        for attempt in attempts:
            attempt.cancel()


def _worth_another(attempt: asyncio.Future[T]) -> bool:
    error = attempt.exception()
    return isinstance(error, Unavailable) and not isinstance(error, Overloaded | BadAnswer)
