"""The two services behind the gateway, as far as its own cost needs them: fixed answers, at once."""

from __future__ import annotations

from shared.deadline import Deadline
from shared.errors import UnknownItem
from shared.wire.inner import (
    ModelCard,
    ModelList,
    RankAnswer,
    RankedItem,
    RankRequest,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrievedItem,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.users import ItemAnswer

CATALOG = "0" * 64
RETRIEVER = ModelCard(name="lrurec@00000000", method="lrurec", catalog=CATALOG[:12])
RANKER = ModelCard(name="llamarec@00000000", method="llamarec", catalog=CATALOG[:12])


class Retrieval:
    """Ids from 100,000 on, so that no history has one."""

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        return self._answer(request.k)

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return self._answer(len(request.item_ids))

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return ResolveAnswer(item_ids=[None] * len(request.texts))

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        return self._answer(k)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        raise UnknownItem(item_id)

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[RETRIEVER])

    def _answer(self, k: int) -> RetrieveAnswer:
        return RetrieveAnswer(
            items=[RetrievedItem(item_id=str(100_000 + place), score=12.345678 - place / 7) for place in range(k)],
            source="retrieval",
            missing_ids=[],
            model=RETRIEVER.name,
            catalog=CATALOG,
            elapsed_ms=1.0,
        )


class Ranking:
    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        return RankAnswer(
            items=[
                RankedItem(item_id=item.item_id, score=0.2345678 - place / 101)
                for place, item in enumerate(reversed(request.candidates))
            ],
            model=RANKER.name,
            ranker="llamarec",
            label_mass=0.9,
            entropy=1.0,
            queue_ms=0.0,
            rank_ms=1.0,
        )

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[RANKER], default="llamarec")
