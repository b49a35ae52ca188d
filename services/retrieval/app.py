"""The retrieval service's routes: port 8001."""

# No `from __future__ import annotations`: FastAPI could not find what a function names its own.

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Path, Query
from prometheus_client import CollectorRegistry

from services.http.application import application
from services.http.budget import Inherited
from services.http.caller import needs
from services.http.routes import Router
from services.http.signature import by_signature
from services.releases import routes as release_routes
from services.releases.routes import BOUND, Release
from services.retrieval.metrics import Times
from services.retrieval.releases import RetrievalReleases
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.wire.base import Id
from shared.wire.inner import ModelList, ResolveAnswer, ResolveRequest, RetrieveAnswer, RetrieveRequest, ScoreRequest
from shared.wire.users import ItemAnswer

MAX_POPULAR = 10_000


Of = Callable[..., Awaitable[RetrievalService]]


def create(settings: RetrievalSettings, serves: RetrievalService | RetrievalReleases) -> FastAPI:
    """A service alone is the only release."""
    releases = serves if isinstance(serves, RetrievalReleases) else RetrievalReleases(serves)
    registry = CollectorRegistry()
    releases.watch(Times(registry))

    async def live() -> RetrievalService:
        return releases.live

    async def bound(release: Release) -> RetrievalService:
        return releases.of(release)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        releases.close()

    return application(
        "Tandem retrieval",
        [routes(live), routes(bound, BOUND), release_routes.routes(releases)],
        lambda: None,
        settings,
        registry,
        lifespan,
        known=by_signature(settings.internal_secrets()),
    )


def routes(of: Of, prefix: str = "") -> Router:
    """`of` is a FastAPI dependency: which service answers."""
    router = Router(dependencies=[needs("internal")], prefix=prefix)
    Service = Annotated[RetrievalService, Depends(of)]

    @router.post("/retrieve", response_model_exclude_none=True, summary="Candidates for one history")
    async def retrieve(request: RetrieveRequest, deadline: Inherited, service: Service) -> RetrieveAnswer:
        return await service.retrieve(request, deadline)

    @router.post("/score", response_model_exclude_none=True, summary="The given items for one history")
    async def score(request: ScoreRequest, deadline: Inherited, service: Service) -> RetrieveAnswer:
        return await service.score(request, deadline)

    @router.post("/resolve", summary="Which items the texts name, by id or title")
    async def resolve(request: ResolveRequest, deadline: Inherited, service: Service) -> ResolveAnswer:
        return await service.resolve(request, deadline)

    @router.get("/popular", response_model_exclude_none=True, summary="For nobody in particular")
    async def popular(
        deadline: Inherited, service: Service, k: Annotated[int, Query(ge=1, le=MAX_POPULAR)] = 20
    ) -> RetrieveAnswer:
        return await service.popular(k, deadline)

    @router.get("/items/{item_id:path}", summary="One item of the catalogue")
    async def item(item_id: Annotated[Id, Path()], deadline: Inherited, service: Service) -> ItemAnswer:
        return await service.item(item_id, deadline)

    @router.get("/models", response_model_exclude_none=True, summary="What is loaded")
    async def models(deadline: Inherited, service: Service) -> ModelList:
        return await service.models(deadline)

    return router
