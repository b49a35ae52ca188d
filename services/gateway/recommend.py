"""The use case: one answer inside its deadline, whatever breaks, saying how it was made. Runs without FastAPI."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog

from services.gateway.popular import Popular
from services.gateway.ports import Histories, RankingPort, RetrievalPort
from shared.candidate import Source
from shared.deadline import Deadline
from shared.errors import (
    BadAnswer,
    DeadlineExceeded,
    Overloaded,
    TandemError,
    Unavailable,
    UnknownRanker,
)
from shared.wire import (
    MAX_HISTORY,
    MAX_SEEN,
    RERANKED,
    Degradation,
    Models,
    RankAnswer,
    RankerName,
    RankRequest,
    RecommendAnswer,
    RecommendedItem,
    RecommendRequest,
    RetrieveAnswer,
    RetrievedItem,
    RetrieveRequest,
    Timing,
)

T = TypeVar("T")
log = structlog.get_logger()

Observer = Callable[[RecommendRequest, RecommendAnswer], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """reserve_ms: kept back to put the answer together, at most a fifth of the budget.  entropy in nats."""

    default_timeout_ms: float = 1000
    reserve_ms: float = 10
    default_ranker: RankerName | None = None
    min_label_mass: float = 0.05
    max_entropy: float | None = None

    def deadline(self, *asked_ms: float | None) -> Deadline:
        """The shortest of the budgets that were asked for."""
        asked = [ms for ms in asked_ms if ms is not None]
        return Deadline.after_ms(min(asked, default=self.default_timeout_ms))

    def working_time(self, deadline: Deadline) -> Deadline:
        return deadline.less_ms(min(self.reserve_ms, deadline.remaining_ms() / 5))

    def confident(self, answer: RankAnswer) -> bool:
        flat = self.max_entropy is not None and answer.entropy > self.max_entropy
        return answer.label_mass >= self.min_label_mass and not flat


@dataclass(slots=True)
class Course:
    """How one answer is being made: what degraded it, and where the time went."""

    request: RecommendRequest
    deadline: Deadline
    began: float = field(default_factory=time.perf_counter)
    degradation: list[Degradation] = field(default_factory=list)
    retrieval_ms: float = 0.0

    def elapsed_ms(self) -> float:
        return (time.perf_counter() - self.began) * 1000

    def degrade(self, reason: Degradation, error: TandemError) -> None:
        """Notes it, or raises what the caller gets who allows no degraded answer."""
        if not self.request.allow_degraded:
            raise (error if isinstance(error, Unavailable | DeadlineExceeded) else Unavailable(str(error))) from error
        log.warning("degraded", reason=reason, error=type(error).__name__, detail=str(error))
        self.degradation.append(reason)


class Recommender:
    def __init__(
        self,
        histories: Histories,
        retrieval: RetrievalPort,
        ranking: RankingPort,
        popular: Popular,
        policy: Policy,
        observe: Observer = lambda request, answer: None,
    ) -> None:
        self._histories = histories
        self._retrieval = retrieval
        self._ranking = ranking
        self._popular = popular
        self._observe = observe
        self.policy = policy

    async def recommend(self, request: RecommendRequest, deadline: Deadline) -> RecommendAnswer:
        """Raises UnknownRanker; Unavailable or DeadlineExceeded where there is nothing to answer with,
        or where a part failed and the request allows no degraded answer."""
        course = Course(request, self.policy.working_time(deadline))
        history = await self._history(request)
        found = await self._retrieve(course, history)
        ranked = await self._rank(course, history, found)
        answer = _assemble(course, found, ranked, self.policy)
        self._observe(request, answer)
        return answer

    async def _history(self, request: RecommendRequest) -> Sequence[str]:
        if request.history is not None:
            return request.history
        assert request.user_id is not None, "the request model asks for one of the two"
        return await self._histories.get(request.user_id) or ()

    async def _retrieve(self, course: Course, history: Sequence[str]) -> RetrieveAnswer:
        request = course.request
        earlier = history[:-MAX_HISTORY][-MAX_SEEN:]
        question = RetrieveRequest(
            user_id=request.user_id,
            history=list(history[-MAX_HISTORY:]),
            k=max(RERANKED, request.limit),
            exclude_item_ids=[*earlier, *request.exclude_item_ids],
            categories=request.filter.categories,
            metadata="metadata" in request.include,
        )
        banned = {*history, *request.exclude_item_ids}
        asked_ms = course.elapsed_ms()
        try:
            answer = await _within(course.deadline, self._retrieval.retrieve(question, course.deadline))
        except TandemError as error:
            course.degrade("retrieval_unavailable", error)
            answer = self._fallback(error)
            return answer.model_copy(update={"items": _allowed(answer.items, banned, request.filter.categories)})
        finally:
            course.retrieval_ms = course.elapsed_ms() - asked_ms
        if answer.source == "popularity":
            course.degradation.append("cold_user")
        return answer.model_copy(update={"items": _allowed(answer.items, banned)})

    def _fallback(self, error: TandemError) -> RetrieveAnswer:
        if self._popular.latest is None:
            raise Unavailable("retrieval does not answer, and this gateway has no popularity list yet") from error
        return self._popular.latest

    async def _rank(self, course: Course, history: Sequence[str], found: RetrieveAnswer) -> RankAnswer | None:
        """None where the retriever's order stands without the language model being asked, or in its stead."""
        ranker = course.request.ranker or self.policy.default_ranker
        if ranker == "retrieval" or found.source == "popularity" or not found.items:
            return None
        first = found.items[:RERANKED]
        question = RankRequest(
            user_id=course.request.user_id,
            history=list(history[-MAX_HISTORY:]),
            ranker=ranker,
            candidates=[item.model_copy(update={"metadata": None}) for item in first],
            catalog=found.catalog,
        )
        try:
            answer = await _within(course.deadline, self._ranking.rank(question, course.deadline))
            _require_permutation(answer, first)
        except UnknownRanker:
            raise
        except DeadlineExceeded as error:
            course.degrade("ranker_timeout", error)
        except Overloaded as error:
            course.degrade("ranker_overloaded", error)
        except TandemError as error:
            course.degrade("ranker_unavailable", error)
        else:
            return answer
        return None


