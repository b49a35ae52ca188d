"""The short way gives what FastAPI's own way gives, whatever is sent; requests that are not plain go FastAPI's way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.gateway.settings import GatewaySettings
from tests.services.asgi import client, embedded_app

pytestmark = pytest.mark.anyio
PLAIN = {"content-type": "application/json"}
ROUNDABOUT = {"content-type": "application/json; profile=x"}
"""JSON to FastAPI, not plain to us."""
OWN = {"recommendation_id", "timing_ms", "request_id", "instance", "cache", "rung"}
"""What differs from one answer to the next."""

BODIES = {
    "a user": b'{"user_id":"u1"}',
    "a history": b'{"history":["i1","i2"],"limit":3,"include":["metadata"]}',
    "an unknown field": b'{"user_id":"u1","colour":"red"}',
    "nobody": b"{}",
    "no object": b"[1]",
    "a number for a list": b'{"history":7}',
    "half an object": b'{"user_id":',
    "a key twice": b'{"user_id":"u1","user_id":"u2"}',
    "no body": b"",
    "NaN": b'{"user_id":"u1","diversity":NaN}',
    "an unknown ranker": b'{"user_id":"u1","ranker":"llara"}',
    "not UTF-8": b'{"user_id":"\xff"}',
}


def settings() -> GatewaySettings:
    return GatewaySettings(log_level="error")


def told(response: httpx.Response) -> tuple[int, str, Any]:
    body = response.json()
    return response.status_code, response.headers["content-type"], {k: v for k, v in body.items() if k not in OWN}


@pytest.mark.parametrize("path", ["/recommend", "/v1/recommend"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_both_ways_answer_the_same(path: str, body: bytes) -> None:
    async with client(embedded_app(settings())) as http:
        direct = await http.post(path, content=body, headers=PLAIN)
        whole = await http.post(path, content=body, headers=ROUNDABOUT)
    assert told(direct) == told(whole)


@pytest.mark.parametrize("asked", ["0", "-1", "1.5", "60001", "soon", "9" * 5000])
async def test_a_senseless_bound_is_refused_as_fastapi_does(asked: str) -> None:
    async with client(embedded_app(settings())) as http:
        bound = {"x-request-timeout-ms": asked}
        direct = await http.post("/recommend", content=b'{"user_id":"u1"}', headers=PLAIN | bound)
        whole = await http.post("/recommend", content=b'{"user_id":"u1"}', headers=ROUNDABOUT | bound)
    assert direct.status_code == 422
    assert told(direct) == told(whole)


@pytest.mark.parametrize("headers", [PLAIN, ROUNDABOUT], ids=["plain", "not plain"])
async def test_the_shortest_bound_counts_either_way(headers: dict[str, str]) -> None:
    bounds = {"x-request-timeout-ms": "4000", "x-envoy-expected-rq-timeout-ms": "1"}
    async with client(embedded_app(settings())) as http:
        response = await http.post(
            "/recommend", content=b'{"user_id":"u1","allow_degraded":false}', headers=headers | bounds
        )
    assert response.status_code in (503, 504)


@pytest.mark.parametrize("headers", [PLAIN, ROUNDABOUT], ids=["plain", "not plain"])
async def test_envoy_may_wait_for_ages(headers: dict[str, str]) -> None:
    async with client(embedded_app(settings())) as http:
        bounds = {"x-envoy-expected-rq-timeout-ms": "9" * 400}
        response = await http.post("/recommend", content=b'{"user_id":"u1"}', headers=headers | bounds)
    assert response.status_code == 200


async def test_a_body_in_pieces_is_one_body() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for byte in b'{"user_id":"u1"}':
            yield bytes([byte])

    async with client(embedded_app(settings())) as http:
        response = await http.post("/recommend", content=pieces(), headers=PLAIN)
    assert response.status_code == 200


async def test_another_method_is_a_405_and_another_path_a_404() -> None:
    async with client(embedded_app(settings())) as http:
        assert (await http.get("/recommend")).status_code == 405
        assert (await http.post("/recommend/", json={"user_id": "u1"})).status_code in (307, 404)


async def test_the_count_names_the_route_either_way() -> None:
    async with client(embedded_app(settings())) as http:
        for headers in (PLAIN, ROUNDABOUT):
            await http.post("/recommend", content=b'{"user_id":"u1"}', headers=headers)
        text = (await http.get("/metrics")).text
    assert 'tandem_http_requests_total{method="POST",route="/recommend",status="200"} 2.0' in text


async def test_the_routes_are_still_documented() -> None:
    async with client(embedded_app(settings())) as http:
        document = json.loads((await http.get("/openapi.json")).text)
    operation = document["paths"]["/recommend"]["post"]
    assert {one["name"].lower() for one in operation["parameters"]} >= {"x-request-timeout-ms"}
    assert operation["requestBody"]["content"]["application/json"]["schema"]
