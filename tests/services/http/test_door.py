"""The door, and where a process may listen without one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.http.application import application
from services.http.caller import Tenant, needs
from services.http.door import by_keys, require_closed
from services.http.routes import Router
from services.http.settings import HttpSettings, read
from shared.errors import BadInput
from tests.services.asgi import client
from tests.services.keys import added, sent

pytestmark = pytest.mark.anyio

TOKEN = "t" * 16


def app(keys: Path | None = None, metrics_token: str | None = None) -> FastAPI:
    router = Router()

    @router.get("/mine", dependencies=[needs("read")])
    async def mine(tenant: Tenant) -> str:
        return tenant

    @router.post("/numbers", dependencies=[needs("write")])
    async def numbers(body: list[int]) -> int:
        return sum(body)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    settings = HttpSettings(metrics_token=metrics_token)  # type: ignore[arg-type]
    return application("t", [router], lambda: None, settings, CollectorRegistry(), lifespan, known=by_keys(keys))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def test_without_keys_everybody_is_the_default_tenant() -> None:
    async with client(app()) as http:
        assert (await http.get("/mine")).json() == "default"


async def test_a_key_opens_its_tenants_data(file: Path) -> None:
    one, other = added(file, "one"), added(file, "other")
    async with client(app(file)) as http:
        assert (await http.get("/mine", headers=sent(one))).json() == "one"
        assert (await http.get("/mine", headers={"X-Api-Key": other})).json() == "other"


async def test_a_refusal_says_how_to_ask_and_comes_before_the_route_is_looked_for(file: Path) -> None:
    added(file)
    async with client(app(file)) as http:
        refused = [await http.get("/mine"), await http.get("/nowhere"), await http.delete("/mine")]
    for one in refused:
        assert (one.status_code, one.headers["www-authenticate"]) == (401, "Bearer")
        assert one.headers["content-type"] == "application/problem+json"


async def test_a_key_without_the_scope_is_refused_before_its_body_is_read(file: Path) -> None:
    key = added(file, scopes=("read",))

    async def endless() -> AsyncIterator[bytes]:
        raise AssertionError("read")
        yield b""

    async with client(app(file)) as http:
        refused = await http.post("/numbers", content=endless(), headers=sent(key))
    assert refused.status_code == 403
    assert "write" in refused.json()["detail"]


async def test_a_key_over_its_rate_is_told_when_to_come_back(file: Path) -> None:
    key = added(file, rate="2/hour")
    async with client(app(file)) as http:
        answers = [await http.get("/mine", headers=sent(key)) for _ in range(4)]
        free = await http.get("/mine", headers=sent(added(file, "other")))
    assert [one.status_code for one in answers] == [200, 200, 429, 429]
    assert answers[-1].headers["retry-after"].isdecimal()
    assert answers[-1].json()["type"] == "urn:tandem:problem:rate-limited"
    assert free.status_code == 401  # the new key is known within a second


async def test_metrics_are_open_where_nothing_is_locked() -> None:
    async with client(app()) as http:
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize("locked", [False, True])
async def test_the_metrics_token_opens_metrics_and_nothing_else(file: Path, locked: bool) -> None:
    key, admin = added(file, scopes=("read", "write")), added(file, scopes=("admin",))
    async with client(app(file if locked else None, TOKEN)) as http:
        scraped = await http.get("/metrics", headers=sent(TOKEN))
        refused = [await http.get("/metrics"), await http.get("/metrics", headers=sent("x" * 16))]
        elsewhere = await http.get("/mine", headers=sent(TOKEN))
        by_admin = await http.get("/metrics", headers=sent(admin))
        by_reader = await http.get("/metrics", headers=sent(key))
    assert scraped.status_code == 200
    assert [one.status_code for one in refused] == [401, 401]
    assert elsewhere.status_code == (401 if locked else 200)
    assert by_admin.status_code == (200 if locked else 401)
    assert by_reader.status_code == (403 if locked else 401)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_needs_no_lock(host: str) -> None:
    require_closed(host, locked=False, allow_open=False, way_out="")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_an_address_that_others_reach_needs_one(host: str) -> None:
    with pytest.raises(BadInput, match="TANDEM_ALLOW_OPEN"):
        require_closed(host, locked=False, allow_open=False, way_out="Lock it")
    require_closed(host, locked=True, allow_open=False, way_out="")
    require_closed(host, locked=False, allow_open=True, way_out="")


@pytest.mark.parametrize("given", ["hunter2", "a" * 32 + "," + "hunter2", ",".join("abc" * 16 for _ in range(3)), ",,"])
def test_a_secret_that_is_too_short_is_refused_and_not_shown(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_INTERNAL_SECRET", given)
    with pytest.raises(BadInput, match="TANDEM_INTERNAL_SECRET is a secret") as caught:
        read(HttpSettings)
    assert given not in str(caught.value)


def test_two_secrets_are_read_and_the_first_one_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_INTERNAL_SECRET", "a" * 32 + ", " + "b" * 32)
    assert read(HttpSettings).internal_secrets() == (b"a" * 32, b"b" * 32)
