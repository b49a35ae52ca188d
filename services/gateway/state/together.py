"""Group commit: commands that come while a round trip is on its way go together with the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from services.gateway.state.scripts import Command
from shared.errors import Unavailable

MOST = 100


class Together:
    """Alone, a command goes at once; many at a time cost a third of what they would one by one."""

    def __init__(self, ask: Callable[[Sequence[Command]], Awaitable[list[Any]]]) -> None:
        self._ask = ask
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def send(self, command: Command) -> Any:
        """Its reply. Raises Unavailable."""
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        return await reply

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
                try:
                    replies = await self._ask([command for command, _ in batch])
                except Unavailable as error:
                    for _, reply in batch:
                        if not reply.done():
                            reply.set_exception(error)
                else:
                    for (_, reply), answer in zip(batch, replies, strict=True):
                        if not reply.done():
                            reply.set_result(answer)
        finally:
            self._sending = None
