"""Bad input has a documented status and is a problem; a marked 200 where there is an answer. Never a 500.

First every route that takes a body, then POST /recommend field by field, then paths and headers."""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.http.docs import document
from tests.services.asgi import Operation, client, embedded_app, operations

pytestmark = pytest.mark.anyio

WITH_BODY = [one for one in operations(embedded_app()) if one.example]
OPENAPI = document(embedded_app())

JSON = {"Content-Type": "application/json"}


def body(**request: Any) -> bytes:
    return json.dumps({"user_id": "u1"} | request).encode()


EVERYWHERE: dict[str, tuple[int, bytes]] = {
    "nothing": (422, b""),
    "null": (422, b"null"),
    "a number": (422, b"1"),
    "a list": (422, b"[]"),
    "an empty object": (422, b"{}"),
    "malformed JSON": (400, b'{"user_id":"u1"'),
    "JSON and more": (400, b"{}{}"),
    "not UTF-8": (400, b'{"user_id":"\xff\xfe"}'),
    "UTF-16": (400, '{"user_id":"u1"}'.encode("utf-16")),
    "a byte order mark": (400, b"\xef\xbb\xbf{}"),
    "a NUL byte": (400, b'{"user_id":"\x00"}'),
    "a key with a NUL": (422, b'{"\\u0000":1}'),
    "a key with half a surrogate pair": (422, b'{"\\ud800":1}'),
    "a duplicate key": (400, b'{"a":1,"a":1}'),
    "a duplicate key within": (400, b'{"a":[{"b":1,"b":2}]}'),
    "NaN": (400, b'{"a":NaN}'),
    "Infinity": (400, b'{"a":-Infinity}'),
    "an integer of 5,000 digits": (400, b'{"a":' + b"1" * 5000 + b"}"),
    "a depth of 65": (400, b"[" * 65 + b"]" * 65),
    "a depth of 10,000": (400, b"[" * 10_000 + b"]" * 10_000),
    "a depth of 10,000 objects": (400, b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "a depth of 10,000, cut off": (400, b"[" * 10_000),
    "an id of a million characters": (422, b'{"user_id":"' + b"x" * 1_000_000 + b'"}'),
    "a key of a million characters": (422, b'{"' + b"x" * 1_000_000 + b'":1}'),
    "50,000 keys": (422, json.dumps({f"k{n}": n for n in range(50_000)}).encode()),
    "a body of 10 MB": (413, b" " * 10_000_000),
}


def is_problem(response: httpx.Response, status: int) -> bool:
    problem = response.json()
    return (
        response.status_code == problem["status"] == status
        and response.headers["content-type"] == "application/problem+json"
        and {"type", "title", "detail", "instance", "request_id"} <= problem.keys()
        and len(response.content) < 10_000
    )


def documented(one: Operation, status: int) -> bool:
    return str(status) in OPENAPI["paths"][one.path][one.method.lower()]["responses"]


@pytest.mark.parametrize(("status", "content"), EVERYWHERE.values(), ids=EVERYWHERE.keys())
async def test_every_route_refuses_it_with_the_same_status(status: int, content: bytes) -> None:
    async with client(embedded_app()) as http:
        for one in WITH_BODY:
            if content == b"{}" and one.method == "PUT":
                continue  # an item's state may all be left to its defaults
            response = await http.request(one.method, one.url, content=content, headers=JSON)
            assert is_problem(response, status), f"{one}: {response.status_code} {response.text[:500]}"
            assert documented(one, status)


HEADERS: dict[str, tuple[int, list[tuple[bytes, bytes]]]] = {
    "plain text": (422, [(b"content-type", b"text/plain")]),
    "a form": (422, [(b"content-type", b"application/x-www-form-urlencoded")]),
    "a form in parts": (422, [(b"content-type", b"multipart/form-data; boundary=x")]),
    "no type": (422, []),
    "a senseless type": (422, [(b"content-type", b"\xff/\x00;;;=")]),
    "a type of a million characters": (422, [(b"content-type", b"x" * 1_000_000)]),
    "a length that is none": (413, [(b"content-type", b"application/json"), (b"content-length", b"many")]),
    "a negative length": (413, [(b"content-type", b"application/json"), (b"content-length", b"-1")]),
    "a length of 10 MB": (413, [(b"content-type", b"application/json"), (b"content-length", b"10000000")]),
}
ODD_HEADERS = [
    (b"authorization", b"Bearer \xff\x00"),
    (b"authorization", b"Bearer " + b"x" * 100_000),
    (b"x-api-key", b"td_"),
    (b"x-request-id", b'"}\r\nSet-Cookie: a=b'),
    (b"x-request-id", b"x" * 100_000),
    (b"x-tandem-deadline-ms", b"-1"),
    (b"x-tandem-signature", b"..."),
    (b"accept", b"text/html"),
    (b"accept-encoding", b"*;q=nan"),
    (b"host", b"\xff"),
    (b"cookie", b"=;=;=" * 10_000),
    (b"transfer-encoding", b"gzip, chunked"),
    (b"expect", b"200-maybe"),
    (b"range", b"bytes=9-1"),
    (b"x-forwarded-for", b"'; DROP TABLE users; --"),
]
TIMEOUTS = [b"0", b"-1", b"nan", b"inf", b"soon", b"1e3", b"999999999999", b"1" * 5_000, b"\xb2", b"", b"1,2"]


def usual(one: Operation) -> int:
    """The answer to its example. Without a registry there is nothing to roll out."""
    return 422 if "/admin/" in one.path else 200


def with_example(one: Operation, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {"method": one.method, "url": one.url, "content": json.dumps(one.example).encode(), "headers": headers}


@pytest.mark.parametrize(("status", "headers"), HEADERS.values(), ids=HEADERS.keys())
async def test_every_route_refuses_a_body_that_is_announced_as_something_else(
    status: int, headers: list[tuple[bytes, bytes]]
) -> None:
    async with client(embedded_app()) as http:
        for one in WITH_BODY:
            response = await http.request(**with_example(one, headers))
            assert is_problem(response, status), f"{one}: {response.status_code} {response.text[:500]}"


@pytest.mark.parametrize("header", ODD_HEADERS, ids=[f"{name.decode()}-{n}" for n, (name, _) in enumerate(ODD_HEADERS)])
async def test_an_odd_header_does_no_harm(header: tuple[bytes, bytes]) -> None:
    async with client(embedded_app()) as http:
        for one in WITH_BODY:
            response = await http.request(**with_example(one, [(b"content-type", b"application/json"), header]))
            assert response.status_code == usual(one), f"{one}: {response.text[:500]}"
            assert len(response.headers["x-request-id"]) == 32
            assert "set-cookie" not in response.headers


@pytest.mark.parametrize("value", TIMEOUTS)
async def test_a_senseless_budget_is_refused_where_a_budget_counts(value: bytes) -> None:
    async with client(embedded_app()) as http:
        for one in WITH_BODY:
            headers = [(b"content-type", b"application/json"), (b"x-request-timeout-ms", value)]
            response = await http.request(**with_example(one, headers))
            named = OPENAPI["paths"][one.path][one.method.lower()].get("parameters", [])
            counts = any(parameter["name"] == "X-Request-Timeout-Ms" for parameter in named)
            assert response.status_code == (422 if counts else usual(one)), f"{one}: {response.text[:500]}"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every scalar in it."""
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, inner in inside for leaf in leaves(inner, (*path, key))]
    return [path]


def replaced(value: Any, path: tuple[Any, ...], by: Any) -> Any:
    copied = copy.deepcopy(value)
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = by
    return copied


ODD_VALUES = [
    None,
    True,
    -1,
    0,
    1 << 63,
    1 << 200,
    1.5,
    1e308,
    "",
    " ",
    "\x00",
    "\n",
    "\x7f",
    "\ud800",
    "\ud83d\ude00",
    "x" * 1_000,
    "x" * 900_000,
    "\u202e\u0000",
    "../../etc/passwd",
    "{user_id}",
    "' OR 1=1",
    "*",
    [],
    {},
    [[]],
    {"a": 1},
]


@pytest.mark.parametrize("one", WITH_BODY, ids=str)
async def test_every_field_of_every_route_bears_every_odd_value(one: Operation) -> None:
    async with client(embedded_app()) as http:
        for path in leaves(one.example):
            for value in ODD_VALUES:
                content = json.dumps(replaced(one.example, path, value)).encode()
                response = await http.request(one.method, one.url, content=content, headers=JSON)
                assert response.status_code in (200, 404, 413, 422), f"{path} = {value!r:.60}: {response.text[:300]}"
                assert documented(one, response.status_code)


BATCHES_OF_FAULTS = {
    "/recommend/batch": {"requests": [{"history": [1] * 1000, "exclude_item_ids": [1] * 1000}] * 32},
    "/events": {"events": [{f"k{n}": n for n in range(100)}] * 500},
    "/rerank": {"query": "i1", "documents": [1] * 1000},
}


@pytest.mark.parametrize("path", BATCHES_OF_FAULTS)
async def test_a_body_made_of_faults_is_answered_with_a_few(path: str) -> None:
    async with client(embedded_app()) as http:
        response = await http.post(path, json=BATCHES_OF_FAULTS[path])
    assert is_problem(response, 422)
    assert int(response.json()["detail"].split()[0]) <= 2000


ODD_PARTS = ["%00", "%ff", "%ED%A0%80", "..", "%2e%2e%2f", "a/b/c", "%0d%0a", "x" * 60_000, "%", "?", "%E2%80%AE"]


@pytest.mark.parametrize("one", [one for one in operations(embedded_app()) if "{" in one.path], ids=str)
async def test_a_path_of_odd_characters_is_a_problem_or_an_answer(one: Operation) -> None:
    async with client(embedded_app()) as http:
        for odd in ODD_PARTS:
            response = await http.request(one.method, one.path.format(user_id=odd, item_id=odd), json=one.example)
            assert response.status_code in (200, 404, 405, 422), f"{odd:.100}: {response.text[:300]}"


@pytest.mark.parametrize("one", [one for one in operations(embedded_app()) if "{" in one.path], ids=str)
async def test_a_path_of_a_million_characters_is_refused(one: Operation) -> None:
    app = embedded_app()
    async with client(app):
        path = one.path.format(user_id="x" * 1_000_000, item_id="x" * 1_000_000)
        assert await answered(app, one.method, path, json.dumps(one.example).encode()) == 422


async def answered(app: FastAPI, method: str, path: str, body: bytes) -> int:
    """The status, past the limits of an HTTP client."""
    statuses: list[int] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    messages = [{"type": "http.request", "body": body}]

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    await app(scope, receive, send)
    return statuses[0]


async def test_the_wrong_method_is_answered_with_the_right_ones() -> None:
    every = operations(embedded_app())
    async with client(embedded_app()) as http:
        for one in every:
            # An id may hold slashes: /users/u1/history is also the path of a user.
            right = {other.method for other in every if re.fullmatch(re.sub("{.*?}", ".+", other.path), one.url)}
            for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"} - right:
                response = await http.request(method, one.url)
                assert response.status_code == 405, f"{method} {one.url}"
                assert set(response.headers["allow"].split(", ")) == right
                assert method == "HEAD" or is_problem(response, 405)


async def test_every_answer_has_the_headers_that_keep_it_where_it_belongs() -> None:
    async with client(embedded_app()) as http:
        for one in operations(embedded_app()):
            for response in (
                await http.request(one.method, one.url, json=one.example),
                await http.request(one.method, one.url, content=b"{", headers=JSON),
            ):
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["cache-control"] == "no-store"
                assert "default-src 'none'" in response.headers["content-security-policy"]
                assert "server" not in response.headers
                assert len(response.headers.get_list("content-security-policy")) == 1


REFUSED: dict[str, tuple[int, bytes]] = {
    "nobody": (422, b"{}"),
    "an unknown field": (422, body(limt=3)),
    "an unknown field of 100,000 characters": (422, body(**{"x" * 100_000: 1})),
    "limit 0": (422, body(limit=0)),
    "limit 1001": (422, body(limit=1001)),
    "limit NaN": (400, b'{"user_id":"u1","limit":NaN}'),
    "limit infinite": (422, b'{"user_id":"u1","limit":1e999}'),
    "limit a string": (422, body(limit="many")),
    "limit a digit in quotes": (422, body(limit="3")),
    "limit true": (422, body(limit=True)),
    "allow_degraded a word": (422, body(allow_degraded="yes")),
    "diversity a number in quotes": (422, body(diversity="0.5")),
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


async def test_a_fault_is_located_and_its_value_is_not_repeated() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=body(history=["i1", "secret\x01"]), headers=JSON)
    assert response.json()["errors"][0]["pointer"] == "#/history/1"
    assert "secret" not in response.text


async def test_a_choice_is_one_fault() -> None:
    async with client(embedded_app()) as http:
        response = await http.post("/recommend", content=body(ranker="gpt"), headers=JSON)
    assert [fault["pointer"] for fault in response.json()["errors"]] == ["#/ranker"]


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
