"""Every route of the gateway, against everybody who should not be let in, and every tenant against every other."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.commands.keys import Revoke, run
from services.gateway.settings import GatewaySettings
from services.http.health import PROBES
from tests.redis_server import RedisServer
from tests.services.asgi import Operation, client, embedded_app, operations
from tests.services.keys import ALL, PAST, added, sent

pytestmark = pytest.mark.anyio

OPERATIONS = [one for one in operations(embedded_app()) if one.path not in PROBES]
UNVERSIONED = ("/metrics", "/docs", "/openapi.json")
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@asynccontextmanager
async def gateway(file: Path, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    patient = GatewaySettings(api_keys_file=file, default_timeout_ms=20_000, **settings)
    async with client(embedded_app(patient)) as http:
        yield http


async def ask(http: httpx.AsyncClient, one: Operation, key: str | None) -> httpx.Response:
    return await http.request(one.method, one.url, json=one.example, headers=sent(key) if key else {})


def test_every_route_but_the_probes_declares_a_scope() -> None:
    undeclared = [str(one) for one in operations(embedded_app()) if one.needs is None]
    assert sorted(undeclared) == ["GET /livez", "GET /readyz"]


def test_every_route_stands_under_its_version_with_the_same_scope() -> None:
    plain = {(one.method, one.path): one.needs for one in OPERATIONS if not one.path.startswith("/v1")}
    versioned = {(one.method, one.path[3:]): one.needs for one in OPERATIONS if one.path.startswith("/v1")}
    assert versioned == {
        key: scope for key, scope in plain.items() if key[1] not in ("/metrics", "/docs", "/openapi.json")
    }


async def test_nobody_is_let_in_who_should_not_be(file: Path) -> None:
    wrong = {
        "no key": None,
        "expired": added(file, expires=PAST),
        "revoked": added(file, revoked=PAST, expires=FUTURE),
        "a wrong secret": added(file)[:-4] + "AAAA",
        "an unknown id": "td_000000000000_" + "A" * 43,
        "no key at all": "Bearer",
    }
    async with gateway(file) as http:
        for one in OPERATIONS:
            for name, key in wrong.items():
                answer = await ask(http, one, key)
                assert answer.status_code == 401, f"{one} with {name}"
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["type"] == "urn:tandem:problem:unauthorized"


async def test_a_key_opens_what_its_scopes_say_and_nothing_else(file: Path) -> None:
    only = {scope: added(file, scopes=(scope,)) for scope in ALL}
    others = {scope: added(file, scopes=[other for other in ALL if other != scope]) for scope in ALL}
    async with gateway(file) as http:
        for one in OPERATIONS:
            assert one.needs in ALL
            assert (await ask(http, one, others[one.needs])).status_code == 403, one
            assert (await ask(http, one, only[one.needs])).status_code not in (401, 403), one


async def test_keys_rotate_while_the_gateway_serves(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.http.keys.RECHECK_S", 0)
    old = added(file)
    statuses = []
    async with gateway(file) as http:
        new = added(file)
        statuses += [(await http.get("/models", headers=sent(key))).status_code for key in (old, new)]
        run(Revoke(id=old.split("_")[1], file=file))
        statuses += [(await http.get("/models", headers=sent(key))).status_code for key in (old, new)]
    assert statuses == [200, 200, 401, 200]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture(params=["memory", "redis"])
def state(request: pytest.FixtureRequest) -> dict[str, Any]:
    if request.param == "memory":
        return {}
    server: RedisServer = request.getfixturevalue("running")
    server.command("FLUSHALL")
    return {"redis_url": server.url, "redis_timeout_ms": 1000}


async def everything(http: httpx.AsyncClient, key: str) -> list[Any]:
    """What one tenant sees of every route, twice, but for what is never the same. Begins with a recommendation."""
    seen = []
    for one in [*OPERATIONS, *OPERATIONS]:
        if one.path != "/metrics":
            answer = await ask(http, one, key)
            if not seen:
                assert answer.json()["cache"] == "miss", "an answer of another tenant's"
            seen.append((str(one), answer.status_code, _lasting(answer.text)))
    return seen


def _lasting(text: str) -> str:
    # What was written to the cache beside an answer may or may not be there for the next one.
    for passing in (r'"(recommendation_id|request_id|instance|cache|rung)":\s*"[^"]*"', r'"timing_ms":\s*{[^}]*}'):
        text = re.sub(passing, "", text)
    return text


async def test_what_a_tenant_sees_does_not_depend_on_any_other(file: Path, state: dict[str, Any]) -> None:
    alone, busy, quiet = (added(file, tenant) for tenant in ("alone", "busy", "quiet"))
    async with gateway(file, **state) as http:
        without_others = await everything(http, alone)
        first = await everything(http, busy)
        beside_others = await everything(http, quiet)
    assert [status for _, status, _ in without_others if status >= 500] == []
    half = len(first) // 2
    assert first[:half] != first[half:], "a tenant must see its own traces"
    assert beside_others == without_others == first


async def test_what_a_tenant_does_changes_nothing_for_another(file: Path, state: dict[str, Any]) -> None:
    one, other = added(file, "one"), added(file, "other")
    reads = [operation for operation in OPERATIONS if operation.method == "GET" and operation.path != "/metrics"]
    event = {"event_id": "e9", "user_id": "u1", "item_id": "i8"}
    async with gateway(file, **state) as http:
        await http.post("/events", json=event, headers=sent(one))
        await http.put("/items/i1", json={"hidden": True}, headers=sent(one))
        before = [_lasting((await ask(http, read, one)).text) for read in reads]
        await everything(http, other)
        after = [_lasting((await ask(http, read, one)).text) for read in reads]
        again = await http.post("/events", json=event, headers=sent(one))
    assert after == before
    assert again.json()["duplicates"] == 1
