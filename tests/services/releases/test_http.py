"""Both services on sockets, with real artifacts, asked as a gateway asks them: loaded under load, damaged, gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.gateway.remote import client
from services.gateway.rollout.hosts import Hosts, over_http
from services.process import KEEPALIVE_S
from services.ranking import app as ranking
from services.ranking.settings import RankingSettings
from services.releases import start
from services.releases.shelf import Catalogs
from services.retrieval import app as retrieval
from services.retrieval.settings import RetrievalSettings
from shared.deadline import Deadline
from shared.errors import BadArtifact, BadInput, ReleaseNotLoaded, UnknownRelease
from shared.registry import Registry
from shared.wire.inner import RankRequest, RetrieveRequest
from tests.e2e.processes import free_port

pytestmark = pytest.mark.anyio
SECRET = "s" * 32


def soon() -> Deadline:
    return Deadline.after_ms(60_000)


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    config = uvicorn.Config(app, port=free_port(), log_config=None, timeout_keep_alive=KEEPALIVE_S)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{config.port}"
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def stack(registry: Registry) -> AsyncIterator[Hosts]:
    """Calls are signed, paths of releases included."""
    first = RetrievalSettings(registry=registry.folder, internal_secret=SECRET)  # type: ignore[arg-type]
    second = RankingSettings(registry=registry.folder, internal_secret=SECRET)  # type: ignore[arg-type]
    metrics = CollectorRegistry()
    apps = (
        retrieval.create(first, start.retrieval(None, None, first, Catalogs())),
        ranking.create(second, start.ranking(None, (), second, Catalogs(), metrics, None, "cpu"), metrics),
    )
    async with AsyncExitStack() as open_:
        urls = [await open_.enter_async_context(listening(app)) for app in apps]
        clients = [await open_.enter_async_context(client(url, [SECRET.encode()])) for url in urls]
        yield over_http(*clients)


@pytest.fixture
async def hosts(registry: Registry) -> AsyncIterator[Hosts]:
    async with stack(registry) as both:
        yield both


async def answered(hosts: Hosts, release: str | None) -> tuple[str, str]:
    """The names of the retriever and the ranker that answered."""
    found = await hosts.retrieval.port(release).retrieve(RetrieveRequest(history=["i3", "i4"], k=10), soon())
    asked = RankRequest(history=["i3", "i4"], candidates=found.items, catalog=found.catalog)
    ranked = await hosts.ranking.port(release).rank(asked, soon())
    return found.model, ranked.model


def named(registry: Registry, release: str) -> tuple[str, str]:
    parts = registry.release(release)
    return parts.retriever.name, parts.rankers[0].name


async def test_releases_are_loaded_under_load_and_each_answers_for_itself(hosts: Hosts, registry: Registry) -> None:
    over = asyncio.Event()
    answers: list[tuple[str, str]] = []

    async def ask() -> None:
        while not over.is_set():
            answers.append(await answered(hosts, None))

    asking = [asyncio.create_task(ask()) for _ in range(4)]
    for release in ("two", "three"):
        for host in (hosts.retrieval, hosts.ranking):
            await host.load(release, soon())
        assert await answered(hosts, release) == named(registry, release)
    seen = len(answers)
    for host in (hosts.retrieval, hosts.ranking):
        await host.unload("two", soon())
    while len(answers) < seen + 20 and not any(task.done() for task in asking):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    over.set()
    await asyncio.gather(*asking)
    assert set(answers) == {named(registry, "one")}
    assert await answered(hosts, "three") == named(registry, "three")
    with pytest.raises(ReleaseNotLoaded):
        await answered(hosts, "two")
    for host in (hosts.retrieval, hosts.ranking):
        listed = await host.loaded(soon())
        assert ([card.release for card in listed.releases], listed.live) == (["one", "three"], "one")


async def test_what_must_not_be_served_is_refused_by_its_kind(hosts: Hosts, registry: Registry) -> None:
    before = await answered(hosts, None)
    weights = registry.place(registry.release("three").retriever) / "lrurec.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    adapter = registry.place(registry.release("two").rankers[0]) / "adapter.safetensors"
    adapter.unlink()
    with pytest.raises(BadArtifact, match=r"lrurec\.safetensors"):
        await hosts.retrieval.load("three", soon())
    with pytest.raises(BadArtifact, match=r"adapter\.safetensors"):
        await hosts.ranking.load("two", soon())
    for host in (hosts.retrieval, hosts.ranking):
        with pytest.raises(UnknownRelease):
            await host.load("nothing", soon())
        with pytest.raises(BadInput):
            await host.unload("one", soon())
        assert [card.release for card in (await host.loaded(soon())).releases] == ["one"]
    assert await answered(hosts, None) == before == named(registry, "one")
