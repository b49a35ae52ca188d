"""A short way to the routes that are asked most: JSON in, bytes out, nothing between.

FastAPI still documents such a route, and answers every request that is not of the plain form. Its own way takes as much
time as all the rest of an answer out of the cache: docs/log.md has the profile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from services.http.caller import CALLER, require
from services.http.routes import Route
from services.http.strict import parse
from shared.wire import MAX_TIMEOUT_MS

JSON = frozenset({b"application/json", b"application/json; charset=utf-8"})
ASKED_MS, ENVOY_MS = b"x-request-timeout-ms", b"x-envoy-expected-rq-timeout-ms"


class DirectRoute(Route):
    """Of an endpoint with the parameters (request: a model, tenant: Tenant, bound: Bound)."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        self._model: type[BaseModel] = get_type_hints(endpoint)["request"]

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            bound = _bound(scope)
        except ValueError:
            await super().handle(scope, receive, send)
            return
        if self.needs is not None:
            require(scope, self.needs)
        body = await _body(receive)
        try:
            asked = self._model.model_validate(parse(body))
        except ValueError:
            await super().handle(scope, _again(body, receive), send)
            return
        answer: Response = await self.endpoint(asked, scope[CALLER].tenant, bound)
        await answer(scope, receive, send)


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
