"""Ids in, ids out: several loaded rankers behind one batcher."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from services.http import tracing
from services.ranking.batcher import PLANNED, Batcher, Ranked
from shared.candidate import Candidate, Ranking
from shared.catalog import Catalog
from shared.deadline import Deadline
from shared.errors import (
    BadAnswer,
    BadArtifact,
    BadInput,
    DeadlineExceeded,
    Overloaded,
    TandemError,
    UnknownRanker,
)
from shared.history import History
from shared.protocols import Ranker
from shared.wire.base import EXPLAINED, RankerName
from shared.wire.inner import ModelCard, ModelList, RankAnswer, RankedItem, RankRequest, ReleaseCard
from shared.wire.recommend import Because

REASONS = 3
"""Per item, at most."""
TEST_WITHIN_MS = 5_000
TEST_TRIES = 12
"""A self-test waits for its turn among live requests, and where there is no room for it, it comes again."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Served:
    """A loaded ranker. `self_test` raises GoldenMismatch unless it reproduces the score kept with its weights."""

    ranker: Ranker
    card: ModelCard
    self_test: Callable[[], None]
    shares: object = field(default=None, repr=False)
    """What it shares with others, kept in memory as long as one of them is."""


class RankingService:
    """The gateway's RankingPort when both live in one process."""

    def __init__(
        self,
        catalog: Catalog,
        rankers: Mapping[RankerName, Served],
        batcher: Batcher,
        default: RankerName | None = None,
    ) -> None:
        self._catalog = catalog
        self._rankers = rankers
        self._batcher = batcher
        first: RankerName = next(iter(rankers), "retrieval")
        self._default = default or first
        self._tested = False

    def self_test(self) -> None:
        """Raises GoldenMismatch. The service is not ready before this has passed."""
        for served in self._rankers.values():
            served.self_test()
        self._tested = True

    async def self_test_in_turn(self) -> None:
        """The same beside live requests, on the thread that owns the models. Raises BadArtifact, or Overloaded."""
        for served in self._rankers.values():
            await self._in_turn(served)
        self._tested = True

    async def _in_turn(self, served: Served) -> None:
        for _ in range(TEST_TRIES):
            try:
                await self._batcher.rank(_Test(served), History(()), (), Deadline.after_ms(TEST_WITHIN_MS))
            except (Overloaded, DeadlineExceeded):
                await asyncio.sleep(TEST_WITHIN_MS / 1000 / TEST_TRIES)
            else:
                return
        raise Overloaded(f"{served.card.name} could not be tested: too many requests wait for the rankers. Ask again")

    def why_not_ready(self) -> str | None:
        if not self._tested:
            return "the rankers have not reproduced their golden scores yet"
        return None if self._batcher.alive else self.why_dead() or "the ranking service is stopping"

    def why_dead(self) -> str | None:
        """What only a new process mends."""
        return self._batcher.why_dead()

    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Raises UnknownRanker, CatalogMismatch, BadInput, BadAnswer, and what Batcher.rank raises."""
        name, served = self._served(request.ranker or self._default)
        self._catalog.require(request.catalog, "the request")
        history, _ = self._catalog.indices(request.history)
        everyone = self._candidates(request)
        candidates, behind = everyone[: served.ranker.max_candidates], everyone[served.ranker.max_candidates :]
        user = History(tuple(history), request.user_id)
        ranked = await self._batcher.rank(served.ranker, user, candidates, deadline)
        tracing.past("queue", ranked.queue_ms, until_ms_ago=ranked.rank_ms)
        tracing.past("batch", ranked.rank_ms)
        _require_sense(served.card.name, ranked, candidates)
        because = await self._explain(served, user, candidates, deadline) if request.explain else None
        return self._answer(name, served, ranked, because, _below(ranked.ranking, candidates, behind))

    async def _explain(
        self, served: Served, user: History, candidates: Sequence[Candidate], deadline: Deadline
    ) -> dict[int, dict[int, float]] | None:
        """Per candidate the score that is left without each recent item of the history, measured by leaving it out.

        All of them wait at once, so that the batcher takes them together; the ranking itself is there already. None
        where that failed or came too late: an answer without reasons is better than none.
        """
        if served.card.metrics.get("blend") == 0:
            return {candidate.item: {} for candidate in candidates}  # the history has no part in its scores
        tasks: dict[int, asyncio.Task[Ranked]] = {}
        left: dict[int, dict[int, float]] | None = None
        try:
            async with asyncio.timeout(PLANNED * deadline.remaining_s()), asyncio.TaskGroup() as group:
                for item in dict.fromkeys(user.last(EXPLAINED)):
                    work = self._batcher.rank(served.ranker, _without(user, item), candidates, deadline)
                    tasks[item] = group.create_task(work)
            left = {candidate.item: {} for candidate in candidates}
            for item, task in tasks.items():
                _require_sense(served.card.name, task.result(), candidates)
                for candidate in task.result().ranking.candidates:
                    left[candidate.item][item] = candidate.score
        except* (TandemError, TimeoutError) as errors:
            log.warning("not explained", error=type(errors.exceptions[0]).__name__)
            left = None
        return left

    async def models(self, deadline: Deadline) -> ModelList:
        return ModelList(models=[served.card for served in self._rankers.values()], default=self._default)

    def described(self, release: str) -> ReleaseCard:
        cards = [served.card for served in self._rankers.values()]
        fingerprint = self._catalog.fingerprint()
        return ReleaseCard(release=release, catalog=fingerprint[:12], models=cards, default=self._default)

    def close(self) -> None:
        """Also of whatever shares its batcher."""
        self._batcher.close()

    def _served(self, name: RankerName | None) -> tuple[RankerName, Served]:
        if name is None or name not in self._rankers:
            loaded = ", ".join(["retrieval", *self._rankers])
            raise UnknownRanker(f"ranker {name!r} is not loaded here; there are: {loaded}")
        return name, self._rankers[name]

    def _candidates(self, request: RankRequest) -> list[Candidate]:
        items, unknown = self._catalog.indices(item.item_id for item in request.candidates)
        if unknown:
            raise BadInput(f"the catalogue does not know the candidate {unknown[0]!r}")
        if len(set(items)) != len(items):
            raise BadInput("a candidate stands twice in the list")
        return [Candidate(item, given.score) for item, given in zip(items, request.candidates, strict=True)]

    def _because(self, candidate: Candidate, left: Mapping[int, float]) -> list[Because]:
        helped = [(candidate.score - score, item) for item, score in left.items() if score < candidate.score]
        strongest = sorted(helped, key=lambda pair: -pair[0])[:REASONS]
        return [Because(item_id=self._catalog[item].id, weight=weight) for weight, item in strongest]

    def _answer(
        self,
        name: RankerName,
        served: Served,
        ranked: Ranked,
        left: Mapping[int, Mapping[int, float]] | None,
        below: Sequence[Candidate],
    ) -> RankAnswer:
        ranking = ranked.ranking
        candidates = [*ranking.candidates, *below]
        own = [*(ranking.unblended or [None] * len(ranking.candidates)), *[None] * len(below)]
        return RankAnswer(
            items=[
                RankedItem(
                    item_id=self._catalog[candidate.item].id,
                    score=candidate.score,
                    ranker_score=unblended,
                    because=None if left is None else self._because(candidate, left.get(candidate.item, {})),
                )
                for candidate, unblended in zip(candidates, own, strict=True)
            ],
            model=served.card.name,
            ranker=name,
            label_mass=ranking.label_mass,
            entropy=ranking.entropy,
            queue_ms=round(ranked.queue_ms, 3),
            rank_ms=round(ranked.rank_ms, 3),
        )


class _Test:
    """A self-test in the shape of a Ranker, so that it takes its turn."""

    max_candidates = 0

    def __init__(self, served: Served) -> None:
        self._served = served

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        try:
            self._served.self_test()
        except TandemError:
            raise
        except Exception as error:
            raise BadArtifact(f"{self._served.card.name} failed its self-test: {type(error).__name__}") from error
        return [Ranking(())] * len(histories)


def _below(ranking: Ranking, heard: Sequence[Candidate], rest: Sequence[Candidate]) -> list[Candidate]:
    """What a ranker of few candidates was not asked about: in the order that it came in, each as far below the last
    one ranked as retrieval had it below the last one asked about."""
    below: list[Candidate] = []
    for candidate in rest:
        floor = (below or ranking.candidates)[-1].score
        before = rest[len(below) - 1] if below else heard[-1]
        below.append(Candidate(candidate.item, floor - max(0.0, before.score - candidate.score)))
    return below


def _without(user: History, item: int) -> History:
    return History(tuple(other for other in user.items if other != item), user.user_id)


def _require_sense(model: str, ranked: Ranked, asked: Sequence[Candidate]) -> None:
    ranking = ranked.ranking
    scores = [candidate.score for candidate in ranking.candidates]
    numbers = [ranking.label_mass, ranking.entropy, *scores, *ranking.unblended]
    if not all(math.isfinite(number) for number in numbers):
        raise BadAnswer(f"{model} scored with NaN or infinity")
    if sorted(candidate.item for candidate in ranking.candidates) != sorted(candidate.item for candidate in asked):
        raise BadAnswer(f"{model} answered other items than it was given")
    if len(ranking.unblended) not in (0, len(scores)):
        raise BadAnswer(f"{model} has {len(ranking.unblended)} scores of its own for {len(scores)} candidates")
