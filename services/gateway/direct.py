"""A short way to the routes that are asked most: JSON in, bytes out, nothing between.

FastAPI still documents such a route, and answers every request that is not of the plain form. Its own way takes as much
time as all the rest of an answer out of the cache: docs/log.md has the profile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_type_hints

from pydantic import BaseModel
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.http.caller import CALLER, require
from services.http.routes import Route
from services.http.strict import parse
from shared.wire.base import MAX_TIMEOUT_MS

JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
ASKED_MS, ENVOY_MS = b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"


class DirectRoute(Route):
    """Of an endpoint with the parameters (request: a model, tenant: Tenant, bound: Bound)."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._model: type[BaseModel] = get_type_hints(endpoint)["request"]

    async def answer(self, scope: Scope, receive: Receive, send: Send, other: ASGIApp) -> None:
        """`other` answers what is not of the plain form."""
        try:
            bound = _bound(scope)
        except ValueError:
            return await other(scope, receive, send)
        scope["route"] = self
        if self.needs is not None:
            require(scope, self.needs)
        body = await _body(receive)
        try:
            asked = self._model.model_validate(parse(body))
        except ValueError:
            return await other(scope, _again(body, receive), send)
        response: Response = await self.endpoint(asked, scope[CALLER].tenant, bound)
        return await response(scope, receive, send)


class Direct:
    """The innermost middleware: plain requests get to these routes without FastAPI's router and its stacks between."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], handlers: Mapping[Any, Any]) -> None:
        self._app = app
        direct = [route for route in routes if isinstance(route, DirectRoute)]
        self._routes = {prefix + route.path: route for route in direct for prefix in ("", "/v1")}
        # It stands further in otherwise, and a problem must stay one.
        self._guarded = ExceptionMiddleware(self._answer, handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        direct = scope["type"] == "http" and scope["path"] in self._routes
        await (self._guarded if direct else self._app)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._routes[scope["path"]].answer(scope, receive, send, self._app)


def _bound(scope: Scope) -> float | None:
    """As `routes.asked_ms`. Raises ValueError for a request that is not of the plain form."""
    if scope["method"] != "POST":
        raise ValueError
    is_json, shortest = False, None
    for name, value in scope["headers"]:
        if name == b"content-type":
            is_json = value in JSON
        elif name in (ASKED_MS, ENVOY_MS):
            ms = int(value) if value.isdigit() else -1
            if ms < 0 or (name == ASKED_MS and not 1 <= ms <= MAX_TIMEOUT_MS):
                raise ValueError
            ms = min(ms, MAX_TIMEOUT_MS)
            if ms and (shortest is None or ms < shortest):
                shortest = ms
    if not is_json:
        raise ValueError
    return shortest


async def _body(receive: Receive) -> bytes:
    """Raises ClientDisconnect. Nearly always it comes in one piece."""
    message = await receive()
    chunks = [message.get("body", b"")]
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        chunks.append(message.get("body", b""))
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _again(body: bytes, receive: Receive) -> Receive:
    """What was read already, once more; and then what follows."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
