"""The outermost layer: per request an id, a log line, a count and a duration; and a last-resort 500."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.admission import ALWAYS
from services.http.problems import REQUEST_ID, of_crash

HEADER = "X-Request-Id"
SANE = re.compile(rb"[A-Za-z0-9_.:/+=@-]{1,128}")
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CLIENT_LEFT = 499

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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope[REQUEST_ID] = request_id
        status = CLIENT_LEFT

        async def with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self.app(scope, receive, with_id)
            except Exception:
                log.exception("crash", route=_route(scope))
                if status != CLIENT_LEFT:
                    raise
                await of_crash(request_id)(scope, receive, with_id)
            finally:
                self._record(scope, status, time.perf_counter() - began)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        # The template, never the path: paths hold user ids, and each would be a time series of its own.
        route, method = _route(scope), _method(scope)
        self.requests.labels(method, route, str(status)).inc()
        self.seconds.labels(method, route).observe(seconds)
        write = log.debug if scope["path"] in ALWAYS else log.info
        write("request", method=method, route=route, status=status, ms=round(seconds * 1000, 2))


def _request_id(scope: Scope) -> str:
    wanted = HEADER.lower().encode()
    for name, value in scope["headers"]:
        if name == wanted and SANE.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unmatched"))


def _method(scope: Scope) -> str:
    known = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")
    return scope["method"] if scope["method"] in known else "other"
