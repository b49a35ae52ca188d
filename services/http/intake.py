"""The client's side of a request: its body is bounded in bytes and seconds, and a client that leaves takes its work
with it, so that nobody computes an answer that nobody reads.

One timer serves both. It first looks after PATIENCE_S, and most requests are done by then.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE_S = 0.005
CLOSE = {"Connection": "close"}
"""The rest of the body is never read, so the connection cannot carry another request."""
UNBOUNDED = 1 << 62

log = structlog.get_logger()


class Intake:
    def __init__(self, app: ASGIApp, max_bytes: int, max_seconds: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_seconds = max_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        handler = asyncio.current_task()
        assert handler is not None
        client = _Client(receive, send, handler, self.max_bytes, self.max_seconds, _announced(scope))
        try:
            await self.app(scope, client.receive, client.send)
        except asyncio.CancelledError:
            if not client.left:
                raise
            handler.uncancel()
            log.info("client left")
        finally:
            client.forget()


class _Client:
    """The handler reads, until the timer finds it at work: from then on a watcher reads, one message ahead at most.
    What is wrong with a body is raised in its reader, where the exception handlers turn it into a problem."""

    def __init__(
        self, receive: Receive, send: Send, handler: asyncio.Task[Any], max_bytes: int, max_seconds: float, size: int
    ) -> None:
        self._receive, self._send, self._handler = receive, send, handler
        self._loop = handler.get_loop()
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds
        self._bytes_left = max_bytes if size <= max_bytes else -1
        self._late_at = self._loop.time() + max_seconds
        self._timer = self._loop.call_later(PATIENCE_S, self._look)
        self._reader: asyncio.Task[Any] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._ahead: asyncio.Queue[Message]
        self._complete = self._late = self._answered = self.left = False

    async def receive(self) -> Message:
        if self._bytes_left < 0:
            raise self._too_large()
        message = await (self._read() if self._watcher is None else self._read_ahead())
        if message["type"] == "http.disconnect":
            self._leave()
            await asyncio.sleep(0)  # where the cancellation arrives
            return message
        self._bytes_left -= len(message.get("body", b""))
        if self._bytes_left < 0:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    def forget(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _read(self) -> Message:
        self._reader = asyncio.current_task()
        try:
            return await self._receive()
        except asyncio.CancelledError:
            if not self._late or self._reader is None:
                raise
            self._reader.uncancel()
            raise self._too_slow() from None
        finally:
            self._reader = None

    async def _read_ahead(self) -> Message:
        try:
            async with asyncio.timeout_at(None if self._complete else self._late_at):
                return await self._ahead.get()
        except TimeoutError:
            raise self._too_slow() from None

    def _look(self) -> None:
        if self._reader is None or self._complete:
            self._ahead = asyncio.Queue(maxsize=1)
            self._watcher = self._loop.create_task(self._watch())
        elif self._loop.time() >= self._late_at:
            self._late = True
            self._reader.cancel()
        else:
            self._timer = self._loop.call_later(PATIENCE_S, self._look)

    async def _watch(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return self._leave()
            await self._ahead.put(message)

    def _leave(self) -> None:
        if not self._answered:
            self.left = True
            self._handler.cancel()

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body has more than {self._max_bytes} bytes", CLOSE)

    def _too_slow(self) -> HTTPException:
        return HTTPException(408, f"The body took more than {self._max_seconds:g} s", CLOSE)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else UNBOUNDED
    return 0
