"""Loading over HTTP: at every replica that the service's name stands for, with one word for all of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.gateway.remote import client
from services.gateway.rollout.hosts import Hosts, over_http
from services.http.problems import of_error
from services.http.signature import HEADER as SIGNATURE
from shared.deadline import Deadline
from shared.errors import (
    BadArtifact,
    BadInput,
    DeadlineExceeded,
    ReleaseNotLoaded,
    TandemError,
    Unavailable,
    UnknownRelease,
)
from shared.wire.inner import ReleaseCard, RetrieveRequest

pytestmark = pytest.mark.anyio

CARD = {"release": "r1", "catalog": "c", "models": []}
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def replicas(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the name of the services resolves to; may be changed."""
    addresses = ["10.0.0.1", "10.0.0.2"]

    async def resolve(self: Any, host: str, port: int, **options: Any) -> list[Any]:
        assert (host, port) == ("retrieval.internal", 8001)
        if not addresses:
            raise socket.gaierror(-2, "Name or service not known")
        stream = socket.SOCK_STREAM
        both = [(socket.AF_INET, stream, 6, "", (one, port)) for one in addresses * 2]
        return [(socket.AF_INET6, stream, 6, "", ("::1", port, 0, 0)), *both]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    return addresses


def hosts(handler: Handler) -> Hosts:
    to = client("http://retrieval.internal:8001", (b"s" * 32,), httpx.MockTransport(handler))
    return over_http(to, to)


def soon() -> Deadline:
    return Deadline.after_ms(5_000)


def problem(error: TandemError) -> httpx.Response:
    there = of_error(error, None)
    return httpx.Response(there.status_code, content=bytes(there.body))


async def test_a_release_is_loaded_at_every_address_under_the_services_name() -> None:
    seen: list[tuple[str, str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        assert SIGNATURE in request.headers
        assert float(request.headers["X-Tandem-Deadline-Ms"]) <= 60_000
        seen.append((request.method, str(request.url), request.headers["host"]))
        return httpx.Response(200, json=CARD)

    card = await hosts(handler).retrieval.load("r1", Deadline.after_ms(600_000))
    assert card == ReleaseCard.model_validate(CARD)
    assert sorted(seen) == [("PUT", f"http://10.0.0.{n}:8001/releases/r1", "retrieval.internal:8001") for n in (1, 2)]


async def test_replicas_that_differ_are_not_one_release() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=CARD | {"catalog": request.url.host})

    with pytest.raises(BadArtifact, match="one registry"):
        await hosts(handler).retrieval.load("r1", soon())


@pytest.mark.parametrize("error", [UnknownRelease("none"), BadArtifact("damaged"), BadInput("live")])
async def test_what_one_replica_says_of_the_release_counts_before_silence(error: TandemError) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "10.0.0.1":
            raise httpx.ConnectError("refused")
        return problem(error)

    for work in (hosts(handler).retrieval.load, hosts(handler).ranking.unload):
        with pytest.raises(type(error)):
            await work("r1", soon())


async def test_a_replica_that_is_silent_hinders_no_other() -> None:
    loaded: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "10.0.0.1":
            raise httpx.ConnectError("refused")
        loaded.append(request.url.host)
        return httpx.Response(200, json=CARD)

    with pytest.raises(Unavailable):
        await hosts(handler).retrieval.load("r1", soon())
    assert loaded == ["10.0.0.2"]


async def test_a_load_that_outlasts_a_call_is_asked_for_again() -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        if len(asked) <= 2:
            return problem(DeadlineExceeded("still being loaded; ask again"))
        return httpx.Response(200, json=CARD)

    await hosts(handler).retrieval.load("r1", soon())
    assert sorted(asked) == ["10.0.0.1", "10.0.0.1", "10.0.0.2", "10.0.0.2"]
    asked.clear()
    with pytest.raises(DeadlineExceeded):
        await hosts(lambda request: problem(DeadlineExceeded("still"))).retrieval.load("r1", Deadline.after_ms(50))


async def test_loaded_is_what_every_replica_has() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        names = ["r0", "r1"] if request.url.host == "10.0.0.1" else ["r0"]
        return httpx.Response(200, json={"releases": [CARD | {"release": name} for name in names], "live": "r0"})

    found = await hosts(handler).retrieval.loaded(soon())
    assert ([card.release for card in found.releases], found.live) == (["r0"], "r0")


async def test_a_name_that_nobody_knows_is_unavailable(replicas: list[str]) -> None:
    replicas.clear()
    with pytest.raises(Unavailable, match="resolved"):
        await hosts(lambda request: httpx.Response(200, json=CARD)).retrieval.load("r1", soon())


async def test_a_bound_port_asks_its_release_alone() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.path)
        return problem(ReleaseNotLoaded("not here"))

    for release in ("r1", None):
        with pytest.raises(ReleaseNotLoaded):
            await hosts(handler).retrieval.port(release).retrieve(RetrieveRequest(history=["i1"]), soon())
    assert seen == ["/releases/r1/retrieve", "/retrieve"]


async def test_nonsense_is_an_error_of_the_tree() -> None:
    for nonsense in (httpx.Response(200, text="hello"), httpx.Response(200, text=json.dumps({})), httpx.Response(404)):
        with pytest.raises(TandemError):
            await hosts(lambda request, answer=nonsense: answer).retrieval.load("r1", soon())
