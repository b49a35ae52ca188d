"""The routes of what is stored, over a store in memory: what they answer, to whom, and what they refuse."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.types import Scope as AsgiScope

from services.gateway.cache.memory import MemoryCache
from services.gateway.policy import Policy
from services.gateway.ports import Click, Record, RetrievalPort, State
from services.gateway.routes_state import state_routes
from services.gateway.state.bounds import Bounds
from services.gateway.state.connections import Connections
from services.gateway.state.memory import MemoryState
from services.gateway.state.redis import RedisState
from services.http.application import application
from services.http.caller import SCOPES, Caller, Scope
from services.http.keys import Headers
from services.http.settings import HttpSettings
from shared.errors import Unavailable
from shared.wire.base import MAX_EVENTS
from tests import fakes
from tests.redis_server import free_port
from tests.services.asgi import client

pytestmark = pytest.mark.anyio

CLICK = {"event_id": "e1", "user_id": "u1", "item_id": "i7", "timestamp": 5}


def by_headers(scope: AsgiScope, headers: Headers) -> Caller:
    """A door that believes everything: `tenant` and `scope`."""
    named: Any = headers.get(b"scope", b"").decode()
    scopes: frozenset[Scope] = frozenset({named}) if named else SCOPES
    return Caller(headers.get(b"tenant", b"default").decode(), "key", scopes)


def app(
    state: State | None = None, retrieval: RetrievalPort | None = None, clicks: list[Click] | None = None
) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield

    heard = clicks.extend if clicks is not None else lambda clicks: None
    retrieval = retrieval or fakes.retrieval_service(fakes.catalog())
    router = state_routes(
        state or MemoryState(), MemoryCache(1 << 20), fakes.histories(), retrieval, Policy(), "default", heard
    )
    return application("t", [router], lambda: None, HttpSettings(), CollectorRegistry(), lifespan, known=by_headers)


def absent() -> RedisState:
    return RedisState(Connections(f"redis://127.0.0.1:{free_port()}", 0.05))


def many(count: int, **fields: Any) -> dict[str, Any]:
    return {"events": [CLICK | {"event_id": f"e{n}"} | fields for n in range(count)]}


async def test_one_event_is_acknowledged_with_a_token_and_counts_once() -> None:
    async with client(app()) as http:
        first = await http.post("/events", json=CLICK)
        again = await http.post("/v1/events", json=CLICK)
    assert (first.status_code, first.json()) == (200, {"accepted": 1, "duplicates": 0, "tokens": {"u1": "1"}})
    assert again.json() == {"accepted": 0, "duplicates": 1, "tokens": {"u1": "1"}}


async def test_500_events_are_taken_and_501_are_not() -> None:
    async with client(app()) as http:
        taken = await http.post("/events", json=many(MAX_EVENTS))
        refused = await http.post("/events", json=many(MAX_EVENTS + 1))
    assert (taken.json()["accepted"], taken.json()["tokens"]) == (500, {"u1": "1f4"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "#/events")


async def test_an_event_without_a_timestamp_happened_now() -> None:
    async with client(app()) as http:
        await http.post("/events", json={"event_id": "e1", "user_id": "u2", "item_id": "i1"})
        await http.post("/events", json=CLICK | {"user_id": "u2", "event_id": "e2"})
        found = await http.get("/users/u2")
    assert found.json()["item_ids"] == ["i7", "i1"]


async def test_tokens_name_users_and_sessions_and_a_user_goes_before_a_session_of_the_same_id() -> None:
    async with client(app()) as http:
        await http.post("/events", json=CLICK | {"user_id": "x"})
        both = {"events": [CLICK | {"event_id": "e2", "user_id": "x", "session_id": "s"}]}
        both["events"] += [{"event_id": "e3", "session_id": "x", "item_id": "i1"}]
        found = await http.post("/events", json=both)
    assert found.json()["tokens"] == {"x": "2", "s": "1"}


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"event_id": "e1", "user_id": "u1"}, "#/item_id"),
        ({"event_id": "e1", "item_id": "i1"}, "#"),
        (CLICK | {"type": "purchase"}, "#/type"),
        (CLICK | {"timestamp": -1}, "#/timestamp"),
        (CLICK | {"timestamp": (1 << 53) + 1}, "#/timestamp"),
        (CLICK | {"user_id": "a\x00"}, "#/user_id"),
        (CLICK | {"more": 1}, "#/more"),
        ({"events": []}, "#/events"),
        ({"events": [CLICK, CLICK | {"item_id": ""}]}, "#/events/1/item_id"),
        ({"events": [CLICK], "more": 1}, "#/more"),
        ([CLICK], "#"),
        (None, "#"),
    ],
)
async def test_a_wrong_event_is_refused_and_its_fault_is_located(body: object, pointer: str) -> None:
    async with client(app()) as http:
        response = await http.post("/events", json=body)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


async def test_a_batch_with_one_wrong_event_writes_none() -> None:
    async with client(app()) as http:
        await http.post("/events", json={"events": [CLICK, CLICK | {"item_id": ""}]})
        assert (await http.get("/users/u1")).status_code == 404


async def test_a_user_is_shown_with_all_that_is_stored() -> None:
    async with client(app()) as http:
        await http.post("/events", json=CLICK)
        events = [CLICK | {"event_id": item, "type": "dismissal", "item_id": item} for item in "ba"]
        await http.post("/events", json={"events": events})
        found = await http.get("/users/u1")
        assert found.json() == {"user_id": "u1", "item_ids": ["i7"], "seen_item_ids": ["a", "b"], "token": "3"}


async def test_the_history_begins_with_the_data_folders() -> None:
    async with client(app()) as http:
        before = await http.get("/users/u1/history")
        await http.post("/events", json=CLICK)
        after = await http.get("/users/u1/history")
    assert before.json() == {"user_id": "u1", "item_ids": ["i3", "i5"]}
    assert after.json() == {"user_id": "u1", "item_ids": ["i3", "i5", "i7"]}


async def test_an_erased_user_is_unknown_also_to_the_data_folder() -> None:
    async with client(app()) as http:
        await http.post("/events", json=CLICK)
        erased = await http.delete("/users/u1")
        gone = [await http.get(path) for path in ("/users/u1", "/users/u1/history")]
        again = await http.delete("/users/u1")
        await http.post("/events", json=CLICK)
        anew = await http.get("/users/u1/history")
    assert erased.json() == {"user_id": "u1", "erased_keys": 1}
    assert [response.status_code for response in gone] == [404, 404]
    assert gone[0].json()["type"] == "urn:tandem:problem:unknown-user"
    assert (again.status_code, again.json()["erased_keys"]) == (200, 0)
    assert anew.json()["item_ids"] == ["i7"]


async def test_an_id_may_hold_slashes() -> None:
    async with client(app()) as http:
        await http.post("/events", json=CLICK | {"user_id": "a/b"})
        assert (await http.get("/users/a/b")).json()["user_id"] == "a/b"
        assert (await http.get("/users/a%2Fb/history")).json()["item_ids"] == ["i7"]
        assert (await http.delete("/users/a/b")).json()["erased_keys"] == 1


async def test_an_item_has_a_state_and_the_default_where_none_was_set() -> None:
    async with client(app()) as http:
        before = await http.get("/items/i1")
        changed = await http.put("/items/i1", json={"hidden": True, "categories": ["Old"]})
        after = await http.get("/items/i1")
    assert before.json()["state"] == {"available": True, "hidden": False}
    assert changed.json()["state"] == {"available": True, "hidden": True, "categories": ["Old"]}
    assert changed.json() == after.json()


@pytest.mark.parametrize(
    ("path", "body", "status", "slug"),
    [
        ("/items/nope", {}, 404, "unknown-item"),
        ("/items/i1", {"sold": True}, 422, "invalid-request"),
        ("/items/i1", {"available": "perhaps"}, 422, "invalid-request"),
        ("/items/i3", {"hidden": True}, 422, "bad-input"),
    ],
)
async def test_a_state_that_cannot_be_set_is_refused(path: str, body: object, status: int, slug: str) -> None:
    async with client(app(MemoryState(Bounds(item_states=1)))) as http:
        await http.put("/items/i2", json={"hidden": True})
        response = await http.put(path, json=body)
    assert (response.status_code, response.json()["type"]) == (status, f"urn:tandem:problem:{slug}")


async def test_the_state_of_an_item_that_cannot_be_looked_up_is_not_set() -> None:
    state = MemoryState()
    async with client(app(state, fakes.BrokenRetrieval(Unavailable("down")))) as http:
        response = await http.put("/items/i1", json={"hidden": True})
    assert response.status_code == 503
    assert not (await state.items("default")).items


async def test_nothing_of_one_tenant_is_seen_by_another() -> None:
    a, b = {"tenant": "a"}, {"tenant": "b"}
    async with client(app()) as http:
        await http.post("/events", json=CLICK, headers=a)
        await http.put("/items/i1", json={"hidden": True}, headers=a)
        for path in ("/users/u1", "/users/u1/history"):
            assert (await http.get(path, headers=b)).status_code == 404
        assert (await http.get("/items/i1", headers=b)).json()["state"]["hidden"] is False
        assert (await http.delete("/users/u1", headers=b)).json()["erased_keys"] == 0
        assert (await http.post("/events", json=CLICK, headers=b)).json()["accepted"] == 1
        assert (await http.get("/users/u1/history", headers=a)).json()["item_ids"] == ["i7"]


async def test_the_data_folder_belongs_to_its_tenant_alone() -> None:
    async with client(app()) as http:
        assert (await http.get("/users/u1/history")).status_code == 200
        assert (await http.get("/users/u1/history", headers={"tenant": "a"})).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "/events", "write"),
        ("GET", "/users/u1", "read"),
        ("GET", "/users/u1/history", "read"),
        ("DELETE", "/users/u1", "admin"),
        ("GET", "/items/i1", "read"),
        ("PUT", "/items/i1", "admin"),
    ],
)
async def test_every_route_needs_its_scope(method: str, path: str, needed: str) -> None:
    async with client(app()) as http:
        allowed = {
            scope: (await http.request(method, path, headers={"scope": scope})).status_code != 403
            for scope in ("read", "write", "admin")
        }
    assert allowed == {scope: scope == needed for scope in allowed}


async def test_taken_recommendations_are_heard_of() -> None:
    state, clicks = MemoryState(), list[Click]()
    await state.record("default", "u1", Record("r1", ("i7",), "llamarec", "cache"))
    async with client(app(state, clicks=clicks)) as http:
        await http.post("/events", json=CLICK | {"recommendation_id": "r1"})
        await http.post("/events", json=CLICK | {"recommendation_id": "r1"})
    assert clicks == [Click("llamarec", "cache")]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/events", CLICK),
        ("GET", "/users/u1", None),
        ("GET", "/users/u1/history", None),
        ("DELETE", "/users/u1", None),
        ("PUT", "/items/i1", {}),
    ],
)
async def test_without_the_store_nothing_is_acknowledged(method: str, path: str, body: object) -> None:
    async with client(app(absent())) as http:
        response = await http.request(method, path, json=body)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["type"] == "urn:tandem:problem:unavailable"
    assert "127.0.0.1" not in response.text


async def test_without_the_store_an_item_has_no_state_rather_than_a_guessed_one() -> None:
    async with client(app(absent())) as http:
        response = await http.get("/items/i1")
    assert (response.status_code, "state" in response.json()) == (200, False)


async def test_the_openapi_document_knows_both_forms_of_events() -> None:
    async with client(app()) as http:
        document = (await http.get("/openapi.json")).json()
    body = document["paths"]["/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    forms = {form["$ref"].rsplit("/", 1)[1] for form in body["anyOf"]}
    assert forms == {"Event", "EventBatch"}
    assert forms <= document["components"]["schemas"].keys()
