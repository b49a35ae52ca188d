"""Bad input has a documented status and is a problem; a marked 200 where there is an answer. Never a 500."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.services.asgi import client, embedded_app

pytestmark = pytest.mark.anyio

JSON = {"Content-Type": "application/json"}
DEEP = b'{"history":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


def body(**request: Any) -> bytes:
    return json.dumps({"user_id": "u1"} | request).encode()


REFUSED: dict[str, tuple[int, bytes]] = {
    "malformed JSON": (400, b'{"user_id":"u1"'),
    "not UTF-8": (400, b'{"user_id":"\xff\xfe"}'),
    "an integer of 5,000 digits": (400, b'{"user_id":"u1","limit":' + b"1" * 5000 + b"}"),
    "a duplicate key": (400, b'{"user_id":"u1","limit":0,"limit":5}'),
    "nothing": (422, b""),
    "null": (422, b"null"),
    "a list": (422, b"[]"),
    "nobody": (422, b"{}"),
    "an unknown field": (422, body(limt=3)),
    "an unknown field with half a surrogate pair": (422, b'{"user_id":"u1","\\ud800":1}'),
    "an unknown field of 100,000 characters": (422, body(**{"x" * 100_000: 1})),
    "limit 0": (422, body(limit=0)),
    "limit 1001": (422, body(limit=1001)),
    "limit NaN": (400, b'{"user_id":"u1","limit":NaN}'),
    "limit infinite": (422, b'{"user_id":"u1","limit":1e999}'),
    "limit a string": (422, body(limit="many")),
    "a history of 10,000 ids": (422, body(history=[f"i{n}" for n in range(10_000)])),
    "a history of numbers": (422, body(history=list(range(900)))),
    "an empty id": (422, body(history=[""])),
    "an id with a NUL": (422, body(history=["i\x00"])),
    "an id with half a surrogate pair": (422, b'{"user_id":"u1","history":["\\ud800"]}'),
    "an id of 100,000 characters": (422, body(user_id="x" * 100_000)),
    "an unknown ranker": (422, body(ranker="gpt")),
    "a ranker that is not loaded": (422, body(ranker="collm")),
    "timeout 0": (422, body(timeout_ms=0)),
    "timeout of a day": (422, body(timeout_ms=86_400_000)),
    "a filter of the wrong kind": (422, body(filter=["Horror"])),
    "include of the unknown": (422, body(include=["passwords"])),
    "a body of 5 MB": (413, b" " * 5_000_000),
}

MARKED: dict[str, tuple[list[str], bytes]] = {
    "ids that don't exist beside one that does": ([], body(history=["i5", "nope"])),
    "only ids that don't exist": (["cold_user"], body(history=["nope"])),
    "a user nobody knows": (["cold_user"], body(user_id="stranger")),
    "a filter that nothing passes": ([], body(filter={"categories": ["Opera"]})),
    "an id in another script": (["cold_user"], body(user_id="ユーザー")),
}


@pytest.mark.parametrize(("status", "content"), REFUSED.values(), ids=REFUSED.keys())
async def test_bad_input_is_refused_with_a_problem(status: int, content: bytes) -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=content, headers=JSON)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail", "instance", "request_id"} <= problem.keys()
    assert len(response.content) < 10_000


@pytest.mark.parametrize(("degradation", "content"), MARKED.values(), ids=MARKED.keys())
async def test_odd_input_that_has_an_answer_gets_it(degradation: list[str], content: bytes) -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=content, headers=JSON)
    assert response.status_code == 200
    assert response.json()["degradation"] == degradation


async def test_deep_nesting_is_refused() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=DEEP, headers=JSON)
    assert response.status_code in (400, 422)
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_fault_is_located_and_its_value_is_not_repeated() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=body(history=["i1", "secret\x01"]), headers=JSON)
    assert response.json()["errors"][0]["pointer"] == "#/history/1"
    assert "secret" not in response.text


async def test_another_content_type_is_refused() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=body(), headers={"Content-Type": "text/plain"})
    assert response.status_code == 422


@pytest.mark.parametrize("asked", ["0", "-1", "nan", "soon", "1e3", "999999999999"])
async def test_a_senseless_timeout_header_is_refused(asked: str) -> None:
    async with client(embedded_app()) as http:
        headers = JSON | {"X-Request-Timeout-Ms": asked}
        response = await http.post("/recommend", content=body(), headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"][0]["in"] == "header"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/recommend", 405),
        ("DELETE", "/v1/recommend", 405),
        ("GET", "/items/nope", 404),
        ("GET", "/items/", 422),
        ("GET", "/items/%00", 422),
        ("GET", "/items/" + "x" * 5000, 422),
        ("GET", "/users/stranger/history", 404),
    ],
)
async def test_a_path_that_leads_nowhere_is_a_problem_too(method: str, path: str, status: int) -> None:
    async with client(embedded_app()) as http:
        response = await http.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_ranker_that_is_not_loaded_is_answered_with_those_that_are() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", json={"user_id": "u1", "ranker": "collm"})
    assert "llamarec" in response.json()["detail"]
