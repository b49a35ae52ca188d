"""A process whose engine is dead ends, so that its supervisor starts a clean one.

What hangs in a kernel cannot be stopped from within, and after a thread died of what is no Exception nobody knows what
the device's memory holds. So nothing is rebuilt in place. `serve all` does not end: its gateway goes on without ranker.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

EVERY_S = 0.25
GRACE_S = 1.0
"""Between being unready and the end: what is being answered goes out, and a balancer hears of it."""
EXIT = 70
"""EX_SOFTWARE."""

log = structlog.get_logger()


@asynccontextmanager
async def watched(why_dead: Callable[[], str | None], end: Callable[[int], object] = os._exit) -> AsyncIterator[None]:
    """end: without cleaning up, for a thread that hangs would be waited for."""
    task = asyncio.create_task(_watch(why_dead, end))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _watch(why_dead: Callable[[], str | None], end: Callable[[int], object]) -> None:
    while (reason := why_dead()) is None:  # noqa: ASYNC110  a thread that hangs sets no event
        await asyncio.sleep(EVERY_S)
    log.critical("the engine is dead; this process ends so that a clean one starts", reason=reason, status=EXIT)
    await asyncio.sleep(GRACE_S)
    end(EXIT)
