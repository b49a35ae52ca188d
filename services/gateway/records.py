"""Answers are written down after they were given: no request waits for it, and a store that is down costs nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from services.gateway.ports import Record, State

WAITING = 1_000

log = structlog.get_logger()


class Records:
    """Beyond WAITING answers on their way, one more is let go and counted: `lost` hears of each.  far: whether one has
    to wait for the state."""

    def __init__(self, state: State, lost: Callable[[], None] = lambda: None, far: bool = True) -> None:
        self._state = state
        self._far = far
        self._lost = lost
        self._on_the_way: set[asyncio.Task[None]] = set()

    async def keep(self, tenant: str, user_id: str | None, record: Record) -> None:
        if not self._far:
            await self._write(tenant, user_id, record)
            return
        if len(self._on_the_way) >= WAITING:
            self._lost()
            return
        task = asyncio.create_task(self._write(tenant, user_id, record))
        self._on_the_way.add(task)
        task.add_done_callback(self._on_the_way.discard)

    async def aclose(self) -> None:
        """Waits for what is on its way."""
        await asyncio.gather(*self._on_the_way)

    async def _write(self, tenant: str, user_id: str | None, record: Record) -> None:
        try:
            await self._state.record(tenant, user_id, record)
        except Exception as error:  # nobody waits for this task: it must not die unheard
            log.debug("recommendation not recorded", error=type(error).__name__)
            self._lost()
