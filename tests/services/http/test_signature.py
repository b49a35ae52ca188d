"""Calls between services: only what was signed with the shared secret, all of it, and not long ago."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

from services.http import signature
from services.http.application import application
from services.http.caller import needs
from services.http.routes import Router
from services.http.settings import HttpSettings
from services.http.signature import HEADER, WINDOW_S, by_signature, sign
from shared.deadline import HEADER as DEADLINE
from tests.services.asgi import client

pytestmark = pytest.mark.anyio

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
BODY = b'{"a":1}'


def inner(secrets: Sequence[bytes] = (NEW,)) -> FastAPI:
    router = Router(dependencies=[needs("internal")])

    @router.post("/echo/{word}")
    async def echo(word: str, request: Request) -> int:
        return len(await request.body())

    @router.get("/look")
    async def look() -> str:
        return "seen"

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    settings = HttpSettings(max_body_bytes=2048)
    return application(
        "t", [router], lambda: None, settings, CollectorRegistry(), lifespan, known=by_signature(secrets)
    )


def signed(
    secret: bytes = NEW, method: str = "POST", target: bytes = b"/echo/a?b=c", deadline: str = "500", body: bytes = BODY
) -> dict[str, str]:
    return {HEADER: sign(secret, method, target, deadline, body), DEADLINE: deadline}


async def test_a_signed_call_is_answered() -> None:
    async with client(inner()) as http:
        answer = await http.post("/echo/a?b=c", content=BODY, headers=signed())
        looked = await http.get("/look", headers=signed(method="GET", target=b"/look", body=b""))
    assert answer.json() == len(BODY)
    assert looked.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {HEADER: ""},
        {HEADER: "nonsense"},
        {HEADER: "..."},
        {HEADER: "²²².a.b"},
        {HEADER: "9" * 5_000 + ".a.b"},
        signed(OTHER),
        signed(method="PUT"),
        signed(target=b"/echo/a"),
        signed(target=b"/echo/b?b=c"),
        signed(deadline="500") | {DEADLINE: "60000"},
        {HEADER: signed()[HEADER]},
        signed(body=BODY + b" "),
        signed(body=b""),
    ],
)
async def test_what_was_not_signed_so_is_refused(headers: dict[str, str]) -> None:
    async with client(inner()) as http:
        sent = {name: value.encode() for name, value in headers.items()}
        answer = await http.post("/echo/a?b=c", content=BODY, headers=sent)
    assert answer.status_code == 401
    assert answer.json()["type"] == "urn:tandem:problem:unauthorized"


@pytest.mark.parametrize(("shift", "status"), [(-2, 401), (-0.5, 200), (0.5, 200), (2, 401)])
async def test_a_signature_holds_for_half_a_minute(shift: float, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = signed()
    now = time.time() + shift * WINDOW_S
    monkeypatch.setattr(signature.time, "time", lambda: now)
    async with client(inner()) as http:
        answer = await http.post("/echo/a?b=c", content=BODY, headers=headers)
    assert answer.status_code == status


async def test_two_secrets_hold_while_one_replaces_the_other() -> None:
    async with client(inner((NEW, OLD))) as http:
        for secret, status in ((NEW, 200), (OLD, 200), (OTHER, 401)):
            answer = await http.post("/echo/a?b=c", content=BODY, headers=signed(secret))
            assert answer.status_code == status


async def test_a_body_in_pieces_is_checked_as_a_whole() -> None:
    async def pieces(*of: bytes) -> AsyncIterator[bytes]:
        for one in of:
            yield one

    async with client(inner()) as http:
        right = await http.post("/echo/a?b=c", content=pieces(BODY[:3], BODY[3:]), headers=signed())
        wrong = await http.post("/echo/a?b=c", content=pieces(BODY[:3], b"}"), headers=signed())
    assert (right.status_code, wrong.status_code) == (200, 401)


async def test_a_large_body_is_refused_before_it_is_hashed() -> None:
    async with client(inner()) as http:
        answer = await http.post("/echo/a?b=c", content=b"x" * 4096, headers=signed(body=b"x" * 4096))
    assert answer.status_code == 413


async def test_probes_need_no_signature_and_all_else_does() -> None:
    async with client(inner()) as http:
        for path, status in {
            "/livez": 200,
            "/readyz": 200,
            "/metrics": 401,
            "/docs": 401,
            "/openapi.json": 401,
            "/v1/look": 401,
            "/nowhere": 401,
        }.items():
            assert (await http.get(path)).status_code == status, path


async def test_without_a_secret_everybody_is_let_in() -> None:
    async with client(inner(())) as http:
        assert (await http.get("/look")).status_code == 200
