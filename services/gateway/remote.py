"""The ports over HTTP. Whatever goes wrong on the way comes out as one of shared.errors."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
import structlog
from pydantic import BaseModel, ValidationError

from services.gateway.aging import Aging
from services.http import tracing
from services.http.logs import request_id
from services.http.observe import HEADER as REQUEST_ID
from services.http.problems import NOT_LET_IN, error_of
from services.http.signature import HEADER as SIGNATURE
from services.http.signature import sign
from shared.deadline import HEADER as DEADLINE
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, TandemError, Unavailable
from shared.wire.base import MAX_TIMEOUT_MS
from shared.wire.inner import (
    ModelList,
    RankAnswer,
    RankRequest,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.users import ItemAnswer

log = structlog.get_logger()
Answer = TypeVar("Answer", bound=BaseModel)
RETRIEVAL_AT_ONCE = 16
RANKING_AT_ONCE = 64
"""Calls to one service at once. More would not be answered sooner, and httpcore's pool takes time with the square of
its connections: with a hundred of them, half of all that the gateway does.
"""
WAIT_SHARE = 0.1
"""Of what is left, to wait for one of these places. Who would wait longer goes without: a queue here would use up the
budget of everybody in it."""
DONE = frozenset({200, 204})
KEEPALIVE_S = 4.0
"""Shorter than the servers' own, so that no request goes into a connection that is just being closed."""


def client(
    base_url: str, secrets: Sequence[bytes] = (), transport: httpx.AsyncBaseTransport | None = None
) -> httpx.AsyncClient:
    """Signs with the first of the secrets. Without a bound of its own: Remote bounds its calls, and httpcore 1.0.9
    loses a connection for good when a request is cancelled while it waits for one (encode/httpcore issue 1093)."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_S)
    auth = Signature(secrets[0]) if secrets else None
    if transport is None:
        context = httpx.create_ssl_context(trust_env=False)
        transport = Aging(lambda: httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits))
    return httpx.AsyncClient(base_url=base_url, trust_env=False, auth=auth, transport=transport)


class Signature(httpx.Auth):
    requires_request_body = True

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        deadline = request.headers.get(DEADLINE, "")
        request.headers[SIGNATURE] = sign(self._secret, request.method, request.url.raw_path, deadline, request.content)
        yield request


class Remote:
    """One inner service. `name` stands in the messages; `prefix` is where its routes begin: those of one release."""

    def __init__(self, name: str, client: httpx.AsyncClient, at_once: int, prefix: str = "") -> None:
        self._name = name
        self._client = client
        self._free = asyncio.Semaphore(at_once)
        self._prefix = prefix

    async def models(self, deadline: Deadline) -> ModelList:
        return await self._call("GET", "/models", None, ModelList, deadline)

    async def _call(
        self, method: str, path: str, body: BaseModel | None, answer: type[Answer], deadline: Deadline
    ) -> Answer:
        try:
            async with asyncio.timeout(WAIT_SHARE * deadline.remaining_s()):
                await self._free.acquire()
        except TimeoutError:
            raise Overloaded(f"too many calls to the {self._name} service are under way") from None
        try:
            response = await self._send(method, self._prefix + path, body, deadline)
        finally:
            self._free.release()
        return self._read(response, answer)

    async def _send(
        self, method: str, url: str | httpx.URL, body: BaseModel | None, deadline: Deadline, **options: Any
    ) -> httpx.Response:
        """`options` are httpx's own. Raises what the service's problem stands for."""
        if deadline.expired:
            raise DeadlineExceeded(f"no time is left to ask the {self._name} service")
        headers = deadline.at_most_ms(MAX_TIMEOUT_MS).header() | tracing.headers() | options.pop("headers", {})
        if of_request := request_id():
            headers[REQUEST_ID] = of_request
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = body.model_dump_json(exclude_none=True)
        try:
            response = await self._client.request(
                method, url, content=content, headers=headers, timeout=deadline.remaining_s(), **options
            )
        except httpx.TimeoutException:
            raise DeadlineExceeded(f"the {self._name} service did not answer in time") from None
        except httpx.HTTPError as error:
            raise Unavailable(f"the {self._name} service does not answer: {type(error).__name__}") from error
        if response.status_code not in DONE:
            raise self._error(response)
        return response

    def _read(self, response: httpx.Response, answer: type[Answer]) -> Answer:
        try:
            # A service that is newer than this gateway may say more.
            return answer.model_validate_json(response.content, extra="ignore")
        except ValidationError as error:
            raise BadAnswer(
                f"the {self._name} service answered what it should not: {error.error_count()} faults"
            ) from None

    def _error(self, response: httpx.Response) -> TandemError:
        try:
            problem = response.json()
            kind, detail = str(problem["type"]), str(problem["detail"])
        except (ValueError, KeyError, TypeError, RecursionError):
            kind, detail = "", f"the {self._name} service answered {response.status_code}"
        if response.status_code in NOT_LET_IN:  # the reason is for who runs this, not for who asks
            log.error("not let in", service=self._name, status=response.status_code, reason=detail)
            return Unavailable(f"the {self._name} service does not let this gateway in")
        error = error_of(kind, response.status_code, detail)
        if isinstance(error, Overloaded):
            seconds = response.headers.get("retry-after", "1")
            error.retry_after_s = float(seconds) if seconds.isdecimal() else 1.0
        return error


class RemoteRetrieval(Remote):
    def __init__(self, client: httpx.AsyncClient, prefix: str = "") -> None:
        super().__init__("retrieval", client, RETRIEVAL_AT_ONCE, prefix)

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._call("POST", "/retrieve", request, RetrieveAnswer, deadline)

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._call("POST", "/score", request, RetrieveAnswer, deadline)

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return await self._call("POST", "/resolve", request, ResolveAnswer, deadline)

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        return await self._call("GET", f"/popular?k={k}", None, RetrieveAnswer, deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        return await self._call("GET", f"/items/{quote(item_id, safe='')}", None, ItemAnswer, deadline)


class RemoteRanking(Remote):
    def __init__(self, client: httpx.AsyncClient, prefix: str = "") -> None:
        super().__init__("ranking", client, RANKING_AT_ONCE, prefix)

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        return await self._call("POST", "/rank", request, RankAnswer, deadline)
