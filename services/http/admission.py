"""Admission first: a bound of requests in flight, lower while the process cannot keep up; a short queue before it, and
beyond that a refusal at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from services.http.health import ALWAYS
from services.http.problems import MEDIA_TYPE, REQUEST_ID, document_of
from services.http.pulse import Pulse
from shared.errors import Overloaded

REFUSED = "tandem.refused"
"""In the ASGI scope of a request that was refused; it leaves no line in the log."""
TOLD_EVERY_S = 1.0
"""One line tells of all refusals in this time."""

log = structlog.get_logger()


class Admission:
    def __init__(self, app: ASGIApp, max_concurrency: int, max_waiting: int, max_wait_ms: float) -> None:
        self.app = app
        self.pulse = Pulse(max_concurrency)
        self.max_waiting = max_waiting
        self.max_wait_s = max_wait_ms / 1000
        self.waiting: deque[asyncio.Future[bool]] = deque()
        self._refusal = _Refusal()

    @property
    def free(self) -> int:
        """Places that are free now."""
        return max(0, self.pulse.limit - self.pulse.inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            return await self.app(scope, receive, send)
        if not self.pulse.enter() and not await self._turn():
            return await self._refusal(scope, receive, send)
        try:
            await self.app(scope, receive, send)
        finally:
            self._leave()

    async def _turn(self) -> bool:
        """Whether a place became free in time; it is then taken."""
        if len(self.waiting) >= self.max_waiting:
            return False
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self.waiting.append(turn)
        timer = loop.call_later(self.max_wait_s, self._too_long, turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self._leave()
            elif turn in self.waiting:
                self.waiting.remove(turn)
            raise
        finally:
            timer.cancel()

    def _too_long(self, turn: asyncio.Future[bool]) -> None:
        if not turn.done():
            self.waiting.remove(turn)
            turn.set_result(False)

    def _leave(self) -> None:
        """Hands the place to who waits longest, unless there is one place fewer by now."""
        while self.waiting and self.pulse.inside <= self.pulse.limit:
            turn = self.waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self.pulse.inside -= 1


class _Refusal:
    """One answer for all, but for the request id: under overload a refusal must cost next to nothing."""

    def __init__(self) -> None:
        error = Overloaded("more requests are in flight than can be answered in time; try again")
        self._template = json.dumps(document_of(error, "%s")).encode()
        self._headers = [(b"content-type", MEDIA_TYPE.encode()), (b"retry-after", b"1")]
        self._untold = 0
        self._tell_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[REFUSED] = True
        self._tell()
        request_id = scope.get(REQUEST_ID, "").encode()
        body = self._template % (request_id, request_id)
        length = (b"content-length", b"%d" % len(body))
        await send({"type": "http.response.start", "status": 503, "headers": [*self._headers, length]})
        await send({"type": "http.response.body", "body": body})

    def _tell(self) -> None:
        self._untold += 1
        now = time.monotonic()
        if now >= self._tell_at:
            log.warning("refused for overload", requests=self._untold)
            self._untold, self._tell_at = 0, now + TOLD_EVERY_S
