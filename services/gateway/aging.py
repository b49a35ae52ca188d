"""Connections to the inner services that end after a while, so that replicas which came later get their share.

A pool under load never lets a connection idle, and so never asks the names again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx

from shared.wire.base import MAX_TIMEOUT_MS

AGE_S = MAX_TIMEOUT_MS / 1000
"""Of a pool. No request is longer under way, so that a pool which was let go one age ago is at rest."""


class Aging(httpx.AsyncBaseTransport):
    """Hands requests to a pool, and every AGE_S to a new one; the pool before the last is closed then."""

    def __init__(
        self, make: Callable[[], httpx.AsyncBaseTransport], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._make, self._clock = make, clock
        self._live, self._since = make(), clock()
        self._resting: httpx.AsyncBaseTransport | None = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._clock() - self._since >= AGE_S:
            rested, self._resting = self._resting, self._live
            self._live, self._since = self._make(), self._clock()
            if rested:
                await rested.aclose()
        return await self._live.handle_async_request(request)

    async def aclose(self) -> None:
        for pool in (self._resting, self._live):
            if pool:
                await pool.aclose()
