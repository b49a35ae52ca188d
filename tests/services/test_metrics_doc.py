"""docs/metrics.md is what the running services expose, and the events that come back move the counts."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from services.gateway.settings import GatewaySettings
from services.loading import batcher
from services.ranking import app as ranking
from services.ranking.settings import RankingSettings
from services.retrieval import app as retrieval
from services.retrieval.settings import RetrievalSettings
from shared.wire.inner import RankRequest, RetrieveRequest
from tests import fakes
from tests.services.asgi import client, embedded_app

pytestmark = pytest.mark.anyio
PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROW = re.compile(r"^\| `((?:tandem|process)_\w+)` \| (\w+) \| ([\w, ]*) ?\| (\w+) \|", re.MULTILINE)
TIMES = {"le"}


class Metric(NamedTuple):
    type: str
    labels: frozenset[str]


def documented(*services: str) -> dict[str, Metric]:
    return {
        name: Metric(type_, frozenset(filter(None, map(str.strip, labels.split(",")))))
        for name, type_, labels, service in ROW.findall(PAGE)
        if service in services
    }


def exposed(text: str) -> dict[str, Metric]:
    """Counters under the names that their samples have."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        if not name.endswith("_created"):
            labels = frozenset().union(*(sample.labels for sample in family.samples)) - TIMES
            found[name] = Metric(family.type, labels)
    return found


@asynccontextmanager
async def scraped(app: FastAPI) -> AsyncIterator[tuple[httpx.AsyncClient, dict[str, Metric]]]:
    """What /metrics shows once the body has made its requests."""
    found: dict[str, Metric] = {}
    async with client(app) as http:
        yield http, found
        found |= exposed((await http.get("/metrics")).text)


async def test_the_gateway_exposes_what_is_documented() -> None:
    async with scraped(embedded_app(GatewaySettings(log_level="error"))) as (http, found):
        await http.post("/recommend", json={"user_id": "u1"})
        answer = (await http.post("/recommend", json={"user_id": "nobody"})).json()
        event = {"event_id": "1", "user_id": "u1", "item_id": answer["items"][0]["item_id"]}
        await http.post("/events", json=event | {"recommendation_id": answer["recommendation_id"]})
        await http.post("/rank", json={"user_id": "u1", "candidates": ["i1"]})
        await http.get("/items/i1")
    # One process of fakes: its batcher has no metrics.
    assert found == documented("all", "gateway", "retrieval")


async def test_retrieval_exposes_what_is_documented() -> None:
    items = fakes.catalog()
    async with scraped(retrieval.create(RetrievalSettings(), fakes.retrieval_service(items))) as (http, found):
        await http.post("/retrieve", json=RetrieveRequest(history=["i1"]).model_dump(exclude_none=True))
        await http.get("/livez")
    assert found == documented("all", "retrieval")


async def test_ranking_exposes_what_is_documented() -> None:
    items, registry, settings = fakes.catalog(), CollectorRegistry(), RankingSettings()
    service = fakes.ranking_service(items, batcher=batcher(settings, registry))
    asked = RankRequest(history=["i1"], candidates=[{"item_id": "i2", "score": 1.0}], catalog=items.fingerprint())
    async with scraped(ranking.create(settings, service, registry)) as (http, found):
        assert (await http.post("/rank", json=asked.model_dump(exclude_none=True))).status_code == 200
        await http.get("/livez")
    assert found == documented("all", "ranking")


async def test_what_is_taken_of_an_answer_is_counted_once_under_what_ordered_it() -> None:
    async with client(embedded_app(GatewaySettings(log_level="error"))) as http:
        answer = (await http.post("/recommend", json={"user_id": "u1", "limit": 4})).json()
        taken = {
            "event_id": "e1",
            "user_id": "u1",
            "item_id": answer["items"][2]["item_id"],
            "recommendation_id": answer["recommendation_id"],
        }
        for event in (taken, taken, taken | {"event_id": "e2", "item_id": "not-in-it"}):
            await http.post("/events", json=event)
        lines = (await http.get("/metrics")).text.splitlines()
    labels = 'ranker="llamarec",rung="ranker"'
    assert f"tandem_recommended_items_total{{{labels}}} 4.0" in lines
    assert f"tandem_recommended_items_taken_total{{{labels}}} 1.0" in lines


async def test_the_rung_of_a_hit_is_the_cache() -> None:
    async with client(embedded_app(GatewaySettings(log_level="error"))) as http:
        for _ in range(3):
            await http.post("/recommend", json={"user_id": "u1"})
        lines = (await http.get("/metrics")).text.splitlines()
    assert 'tandem_recommendations_total{ranker="llamarec",rung="cache"} 2.0' in lines
    assert 'tandem_recommendation_seconds_count{rung="cache"} 2.0' in lines
    assert 'tandem_cache_total{outcome="hit"} 2.0' in lines
    assert 'tandem_label_mass_count{ranker="llamarec"} 1.0' in lines
