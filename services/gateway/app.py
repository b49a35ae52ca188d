"""The gateway's routes, over the use case; and the gateway as a process of its own, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Annotated

from fastapi import APIRouter, FastAPI, Header, Path
from prometheus_client import CollectorRegistry

from services.gateway.metrics import Answers
from services.gateway.popular import Popular
from services.gateway.ports import Histories, RankingPort, RetrievalPort
from services.gateway.recommend import Policy, Recommender
from services.gateway.remote import RemoteRanking, RemoteRetrieval, client
from services.gateway.settings import GatewaySettings
from services.http.application import application
from shared.errors import TandemError, UnknownUser
from shared.wire import (
    MAX_TIMEOUT_MS,
    HistoryAnswer,
    Id,
    ItemAnswer,
    ModelList,
    RecommendAnswer,
    RecommendRequest,
)

DESCRIPTION = "Two-stage recommendation: a sequential model retrieves, a language model ranks."
AskedMs = Annotated[
    int | None,
    Header(alias="X-Request-Timeout-Ms", ge=1, le=MAX_TIMEOUT_MS, description="A bound beside timeout_ms."),
]


def create(settings: GatewaySettings, histories: Histories) -> FastAPI:
    """The gateway as its own process: the other two services answer over HTTP."""
    to_retrieval = client(str(settings.retrieval_url))
    to_ranking = client(str(settings.ranking_url))
    resources = AsyncExitStack()
    resources.push_async_callback(to_retrieval.aclose)
    resources.push_async_callback(to_ranking.aclose)
    return compose(
        settings,
        histories,
        RemoteRetrieval(to_retrieval),
        RemoteRanking(to_ranking),
        resources,
        CollectorRegistry(),
    )


def compose(
    settings: GatewaySettings,
    histories: Histories,
    retrieval: RetrievalPort,
    ranking: RankingPort,
    resources: AsyncExitStack,
    registry: CollectorRegistry,
) -> FastAPI:
    """`resources` are closed when the application stops."""
    popular = Popular(retrieval)
    policy = Policy(
        default_timeout_ms=settings.default_timeout_ms,
        reserve_ms=settings.reserve_ms,
        default_ranker=settings.default_ranker,
        min_label_mass=settings.min_label_mass,
        max_entropy=settings.max_entropy,
    )
    observe = Answers(registry, settings.log_salt)
    recommender = Recommender(histories, retrieval, ranking, popular, policy, observe)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with resources:
            await popular.refresh()
            refreshing = asyncio.create_task(popular.keep_fresh(settings.popularity_refresh_s))
            yield
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing

    router = routes(recommender, histories, retrieval, ranking)
    return application("Tandem", [router], popular.why_not_ready, settings, registry, lifespan, description=DESCRIPTION)


def routes(recommender: Recommender, histories: Histories, retrieval: RetrievalPort, ranking: RankingPort) -> APIRouter:
    router = APIRouter()
    policy = recommender.policy

    @router.post("/recommend", response_model_exclude_none=True, summary="The next items for one user")
    async def recommend(request: RecommendRequest, asked_ms: AskedMs = None) -> RecommendAnswer:
        return await recommender.recommend(request, policy.deadline(request.timeout_ms, asked_ms))

    @router.get("/items/{item_id:path}", summary="One item of the catalogue")
    async def item(item_id: Annotated[Id, Path()]) -> ItemAnswer:
        return await retrieval.item(item_id, policy.deadline())

    @router.get("/users/{user_id:path}/history", summary="What is stored of one user, oldest first")
    async def history(user_id: Annotated[Id, Path()]) -> HistoryAnswer:
        found = await histories.get(user_id)
        if found is None:
            raise UnknownUser(f"user {user_id!r} has no stored history; send one with the request")
        return HistoryAnswer(user_id=user_id, item_ids=list(found))

    @router.get("/models", response_model_exclude_none=True, summary="What is loaded, as far as it answers")
    async def models() -> ModelList:
        return await _models(retrieval, ranking, policy)

    return router


async def _models(retrieval: RetrievalPort, ranking: RankingPort, policy: Policy) -> ModelList:
    """A service that is down is left out rather than failing the list."""
    deadline = policy.deadline()
    lists = await asyncio.gather(retrieval.models(deadline), ranking.models(deadline), return_exceptions=True)
    for found in lists:
        if isinstance(found, BaseException) and not isinstance(found, TandemError):
            raise found
    answered = [found for found in lists if isinstance(found, ModelList)]
    default = policy.default_ranker or next((found.default for found in reversed(answered) if found.default), None)
    return ModelList(models=[card for found in answered for card in found.models], default=default)
