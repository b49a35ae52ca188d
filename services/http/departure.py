"""A client that leaves takes its work with it: nobody computes an answer that nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE_S = 0.005
"""Work that is done by then is not worth a task that watches the client: most answers from the cache are."""

log = structlog.get_logger()


class Departure:
    """Cancels the handler when the client disconnects, while the body arrives or after it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self.app(scope, receive, send)
        handler = asyncio.current_task()
        assert handler is not None
        client = _Client(receive, send, handler)
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
    """Until the watcher reads, the handler does; then the watcher alone, one message ahead at most."""

    def __init__(self, receive: Receive, send: Send, handler: asyncio.Task[Any]) -> None:
        self._receive, self._send, self._handler = receive, send, handler
        self._loop = handler.get_loop()
        self._timer = self._loop.call_later(PATIENCE_S, self._watch)
        self._watcher: asyncio.Task[None] | None = None
        self._ahead: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        self._reading = self._answered = self.left = False

    async def receive(self) -> Message:
        if self._watcher is not None:
            return await self._ahead.get()
        self._reading = True
        try:
            message = await self._receive()
        finally:
            self._reading = False
        if message["type"] == "http.disconnect":
            self._leave()
            await asyncio.sleep(0)  # where the cancellation arrives
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        await self._send(message)

    def forget(self) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    def _watch(self) -> None:
        if self._reading:
            self._timer = self._loop.call_later(PATIENCE_S, self._watch)
        else:
            self._watcher = self._loop.create_task(self._read())

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return self._leave()
            await self._ahead.put(message)

    def _leave(self) -> None:
        if not self._answered:
            self.left = True
            self._handler.cancel()
