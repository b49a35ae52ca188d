"""Every error as RFC 9457 `application/problem+json`, from one table; and back, for the service that called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, routing
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from shared.errors import (
    BadAnswer,
    BadArtifact,
    BadInput,
    CatalogMismatch,
    DeadlineExceeded,
    Forbidden,
    Overloaded,
    RateLimited,
    ReleaseNotLoaded,
    TandemError,
    Unauthorized,
    Unavailable,
    UnknownItem,
    UnknownRanker,
    UnknownRelease,
    UnknownUser,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tandem:problem:"
REQUEST_ID = "tandem.request_id"
"""Where the request id stands in an ASGI scope."""
MAX_ERRORS = 20
MAX_TEXT = 300


@dataclass(frozen=True, slots=True)
class Kind:
    status: int
    slug: str
    title: str


INTERNAL = Kind(500, "internal", "Something went wrong here")
INTERNAL_DETAIL = "The fault is on our side; the log tells more under this request id."
MALFORMED = Kind(400, "malformed-json", "The body is not JSON")
TOO_LARGE = Kind(413, "body-too-large", "The body is too large")
INVALID = Kind(422, "invalid-request", "The request does not have the documented form")

KINDS: Mapping[type[TandemError], Kind] = {
    BadInput: Kind(422, "bad-input", "The request asks for what cannot be done"),
    UnknownItem: Kind(404, "unknown-item", "No such item"),
    UnknownUser: Kind(404, "unknown-user", "No such user"),
    UnknownRanker: Kind(422, "unknown-ranker", "No such ranker here"),
    UnknownRelease: Kind(404, "unknown-release", "No such release in the registry"),
    BadArtifact: Kind(409, "bad-artifact", "What was to be loaded must not be served"),
    CatalogMismatch: Kind(409, "catalog-mismatch", "Two services speak of different catalogues"),
    Unavailable: Kind(503, "unavailable", "A part of the service does not answer"),
    Overloaded: Kind(503, "overloaded", "Too many requests at once"),
    BadAnswer: Kind(503, "bad-answer", "A part of the service answered nonsense"),
    ReleaseNotLoaded: Kind(503, "release-not-loaded", "The release is not loaded here"),
    DeadlineExceeded: Kind(504, "deadline-exceeded", "No time was left"),
    Unauthorized: Kind(401, "unauthorized", "Nobody knows who asks"),
    Forbidden: Kind(403, "forbidden", "The key does not allow this"),
    RateLimited: Kind(429, "rate-limited", "More requests than were agreed"),
    TandemError: INTERNAL,
}
"""The one table from error to status. A class that is not here has its nearest parent's row."""

AT_THE_DOOR = (Unauthorized, Forbidden, RateLimited)
"""Between a client and the service it asks. One from an inner service is no fault of our client's."""
NOT_LET_IN = frozenset(KINDS[cls].status for cls in AT_THE_DOOR)


def kind_of(error: TandemError) -> Kind:
    return next(KINDS[cls] for cls in type(error).__mro__ if cls in KINDS)


def error_of(slug_or_type: str, status: int, detail: str) -> TandemError:
    """The error that a problem stood for; by its status where the type is not ours."""
    slug = slug_or_type.removeprefix(TYPE_PREFIX)
    by_slug = {kind.slug: cls for cls, kind in KINDS.items() if kind is not INTERNAL and cls not in AT_THE_DOOR}
    if slug in by_slug:
        return by_slug[slug](detail)
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return DeadlineExceeded(detail)
    return Unavailable(detail) if status >= 500 else BadAnswer(detail)


def document(
    kind: Kind, detail: str, request_id: str | None, errors: Sequence[Mapping[str, str]] = ()
) -> dict[str, Any]:
    """A problem's body."""
    body: dict[str, Any] = {
        "type": TYPE_PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail[:MAX_TEXT],
    }
    if request_id:
        body |= {"instance": f"urn:tandem:request:{request_id}", "request_id": request_id}
    if errors:
        body["errors"] = list(errors)
    return body


def document_of(error: TandemError, request_id: str | None) -> dict[str, Any]:
    kind = kind_of(error)
    return document(kind, INTERNAL_DETAIL if kind is INTERNAL else str(error), request_id)


