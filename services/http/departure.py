"""A client that leaves takes its work with it: nobody computes an answer that nobody reads."""

from __future__ import annotations

import asyncio

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()


class Departure:
    """Reads on while the request is handled, and cancels the handler when the client disconnects."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return await self.app(scope, receive, send)
        handler = asyncio.current_task()
        assert handler is not None
        # One message ahead at most, so that a large body still waits for its reader.
        messages: asyncio.Queue[Message] = asyncio.Queue(maxsize=1)
        answered = left = False

        async def read() -> None:
            nonlocal left
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    if not answered:
                        left = True
                        handler.cancel()
                    return
                await messages.put(message)

        async def note_answer(message: Message) -> None:
            nonlocal answered
            answered = answered or (message["type"] == "http.response.body" and not message.get("more_body", False))
            await send(message)

        reader = asyncio.create_task(read())
        try:
            await self.app(scope, messages.get, note_answer)
        except asyncio.CancelledError:
            if not left:
                raise
            handler.uncancel()
            log.info("client left")
        finally:
            reader.cancel()
