"""The outermost layer: per request an id, one log line, a count, a duration and the headers of every answer; and a
last-resort 500."""

from __future__ import annotations

import os
import re
import time
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http import logs
from services.http.admission import REFUSED
from services.http.health import ALWAYS
from services.http.logs import LINE, note
from services.http.problems import REQUEST_ID, of_crash

__all__ = ["HEADER", "Observe", "note"]

HEADER = "X-Request-Id"
SENT = HEADER.lower().encode()
SANE = re.compile(rb"[A-Za-z0-9_.:/+=@-]{1,128}")
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CLIENT_LEFT = 499
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
"""On every answer that does not bring its own."""

log = structlog.get_logger()


class Observe:
    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("method", "route", "status")
        self.requests = Counter("tandem_http_requests", "Requests answered.", labels, registry=registry)
        self.seconds = Histogram(
            "tandem_http_request_seconds",
            "From the first byte of a request to the last of its answer.",
            ("method", "route"),
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.monotonic()
        request_id = scope[REQUEST_ID] = _request_id(scope)
        line: dict[str, Any] = {"request_id": request_id}
        token = LINE.set(line)
        status = CLIENT_LEFT

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = message["headers"]
                names = [name for name, _ in given]
                message["headers"] = [
                    *given,
                    (SENT, request_id.encode()),
                    *[pair for pair in HEADERS if pair[0] not in names],
                ]
            await send(message)

        try:
            await self.app(scope, receive, with_headers)
        except Exception:
            log.exception("crash", route=_route(scope))
            if status != CLIENT_LEFT:
                raise
            await of_crash(request_id)(scope, receive, with_headers)
        finally:
            self._record(scope, status, time.monotonic() - began, line)
            LINE.reset(token)

    def _record(self, scope: Scope, status: int, seconds: float, line: dict[str, Any]) -> None:
        # The template, never the path: paths hold user ids, and each would be a time series of its own.
        route, method = _route(scope), scope["method"]
        if method not in METHODS:
            method = "other"
        series = self._series.get((method, route, status))
        if series is None:
            series = self.requests.labels(method, route, str(status)), self.seconds.labels(method, route)
            self._series[method, route, status] = series
        series[0].inc()
        series[1].observe(seconds)
        if REFUSED not in scope:
            line |= {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 2)}
            if scope["path"] in ALWAYS:
                log.debug("request", **line)
            else:
                logs.request(line)


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == SENT and SANE.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))
