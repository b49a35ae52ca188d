"""The gateway put together, over ports; and as a process of its own, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from services.gateway.cache.breaker import Breaker
from services.gateway.cache.flight import Flights
from services.gateway.cache.settings import open_cache
from services.gateway.direct import Direct
from services.gateway.ladder import Ladder
from services.gateway.loaded import Loaded
from services.gateway.metrics import Answers
from services.gateway.people import People
from services.gateway.popular import Popular
from services.gateway.ports import Histories, RankingPort, RetrievalPort
from services.gateway.recommend import Recommender
from services.gateway.records import Records
from services.gateway.remote import RemoteRanking, RemoteRetrieval, client
from services.gateway.rerank import Reranker
from services.gateway.resilience import ResilientRanking, ResilientRetrieval
from services.gateway.routes import routes
from services.gateway.routes_state import state_routes
from services.gateway.settings import GatewaySettings
from services.gateway.state.settings import open_state
from services.http.application import application
from services.http.door import by_keys
from services.http.rates import Rates

DESCRIPTION = "Two-stage recommendation: a sequential model retrieves, a language model ranks."
RETRY_S = 1.0
"""How soon what could not be fetched is tried again."""


def create(settings: GatewaySettings, histories: Histories) -> FastAPI:
    """The gateway as its own process: the other two services answer over HTTP."""
    secrets = settings.internal_secrets()
    to_retrieval = client(str(settings.retrieval_url), secrets)
    to_ranking = client(str(settings.ranking_url), secrets)
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
        hedge=settings.hedge_retrieval,
    )


def compose(
    settings: GatewaySettings,
    histories: Histories,
    retrieval: RetrievalPort,
    ranking: RankingPort,
    resources: AsyncExitStack,
    registry: CollectorRegistry,
    hedge: bool = False,
) -> FastAPI:
    """`resources` are closed when the application stops. Raises BadInput for settings that cannot be."""
    retrieval = ResilientRetrieval(retrieval, settings.breaker_failures, settings.breaker_open_s, hedge)
    ranking = ResilientRanking(ranking, settings.breaker_failures, settings.breaker_open_s)
    policy = settings.policy()
    observe = Answers(registry, settings.log_salt)
    to_redis = Breaker("the store")
    state = open_state(settings, breaker=to_redis, took=observe.redis_took)
    cache = open_cache(state.connections, settings, count=observe.cached)
    for hop, breaker in (("retrieval", retrieval.breaker), ("ranking", ranking.breaker), ("redis", to_redis)):
        observe.watch(hop, breaker)
    flights = Flights(cache, settings.cache_bounds(), observe.cached)
    popular = Popular(retrieval, settings.popularity_file)
    loaded = Loaded(retrieval, ranking, settings.default_ranker)
    far = state.connections is not None
    people = People(histories, state, settings.data_tenant, far)
    ladder = Ladder(retrieval, ranking, popular, loaded, cache, flights, policy)
    records = Records(state, observe.record_lost, far)
    recommender = Recommender(people, ladder, retrieval, popular, loaded, records, policy, observe)
    reranker = Reranker(people, ladder, retrieval, loaded, policy)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with resources:
            await asyncio.gather(popular.refresh(), loaded.refresh())
            refreshing = asyncio.create_task(_keep_fresh(popular, loaded, settings.popularity_refresh_s))
            yield
            refreshing.cancel()
            with suppress(asyncio.CancelledError):
                await refreshing
            await flights.aclose()
            await records.aclose()
            await cache.aclose()
            await state.aclose()

    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    rates = Rates(redis_url, settings.redis_timeout_ms / 1000)
    resources.push_async_callback(rates.aclose)
    routers = [
        routes(recommender, reranker, retrieval, ranking, policy),
        state_routes(state, cache, histories, retrieval, policy, settings.data_tenant, observe.clicked),
    ]
    app = application(
        "Tandem",
        routers,
        popular.why_not_ready,
        settings,
        registry,
        lifespan,
        description=DESCRIPTION,
        known=by_keys(settings.api_keys_file),
        rates=rates,
    )
    app.user_middleware.append(Middleware(Direct, routes=app.router.routes, handlers=app.exception_handlers))
    return app


async def _keep_fresh(popular: Popular, loaded: Loaded, every_s: float) -> None:
    """Until cancelled."""
    while True:
        fresh = popular.latest is not None and loaded.complete
        await asyncio.sleep(every_s if fresh else min(RETRY_S, every_s))
        await asyncio.gather(popular.refresh(), loaded.refresh())