async def _within(deadline: Deadline, work: Awaitable[T]) -> T:
    """Held here and not only by the collaborator: one that is stopped can't keep time."""
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await work
    except TimeoutError:
        raise DeadlineExceeded("the budget of this request is spent") from None


def _allowed(
    items: Sequence[RetrievedItem], banned: Collection[str], categories: Sequence[str] = ()
) -> list[RetrievedItem]:
    """Distinct and not banned, in order; a retrieval service that errs must not repeat what the user has."""
    kept: dict[str, RetrievedItem] = {}
    for item in items:
        fits = not categories or (item.metadata and not set(categories).isdisjoint(item.metadata.categories))
        if fits and item.item_id not in banned:
            kept.setdefault(item.item_id, item)
    return list(kept.values())


def _require_permutation(answer: RankAnswer, asked: Sequence[RetrievedItem]) -> None:
    given = [item.item_id for item in answer.items]
    if len(given) != len(asked) or set(given) != {item.item_id for item in asked}:
        raise BadAnswer(f"{answer.model} answered {len(given)} items that are not the {len(asked)} it was given")


def _assemble(course: Course, found: RetrieveAnswer, ranked: RankAnswer | None, policy: Policy) -> RecommendAnswer:
    request = course.request
    order: list[tuple[RetrievedItem, float, str]] = []
    if ranked and policy.confident(ranked):
        by_id = {item.item_id: item for item in found.items}
        order = [(by_id[item.item_id], item.score, ranked.ranker) for item in ranked.items]
    elif ranked:
        course.degradation.append("low_confidence")
    source = Source(found.source)
    order += [(item, item.score, source) for item in found.items[len(order) :]]
    metadata = "metadata" in request.include
    items = [
        RecommendedItem(
            item_id=item.item_id,
            rank=rank,
            source=source,
            score=score,
            retrieval_score=item.score,
            metadata=item.metadata if metadata else None,
        )
        for rank, (item, score, source) in enumerate(order[: request.limit], start=1)
    ]
    return RecommendAnswer(
        recommendation_id=uuid.uuid4().hex,
        items=items,
        model=Models(ranker=ranked.model if ranked else None, retriever=found.model, catalog=found.catalog[:12]),
        degraded=bool(course.degradation),
        degradation=course.degradation,
        missing_ids=found.missing_ids,
        timing_ms=Timing(
            total=round(course.elapsed_ms(), 3),
            retrieval=round(course.retrieval_ms, 3),
            queue=ranked.queue_ms if ranked else 0.0,
            rank=ranked.rank_ms if ranked else 0.0,
        ),
    )
