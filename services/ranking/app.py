"""The ranking service's routes: port 8002."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from services.http.application import application
from services.http.budget import Inherited
from services.http.caller import needs
from services.http.routes import Router
from services.http.signature import by_signature
from services.ranking.service import RankingService
from services.ranking.settings import RankingSettings
from shared.wire import ModelList, RankAnswer, RankRequest


def create(settings: RankingSettings, service: RankingService, registry: CollectorRegistry) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    return application(
        "Tandem ranking",
        [routes(service)],
        service.why_not_ready,
        settings,
        registry,
        lifespan,
        known=by_signature(settings.internal_secrets()),
    )


def routes(service: RankingService) -> Router:
    router = Router(dependencies=[needs("internal")])

    @router.post("/rank", response_model_exclude_none=True, summary="The same candidates re-scored, best first")
    async def rank(request: RankRequest, deadline: Inherited) -> RankAnswer:
        return await service.rank(request, deadline)

    @router.get("/models", response_model_exclude_none=True, summary="What is loaded")
    async def models(deadline: Inherited) -> ModelList:
        return await service.models(deadline)

    return router
