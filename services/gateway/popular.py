"""The last popularity list, kept in the gateway so that it can answer while retrieval is down."""

from __future__ import annotations

import asyncio

import structlog

from services.gateway.ports import RetrievalPort
from shared.deadline import Deadline
from shared.wire import RetrieveAnswer

KEPT = 2_000
"""More than the largest answer, so that there is something left after the exclusions."""
FETCH_MS = 2_000
RETRY_S = 1.0

log = structlog.get_logger()


class Popular:
    def __init__(self, retrieval: RetrievalPort) -> None:
        self._retrieval = retrieval
        self.latest: RetrieveAnswer | None = None

    async def refresh(self) -> bool:
        """Whether there is a fresh list; the old one stays where there is none."""
        try:
            async with asyncio.timeout(FETCH_MS / 1000):
                self.latest = await self._retrieval.popular(KEPT, Deadline.after_ms(FETCH_MS))
        except Exception as error:  # whatever it was, the loop must go on
            log.warning("popularity not refreshed", error=type(error).__name__)
            return False
        return True

    async def keep_fresh(self, every_s: float) -> None:
        """Until cancelled."""
        fresh = self.latest is not None
        while True:
            await asyncio.sleep(every_s if fresh else min(RETRY_S, every_s))
            fresh = await self.refresh()

    def why_not_ready(self) -> str | None:
        """The gateway is ready once it can answer whatever breaks."""
        return None if self.latest else "the retrieval service has not answered since this gateway started"
