"""The use cases put together over any ports, as services/gateway/app.py does it, without HTTP."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.gateway.cache.flight import Flights
from services.gateway.cache.memory import MemoryCache
from services.gateway.ladder import Ladder
from services.gateway.loaded import Loaded
from services.gateway.people import People
from services.gateway.policy import Policy
from services.gateway.popular import Popular
from services.gateway.ports import CacheStore, Histories, RankingPort, RetrievalPort, State
from services.gateway.recommend import Answered, Recommender
from services.gateway.records import Records
from services.gateway.rerank import Reranker
from services.gateway.state.memory import MemoryState
from shared.deadline import Deadline
from shared.wire.recommend import RecommendAnswer, RecommendRequest
from tests import fakes


@dataclass
class Parts:
    """`started` fetches what a gateway fetches when it starts."""

    retrieval: RetrievalPort = field(default_factory=lambda: fakes.retrieval_service(fakes.catalog()))
    ranking: RankingPort = field(default_factory=fakes.AnsweringRanking)
    policy: Policy = field(default_factory=Policy)
    histories: Histories = field(default_factory=fakes.histories)
    state: State = field(default_factory=MemoryState)
    cache: CacheStore = field(default_factory=lambda: MemoryCache(1 << 24, 1 << 20))
    popularity_file: Path | None = None
    heard: list[Answered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.popular = Popular(self.retrieval, self.popularity_file)
        self.loaded = Loaded(self.retrieval, self.ranking, self.policy.default_ranker)
        self.flights = Flights(self.cache)
        people = People(self.histories, self.state)
        ladder = Ladder(self.retrieval, self.ranking, self.popular, self.loaded, self.cache, self.flights, self.policy)
        self.records = Records(self.state)
        self.recommender = Recommender(
            people, ladder, self.retrieval, self.popular, self.loaded, self.records, self.policy, self.heard.append
        )
        self.reranker = Reranker(
            people, ladder, self.retrieval, self.loaded, self.records, self.policy, self.heard.append
        )

    async def started(self) -> Parts:
        await asyncio.gather(self.popular.refresh(), self.loaded.refresh())
        return self


class Failing(fakes.AnsweringRetrieval):
    """Works until `error` is set."""

    error: Exception | None = None

    async def retrieve(self, *args: Any) -> Any:
        if self.error:
            raise self.error
        return await super().retrieve(*args)


async def ask(parts: Parts, timeout_ms: float = 2000, tenant: str = "default", **request: Any) -> RecommendAnswer:
    asked = RecommendRequest.model_validate({"user_id": "u1"} | request)
    return await parts.recommender.recommend(asked, Deadline.after_ms(timeout_ms), tenant)


def ids(found: RecommendAnswer) -> list[str]:
    return [item.item_id for item in found.items]
