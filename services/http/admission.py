"""Admission first: beyond a bound of requests in flight, refuse at once instead of making everybody wait."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from services.http.problems import REQUEST_ID, of_error
from shared.errors import Overloaded

ALWAYS = frozenset({"/livez", "/readyz", "/metrics"})
"""An overloaded process must still say that it lives."""


class Admission:
    def __init__(self, app: ASGIApp, max_concurrency: int) -> None:
        self.app = app
        self.max_concurrency = max_concurrency
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            return await self.app(scope, receive, send)
        if self.in_flight >= self.max_concurrency:
            refusal = Overloaded(f"{self.in_flight} requests are in flight, which is the bound; try again")
            return await of_error(refusal, scope.get(REQUEST_ID))(scope, receive, send)
        self.in_flight += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight -= 1
