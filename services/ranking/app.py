"""The ranking service's routes: port 8002."""

# No `from __future__ import annotations`: FastAPI could not find what a function names its own.

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from services.http.application import application
from services.http.budget import Inherited
from services.http.caller import needs
from services.http.routes import Router
from services.http.signature import by_signature
from services.ranking.releases import RankingReleases
from services.ranking.service import RankingService
from services.ranking.settings import RankingSettings
from services.ranking.watch import watched
from services.releases import routes as release_routes
from services.releases.routes import BOUND, Release
from shared.wire.inner import ModelList, RankAnswer, RankRequest

Of = Callable[..., Awaitable[RankingService]]


def create(settings: RankingSettings, serves: RankingService | RankingReleases, registry: CollectorRegistry) -> FastAPI:
    """A service alone is the only release."""
    releases = serves if isinstance(serves, RankingReleases) else RankingReleases(serves)

    async def live() -> RankingService:
        return releases.live

    async def bound(release: Release) -> RankingService:
        return releases.of(release)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with watched(releases.live.why_dead):
            yield
        releases.close()

    return application(
        "Tandem ranking",
        [routes(live), routes(bound, BOUND), release_routes.routes(releases)],
        releases.live.why_not_ready,
        settings,
        registry,
        lifespan,
        known=by_signature(settings.internal_secrets()),
    )


def routes(of: Of, prefix: str = "") -> Router:
    """`of` is a FastAPI dependency: which service answers."""
    router = Router(dependencies=[needs("internal")], prefix=prefix)
    Service = Annotated[RankingService, Depends(of)]

    @router.post("/rank", response_model_exclude_none=True, summary="The same candidates re-scored, best first")
    async def rank(request: RankRequest, deadline: Inherited, service: Service) -> RankAnswer:
        return await service.rank(request, deadline)

    @router.get("/models", response_model_exclude_none=True, summary="What is loaded")
    async def models(deadline: Inherited, service: Service) -> ModelList:
        return await service.models(deadline)

    return router