def problem(body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    """ASCII only: a text may hold half a surrogate pair, which UTF-8 cannot carry."""
    return Response(json.dumps(body), body["status"], dict(headers or {}), MEDIA_TYPE)


def of_error(error: TandemError, request_id: str | None) -> Response:
    return problem(document_of(error, request_id), _headers(error))


def of_crash(request_id: str | None) -> Response:
    return of_error(TandemError(), request_id)


def install(app: FastAPI) -> None:
    """Handlers for everything that FastAPI, Starlette and Tandem raise on purpose."""
    app.add_exception_handler(TandemError, _on_tandem_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid)


async def _on_tandem_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TandemError)
    return of_error(error, request.scope.get(REQUEST_ID))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = TOO_LARGE if error.status_code == TOO_LARGE.status else _plain(error.status_code)
    headers = error.headers if error.status_code != HTTPStatus.METHOD_NOT_ALLOWED else {"Allow": _allowed(request)}
    return problem(document(kind, str(error.detail), request.scope.get(REQUEST_ID)), headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    request_id = request.scope.get(REQUEST_ID)
    if found and found[0]["type"] == "json_invalid":
        return problem(document(MALFORMED, _syntax(found[0]), request_id))
    errors = [_entry(entry) for entry in found[:MAX_ERRORS]]
    return problem(document(INVALID, f"{len(found)} fault(s), listed in errors", request_id, errors))


def _allowed(request: Request) -> str:
    """Of all routes with this path; Starlette names the methods of the first one alone."""
    path = request.scope["path"]
    # Before 0.137, which vLLM does not go beyond, FastAPI keeps routes flat and has no such function.
    flat = getattr(routing, "iter_route_contexts", iter)(request.app.routes)
    routes = [one for one in flat if getattr(one, "path_regex", None) and one.path_regex.match(path)]
    return ", ".join(sorted({method for one in routes for method in one.methods or ()}))


def _plain(status: int) -> Kind:
    phrase = HTTPStatus(status).phrase
    return Kind(status, phrase.lower().replace(" ", "-"), phrase)


def _syntax(entry: Mapping[str, Any]) -> str:
    fault, place = entry.get("ctx", {}).get("error", "syntax error"), entry["loc"][-1]
    return f"{fault}, at character {place}" if place else str(fault)


def _entry(entry: Mapping[str, Any]) -> dict[str, str]:
    """Where and what; never the caller's value, which may be huge, private or not JSON at all."""
    place, *path = entry["loc"] or ("body",)
    return {"in": str(place), "pointer": _pointer(path), "message": str(entry["msg"])[:MAX_TEXT]}


def _pointer(path: Sequence[object]) -> str:
    """A JSON pointer as a URI fragment (RFC 6901)."""
    parts = (str(part)[:64].replace("~", "~0").replace("/", "~1") for part in path)
    return "#" + "".join(f"/{part}" for part in parts)


def _headers(error: TandemError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    if not isinstance(error, Unavailable | RateLimited):
        return {}
    seconds = error.retry_after_s if isinstance(error, Overloaded | RateLimited) else 1.0
    return {"Retry-After": f"{max(1, math.ceil(seconds))}"}


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {
            MEDIA_TYPE: {
                "schema": {
                    "type": "object",
                    "required": ["type", "title", "status", "detail"],
                    "properties": {
                        "type": {"type": "string"},
                        "title": {"type": "string"},
                        "status": {"type": "integer"},
                        "detail": {"type": "string"},
                        "instance": {"type": "string"},
                        "request_id": {"type": "string"},
                        "errors": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
    for status, description in {
        400: "The body is not JSON",
        401: "No key, or none that is valid",
        403: "A key without the scope that this needs",
        404: "No such item, user or route",
        409: "The catalogues differ",
        408: "The body took too long to arrive",
        413: "The body is too large",
        422: "The request does not have the documented form, or asks for what cannot be done",
        429: "More requests than were agreed for this key; see Retry-After",
        500: "A fault of ours",
        503: "Overload, or a part that does not answer; see Retry-After",
        504: "No time was left",
    }.items()
}
"""For a route's `responses`, so that the OpenAPI document names every status."""
