"""A bound on request bodies in bytes, also for those that don't announce their length, and in seconds."""

from __future__ import annotations

import asyncio

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
            await self.app(scope, receive, send)
            return
        announced = _content_length(scope)
        until = asyncio.get_running_loop().time() + self.max_seconds
        seen = 0
        complete = False

        async def bounded() -> Message:
            nonlocal seen, complete
            if announced > self.max_bytes:
                raise self._too_large()
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The body took more than {self.max_seconds:g} s", CLOSE) from None
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.max_bytes:
                raise self._too_large()
            return message

        await self.app(scope, bounded, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body has more than {self.max_bytes} bytes", CLOSE)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 19 else 1 << 62
    return 0
