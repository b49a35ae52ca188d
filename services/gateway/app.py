"""The gateway put together, over ports; and as a process of its own, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware

from services.gateway.cache.breaker import Breaker
from services.gateway.cache.flight import Flights
from services.gateway.cache.settings import open_cache
from services.gateway.direct import Direct
from services.gateway.metrics import Answers
from services.gateway.people import People
from services.gateway.ports import Click, Histories, RankingPort, RetrievalPort
from services.gateway.records import Records
from services.gateway.remote import RemoteRanking, RemoteRetrieval, client
from services.gateway.rollout.hosts import Hosts, over_http
from services.gateway.rollout.releases import Releases
from services.gateway.rollout.routes import no_rollout_routes
from services.gateway.rollout.state import STARTED
from services.gateway.routes import routes
from services.gateway.routes_state import state_routes
from services.gateway.serving import Serving
from services.gateway.settings import GatewaySettings
from services.gateway.stack import Shared, Stack
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
        hosts=over_http(to_retrieval, to_ranking),
    )


def compose(
    settings: GatewaySettings,
    histories: Histories,
    retrieval: RetrievalPort,
    ranking: RankingPort,
    resources: AsyncExitStack,
    registry: CollectorRegistry,
    hedge: bool = False,
    hosts: Hosts | None = None,
) -> FastAPI:
    """`resources` are closed when the application stops. `hosts`: where other releases can be loaded than the one that
    `retrieval` and `ranking` started with. Raises BadInput for settings that cannot be."""
    policy = settings.policy()
    observe = Answers(registry, settings.log_salt)
    to_redis = Breaker("the store")
    state = open_state(settings, breaker=to_redis, took=observe.redis_took)
    cache = open_cache(state.connections, settings, count=observe.cached)
    flights = Flights(cache, settings.cache_bounds(), observe.cached)
    far = state.connections is not None
    people = People(histories, state, settings.data_tenant, far)
    records = Records(state, observe.record_lost, far)
    shared = Shared(settings, policy, people, cache, flights, records, observe, hedge)
    first = shared.stack(STARTED, retrieval, ranking)
    releases = Releases(settings, shared, first, hosts, state.connections, registry) if hosts else None
    serving = releases.serving if releases else Serving(first, policy)
    observe.watch("retrieval", lambda: serving.live.retrieval.breaker)
    observe.watch("ranking", lambda: serving.live.ranking.breaker)
    observe.watch("redis", lambda: to_redis)

    def clicked(clicks: Sequence[Click]) -> None:
        observe.clicked(clicks)
        if releases:
            releases.metrics.clicked(clicks)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with resources:
            if releases:
                await releases.rollout.start()
            stacks = releases.rollout.stacks if releases else lambda: (first,)
            await _refresh(serving, stacks())
            tasks = [asyncio.create_task(_keep_fresh(serving, stacks, settings.popularity_refresh_s))]
            tasks += [asyncio.create_task(work()) for work in (releases.work if releases else ())]
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if releases:
                await releases.aclose()
            await flights.aclose()
            await records.aclose()
            await cache.aclose()
            await state.aclose()

    redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
    rates = Rates(redis_url, settings.redis_timeout_ms / 1000)
    resources.push_async_callback(rates.aclose)
    routers = [
        routes(serving, policy),
        state_routes(state, cache, histories, serving, policy, settings.data_tenant, clicked),
        releases.routes() if releases else no_rollout_routes(),
    ]
    app = application(
        "Tandem",
        routers,
        lambda: serving.live.popular.why_not_ready(),
        settings,
        registry,
        lifespan,
        description=DESCRIPTION,
        known=by_keys(settings.api_keys_file),
        rates=rates,
    )
    app.user_middleware.append(Middleware(Direct, routes=app.router.routes, handlers=app.exception_handlers))
    return app


async def _refresh(serving: Serving, stacks: Iterable[Stack]) -> None:
    await asyncio.gather(*(stack.refresh(keep=stack is serving.live) for stack in stacks))


async def _keep_fresh(serving: Serving, stacks: Callable[[], Iterable[Stack]], every_s: float) -> None:
    """Until cancelled."""
    while True:
        fresh = serving.live.ready
        await asyncio.sleep(every_s if fresh else min(RETRY_S, every_s))
        await _refresh(serving, stacks())
