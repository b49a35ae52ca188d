"""docs/metrics.md has what a gateway with releases exposes beside the others, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from tests.services.asgi import client
from tests.services.gateway.rollout.world import World, ask, serve
from tests.services.test_metrics_doc import documented, exposed

pytestmark = pytest.mark.anyio


async def test_a_gateway_with_releases_exposes_what_is_documented() -> None:
    async with client(World().gateway()) as http:
        plain = exposed((await http.get("/metrics")).text)
        await serve(http, "r1", "canary", share=0.5)
        await serve(http, "r2", "shadow")
        for number in range(8):
            answer = await ask(http, f"user-{number}")
        await asyncio.sleep(0.1)
        taken = {"event_id": "1", "user_id": "user-7", "item_id": answer["items"][0]["item_id"]}
        await http.post("/events", json=taken | {"recommendation_id": answer["recommendation_id"]})
        found = exposed((await http.get("/metrics")).text)
    expected = documented("releases")
    assert {name: metric for name, metric in found.items() if name in expected} == expected
    assert set(found) - set(documented("all", "gateway")) == set(expected)
    assert set(plain) <= set(found)
