"""`serve all --registry`: a gateway over the two hosts in one process, with real artifacts, from release to release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services import embedded
from services.gateway.settings import GatewaySettings
from services.gateway.stores import MemoryHistories
from services.ranking.settings import RankingSettings
from services.releases import start
from services.releases.shelf import Catalogs
from services.retrieval.settings import RetrievalSettings
from shared.registry import Registry
from tests.services.asgi import client

pytestmark = pytest.mark.anyio


def serve_all(registry: Registry) -> FastAPI:
    settings, catalogs, metrics = RankingSettings(registry=registry.folder), Catalogs(), CollectorRegistry()
    prepared = catalogs.prepared(start.current(settings)[1])
    retrieval = start.retrieval(None, None, RetrievalSettings(registry=registry.folder), catalogs)
    ranking = start.ranking(None, (), settings, catalogs, metrics, None, "cpu")
    gateway = GatewaySettings(default_timeout_ms=20_000, min_label_mass=0, log_level="error")
    return embedded.create(gateway, MemoryHistories(prepared), retrieval, ranking, metrics)


@pytest.fixture
async def http(registry: Registry) -> AsyncIterator[httpx.AsyncClient]:
    async with client(serve_all(registry)) as one:
        yield one


async def recommended(http: httpx.AsyncClient, *history: str) -> tuple[str | None, str | None, bool]:
    """The retriever and the ranker that the answer names, and whether it is degraded."""
    answer = await http.post("/recommend", json={"history": history, "limit": 5})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    return told["model"].get("retriever"), told["model"].get("ranker"), told["degraded"]


def of(registry: Registry, release: str) -> tuple[str, str, bool]:
    parts = registry.release(release)
    return parts.retriever.name, parts.rankers[0].name, False


async def live(http: httpx.AsyncClient, release: str) -> httpx.Response:
    return await http.post("/admin/models", json={"release": release, "as": "live"})


async def test_releases_are_changed_under_load_and_no_answer_mixes_them(
    http: httpx.AsyncClient, registry: Registry
) -> None:
    over = False
    answers = []

    async def ask(first: int) -> None:
        turn = first
        while not over:
            answers.append(await recommended(http, f"i{turn % 40}", f"i{turn // 40 % 40}"))
            turn += 4
            await asyncio.sleep(0)  # a hit waits for nothing: without this nobody else has a turn

    asking = [asyncio.create_task(ask(first)) for first in range(4)]
    try:
        for release in ("two", "three"):
            answer = await live(http, release)
            assert answer.status_code == 200, answer.text
            assert await recommended(http, "i7", "i8", "i9") == of(registry, release)
        assert (await http.post("/admin/models/rollback")).status_code == 200
        assert await recommended(http, "i7", "i8", "i9") == of(registry, "two")
    finally:
        over = True
        await asyncio.gather(*asking)
    assert set(answers) <= {of(registry, release) for release in ("one", "two", "three")}
    assert len(answers) > 20


async def test_what_is_damaged_is_refused_and_the_live_one_serves_on(
    http: httpx.AsyncClient, registry: Registry
) -> None:
    adapter = registry.place(registry.release("two").rankers[0]) / "adapter.safetensors"
    adapter.write_bytes(adapter.read_bytes()[:-1] + b"x")
    (registry.place(registry.release("three").retriever) / "index.faiss").unlink()
    for release, status in (("two", 409), ("three", 409), ("nothing", 404)):
        assert (await live(http, release)).status_code == status
        assert await recommended(http, "i1", "i2", release[:1]) == of(registry, "one")
