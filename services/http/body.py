"""A bound on request bodies in bytes, also for those that don't announce their length, and in seconds."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLOSE = {"Connection": "close"}
"""The rest of the body is never read, so the connection cannot carry another request."""


class BodyLimit:
    """Raises inside the reader of the body, where the exception handlers turn it into a problem."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        bounded = _Bounded(receive, _announced(scope), self.max_bytes, self.max_seconds)
        try:
            await self.app(scope, bounded, send)
        finally:
            bounded.stop()


class _Bounded:
    """One timer for the whole body: asyncio.timeout around each message costs twice as much."""

    __slots__ = ("_late", "_left", "_max_bytes", "_reader", "_receive", "_seconds", "_timer", "complete")

    def __init__(self, receive: Receive, announced: int, max_bytes: int, seconds: float) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._left = max_bytes if announced <= max_bytes else -1
        self._seconds = seconds
        self._reader: asyncio.Task[Any] | None = None
        self._late = False
        self._timer: asyncio.TimerHandle | None = None
        self.complete = False

    async def __call__(self) -> Message:
        if self.complete:
            return await self._receive()
        if self._left < 0:
            raise self._too_large()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)
        message = await self._in_time()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._too_large()
        if not message.get("more_body", False):
            self.complete = True
            self.stop()
        return message

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    async def _in_time(self) -> Message:
        if not self._late:
            self._reader = asyncio.current_task()
            try:
                return await self._receive()
            except asyncio.CancelledError:
                if not self._late or self._reader is None:
                    raise
                self._reader.uncancel()
            finally:
                self._reader = None
        raise HTTPException(408, f"The body took more than {self._seconds:g} s", CLOSE)

    def _expire(self) -> None:
        self._late = True
        if self._reader is not None:
            self._reader.cancel()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body has more than {self._max_bytes} bytes", CLOSE)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else 1 << 62
    return 0
