"""Models without weights, and services that fail on purpose. The models pass the contracts of the real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import numpy as np

from ranker.blend import log_softmax
from services.ranking.batcher import Batcher
from services.ranking.service import RankingService, Served
from services.retrieval.service import RetrievalService
from shared.candidate import Candidate, Ranking
from shared.catalog import Catalog, Item
from shared.deadline import Deadline
from shared.errors import BadInput, Unavailable
from shared.history import History
from shared.wire.base import RankerName
from shared.wire.inner import (
    ModelCard,
    ModelList,
    RankAnswer,
    RankedItem,
    RankRequest,
    ResolveAnswer,
    ResolveRequest,
    RetrieveAnswer,
    RetrieveRequest,
    ScoreRequest,
)
from shared.wire.users import ItemAnswer

GENRES = ("Horror", "Comedy", "Drama")


def catalog(size: int = 60) -> Catalog:
    """Items i1..in; the genres take turns."""
    return Catalog(tuple(Item(f"i{n}", f"Title {n}", (GENRES[n % 3],)) for n in range(1, size + 1)))


class FakeRetriever:
    """Walks the catalogue upward from the last item of the history, round the end."""

    def __init__(self, items: int) -> None:
        self._items = items

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        banned = exclude or [()] * len(histories)
        return [self._one(history, k, set(out)) for history, out in zip(histories, banned, strict=True)]

    def _one(self, history: History, k: int, banned: set[int]) -> list[Candidate]:
        start = history.items[-1] if history.items else 0
        walk = ((start + step) % self._items + 1 for step in range(self._items))
        found = [item for item in walk if item not in banned][:k]
        return [Candidate(item, float(self._items - place)) for place, item in enumerate(found)]

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[list[Candidate]]:
        found = self.retrieve(histories, self._items)
        return [[c for c in one if c.item in set(given)] for one, given in zip(found, items, strict=True)]

    def vectors(self, items: Sequence[int]) -> np.ndarray:
        """Items whose indices are equal modulo 4 are the same direction."""
        return np.eye(4, dtype=np.float32)[[item % 4 for item in items]]


class FakePopularity(FakeRetriever):
    """The same order for everybody: the catalogue's."""

    def _one(self, history: History, k: int, banned: set[int]) -> list[Candidate]:
        return super()._one(History(()), k, banned)


class FakeRanker:
    """Prefers high catalogue indices. `seconds` is what one batch takes."""

    max_candidates = 20

    def __init__(self, seconds: float = 0.0, label_mass: float = 0.9, entropy: float = 0.5) -> None:
        self.seconds, self.label_mass, self.entropy = seconds, label_mass, entropy
        self.batches: list[int] = []

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        if any(len(one) > self.max_candidates for one in candidates):
            raise BadInput(f"more than {self.max_candidates} candidates")
        self.batches.append(len(histories))
        time.sleep(self.seconds)
        return [self._one(one) for one in candidates]

    def _one(self, candidates: Sequence[Candidate]) -> Ranking:
        scored = [Candidate(candidate.item, candidate.item / 100) for candidate in candidates]
        best_first = sorted(scored, key=lambda candidate: -candidate.score)
        unblended = log_softmax(np.array([candidate.score for candidate in best_first])).tolist() if scored else ()
        return Ranking(tuple(best_first), self.label_mass, self.entropy, unblended=tuple(unblended))


class FakeHistories:
    def __init__(self, **users: Sequence[str]) -> None:
        self._users = {user: tuple(items) for user, items in users.items()}

    async def get(self, user_id: str) -> tuple[str, ...] | None:
        return self._users.get(user_id)


def histories() -> FakeHistories:
    return FakeHistories(u1=("i3", "i5"), empty=())


def retrieval_service(items: Catalog) -> RetrievalService:
    card = ModelCard(name="lrurec@0000aaaa", method="lrurec", catalog=items.fingerprint()[:12])
    return RetrievalService(items, FakeRetriever(len(items)), FakePopularity(len(items)), card)


def ranking_service(
    items: Catalog,
    ranker: FakeRanker | None = None,
    name: RankerName = "llamarec",
    batcher: Batcher | None = None,
    blend: float = 1.0,
) -> RankingService:
    metrics: dict[str, float | int | str | None] = {"blend": blend}
    card = ModelCard(name=f"{name}@0000bbbb", method=name, catalog=items.fingerprint()[:12], metrics=metrics)
    served = Served(ranker or FakeRanker(), card, lambda: None)
    service = RankingService(items, {name: served}, batcher or Batcher(max_queue=64, max_batch=8))
    service.self_test()
    return service


LLAMAREC = ModelCard(name="llamarec@0000bbbb", method="llamarec", catalog="c")


class BrokenRetrieval:
    """Answers a popularity list while `popular_works`, and fails everything else with `error`."""

    def __init__(self, error: Exception, popular_works: bool = True) -> None:
        self._error, self._popular_works = error, popular_works
        self._whole = retrieval_service(catalog())

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        raise self._error

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        raise self._error

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        raise self._error

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        if not self._popular_works:
            raise self._error
        return await self._whole.popular(k, deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        raise self._error

    async def models(self, deadline: Deadline) -> ModelList:
        raise self._error


class AnsweringRetrieval(BrokenRetrieval):
    """Gives whatever `distort` makes of the right answer, after `seconds`."""

    def __init__(
        self, distort: Callable[[RetrieveAnswer], RetrieveAnswer] = lambda answer: answer, seconds: float = 0.0
    ) -> None:
        super().__init__(Unavailable("never"))
        self._distort, self._seconds = distort, seconds
        self.asked = 0

    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer:
        self.asked += 1
        await asyncio.sleep(self._seconds)
        return self._distort(await self._whole.retrieve(request, deadline))

    async def score(self, request: ScoreRequest, deadline: Deadline) -> RetrieveAnswer:
        return await self._whole.score(request, deadline)

    async def resolve(self, request: ResolveRequest, deadline: Deadline) -> ResolveAnswer:
        return await self._whole.resolve(request, deadline)

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        return await self._whole.item(item_id, deadline)

    async def models(self, deadline: Deadline) -> ModelList:
        return await self._whole.models(deadline)


class BrokenRanking:
    def __init__(self, error: Exception) -> None:
        self._error = error
        self.asked = 0

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        self.asked += 1
        raise self._error

    async def models(self, deadline: Deadline) -> ModelList:
        raise self._error


class AnsweringRanking:
    """Reverses the candidates, then `distort`s the answer, after `seconds`."""

    def __init__(
        self, distort: Callable[[RankAnswer], RankAnswer] = lambda answer: answer, seconds: float = 0.0
    ) -> None:
        self._distort, self._seconds = distort, seconds
        self.requests: list[RankRequest] = []

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        self.requests.append(request)
        await asyncio.sleep(self._seconds)
        count = len(request.candidates)
        items = [
            RankedItem(item_id=item.item_id, score=(count - place) / count, ranker_score=-1.0 - place)
            for place, item in enumerate(reversed(request.candidates))
        ]
        return self._distort(
            RankAnswer(
                items=items,
                model="llamarec@0000bbbb",
                ranker=request.ranker or "llamarec",
                label_mass=0.9,
                entropy=1.0,
                queue_ms=0.0,
                rank_ms=0.0,
            )
        )

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[LLAMAREC], default="llamarec")
