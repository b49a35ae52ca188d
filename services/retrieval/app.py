"""The retrieval service's routes: port 8001."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Path, Query
from prometheus_client import CollectorRegistry

from services.http.application import application
from services.http.budget import Inherited
from services.http.caller import needs
from services.http.routes import Router
from services.http.signature import by_signature
from services.retrieval.metrics import Times
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from shared.wire import (
    Id,
    ItemAnswer,
    ModelList,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)

MAX_POPULAR = 10_000


def create(settings: RetrievalSettings, service: RetrievalService) -> FastAPI:
    registry = CollectorRegistry()
    service.took = Times(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    return application(
        "Tandem retrieval",
        [routes(service)],
        lambda: None,
        settings,
        registry,
        lifespan,
        known=by_signature(settings.internal_secrets()),
    )


def routes(service: RetrievalService) -> Router:
    router = Router(dependencies=[needs("internal")])

    @router.post("/retrieve", response_model_exclude_none=True, summary="Candidates for one history")
    async def retrieve(request: RetrieveRequest, deadline: Inherited) -> RetrieveAnswer:
        return await service.retrieve(request, deadline)

    @router.post("/score", response_model_exclude_none=True, summary="The given items for one history")
    async def score(request: ScoreRequest, deadline: Inherited) -> RetrieveAnswer:
        return await service.score(request, deadline)

    @router.post("/resolve", summary="Which items the texts name, by id or title")
    async def resolve(request: ResolveRequest, deadline: Inherited) -> ResolveAnswer:
        return await service.resolve(request, deadline)

    @router.get("/popular", response_model_exclude_none=True, summary="For nobody in particular")
    async def popular(deadline: Inherited, k: Annotated[int, Query(ge=1, le=MAX_POPULAR)] = 20) -> RetrieveAnswer:
        return await service.popular(k, deadline)

    @router.get("/items/{item_id:path}", summary="One item of the catalogue")
    async def item(item_id: Annotated[Id, Path()], deadline: Inherited) -> ItemAnswer:
        return await service.item(item_id, deadline)

    @router.get("/models", response_model_exclude_none=True, summary="What is loaded")
    async def models(deadline: Inherited) -> ModelList:
        return await service.models(deadline)

    return router
