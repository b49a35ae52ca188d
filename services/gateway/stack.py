"""One release as this gateway serves it: the parts that belong together and are never mixed with another's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from services.gateway.cache.flight import Flights
from services.gateway.ladder import Ladder
from services.gateway.loaded import Loaded
from services.gateway.people import People
from services.gateway.policy import Policy
from services.gateway.popular import Popular
from services.gateway.ports import CacheStore, RankingPort, RetrievalPort
from services.gateway.ranked import Decoded
from services.gateway.recommend import Observer, Recommender
from services.gateway.records import Records
from services.gateway.rerank import Reranker
from services.gateway.resilience import ResilientRanking, ResilientRetrieval
from services.gateway.rollout.health import Health
from services.gateway.settings import GatewaySettings


@dataclass(frozen=True, slots=True)
class Stack:
    """Breakers, latencies and health are its own, so that what is wrong with it is wrong with it alone."""

    release: str
    retrieval: ResilientRetrieval
    ranking: ResilientRanking
    popular: Popular
    loaded: Loaded
    ladder: Ladder
    recommender: Recommender
    reranker: Reranker
    health: Health = field(default_factory=Health)

    @property
    def ready(self) -> bool:
        """Both services have answered for it at least once."""
        return self.popular.latest is not None and self.loaded.complete

    async def refresh(self, keep: bool) -> None:
        await asyncio.gather(self.popular.refresh(keep), self.loaded.refresh())

    def models(self) -> list[str]:
        cards = [self.loaded.retriever] if self.loaded.retriever else []
        return [card.name for card in (*cards, *self.loaded.rankers.values())]


@dataclass(frozen=True, slots=True)
class Shared:
    """What all releases have in common."""

    settings: GatewaySettings
    policy: Policy
    people: People
    cache: CacheStore
    flights: Flights
    records: Records
    observe: Observer
    hedge: bool
    decoded: Decoded = field(default_factory=Decoded)

    def stack(self, release: str, to_retrieval: RetrievalPort, to_ranking: RankingPort) -> Stack:
        settings, policy = self.settings, self.policy
        failures, open_s = settings.breaker_failures, settings.breaker_open_s
        retrieval = ResilientRetrieval(to_retrieval, failures, open_s, self.hedge)
        ranking = ResilientRanking(to_ranking, failures, open_s)
        popular = Popular(retrieval, settings.popularity_file)
        loaded = Loaded(retrieval, ranking, settings.default_ranker)
        ladder = Ladder(retrieval, ranking, popular, loaded, self.cache, self.flights, policy, release, self.decoded)
        recommender = Recommender(self.people, ladder, retrieval, popular, loaded, self.records, policy, self.observe)
        reranker = Reranker(self.people, ladder, retrieval, loaded, self.records, policy, self.observe)
        return Stack(release, retrieval, ranking, popular, loaded, ladder, recommender, reranker)


Build = Callable[[str], Stack]
"""Of a release, over ports that are bound to it."""
