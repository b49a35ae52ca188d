"""The use case: one answer inside its deadline, whatever breaks, saying how it was made. Runs without FastAPI."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import islice

from services.gateway.arrange import Allowed, allowed, diversified, ordered, promoted
from services.gateway.course import Course, within
from services.gateway.ladder import Ladder
from services.gateway.loaded import Loaded
from services.gateway.people import People, Person
from services.gateway.policy import Policy
from services.gateway.popular import Popular
from services.gateway.ports import Record, RetrievalPort
from services.gateway.question import Question
from services.gateway.ranked import Placed, RankedList, depth
from services.gateway.records import Records
from shared.candidate import Source
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, TandemError, Unavailable
from shared.wire.base import MAX_EXCLUDED, MAX_HISTORY, MAX_LIMIT, MAX_SEEN, RERANKED, RankerName
from shared.wire.inner import RetrieveRequest, ScoreRequest
from shared.wire.recommend import Experiment, Models, RecommendAnswer, RecommendedItem, RecommendRequest, Timing

HEADS = 4
"""Of one list, by their lengths."""
SHOWN = frozenset({"metadata", "scores"})
"""What may be included of every list; reasons are a list of their own."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What an observer hears of one answer. budget_ms: what the request had."""

    tenant: str
    user_id: str | None
    answer: RecommendAnswer
    made: RankedList
    budget_ms: float


Observer = Callable[[Answered], None]


class Recommender:
    def __init__(
        self,
        people: People,
        ladder: Ladder,
        retrieval: RetrievalPort,
        popular: Popular,
        loaded: Loaded,
        records: Records,
        policy: Policy,
        observe: Observer = lambda answered: None,
    ) -> None:
        self._people = people
        self._ladder = ladder
        self._retrieval = retrieval
        self._popular = popular
        self._loaded = loaded
        self._records = records
        self._observe = observe
        self.policy = policy

    async def recommend(
        self,
        request: RecommendRequest,
        deadline: Deadline,
        tenant: str = "default",
        experiment: Experiment | None = None,
    ) -> RecommendAnswer:
        """Raises UnknownRanker; Unavailable or DeadlineExceeded where there is nothing to answer with,
        or where a part failed and the request allows no degraded answer."""
        budget_ms = deadline.remaining_ms()
        answer, made = await self._answer(request, deadline, tenant, experiment)
        await self._records.keep(tenant, request.user_id, record_of(answer, made))
        self._observe(Answered(tenant, request.user_id, answer, made, budget_ms))
        return answer

    async def consider(self, request: RecommendRequest, deadline: Deadline, tenant: str) -> RecommendAnswer:
        """What would be answered. Nobody gets it, it is not written down, and no metric of answers hears of it."""
        answer, _ = await self._answer(request, deadline, tenant, None)
        return answer

    async def _answer(
        self, request: RecommendRequest, deadline: Deadline, tenant: str, experiment: Experiment | None
    ) -> tuple[RecommendAnswer, RankedList]:
        working = self.policy.working_time(deadline)
        course = Course(tenant=tenant, deadline=working, allow_degraded=request.allow_degraded)
        person = await self._people.read(course, request.user_id, request.session_id, request.history, request.after)
        question = self._question(course, request, person)
        made, confident = await self._ladder.descend(course, question)
        order = await self._order(course, request, person, made, confident)
        return answer_of(course, made, order, confident, request.include, experiment), made

    def _question(self, course: Course, request: RecommendRequest, person: Person) -> Question:
        return Question(
            person=person,
            ranker=chosen(request.ranker, self._loaded, self.policy, course.deadline),
            k=depth(request.limit, self.policy.spare, MAX_LIMIT + RERANKED),
            categories=tuple(sorted(set(request.filter.categories))),
            metadata=_needs_metadata(request),
            vectors=request.diversity > 0,
            explain="explain" in request.include,
            named=request.ranker not in (None, "auto"),
        )

    async def _order(
        self, course: Course, request: RecommendRequest, person: Person, made: RankedList, confident: bool
    ) -> list[Placed]:
        fits = allowed(person, request)
        # All of them only where what comes after the limit matters.
        most = None if request.promotions or request.diversity else request.limit
        order = list(islice((one for one in ordered(made, confident) if fits(one.item)), most))
        if len(order) < request.limit and len(made.found.items) >= made.asked:
            order += await self._more(course, request, person, fits, order)
        if len(order) < request.limit:
            order += self._rest(course, person, made, fits, order)
        try:
            order = diversified(order, request.diversity, request.limit)
        except BadAnswer as error:
            course.degrade("retrieval_unavailable", error)
        if request.promotions:
            known = await self._promotable(course, request, person, fits, order)
            order = promoted(order, request.promotions, known, request.limit)
        return order[: request.limit]

    async def _more(
        self, course: Course, request: RecommendRequest, person: Person, fits: Allowed, order: Sequence[Placed]
    ) -> list[Placed]:
        """Filters took more than was retrieved to spare: ask again without what was taken."""
        had = {one.item.item_id for one in order}
        hidden = [id_ for id_ in person.states.items or () if id_ not in person.seen]
        banned = [*had, *request.exclude_item_ids, *person.seen, *hidden]
        asked = RetrieveRequest(
            user_id=person.known_as,
            history=list(person.history[-MAX_HISTORY:]),
            k=min(request.limit - len(order) + self.policy.spare, MAX_LIMIT + RERANKED),
            exclude_item_ids=banned[: MAX_SEEN + MAX_EXCLUDED],
            categories=request.filter.categories,
            metadata=_needs_metadata(request),
            vectors=request.diversity > 0,
        )
        try:
            found = await within(course.deadline, self._retrieval.retrieve(asked, course.deadline))
        except TandemError as error:
            course.degrade("retrieval_unavailable", error)
            return []
        items = {item.item_id: item for item in found.items if fits(item) and item.item_id not in had}
        return [Placed(item, item.score, Source(found.source)) for item in items.values()]

    def _rest(
        self, course: Course, person: Person, made: RankedList, fits: Allowed, order: Sequence[Placed]
    ) -> list[Placed]:
        """What everybody likes, for places that are still free. Retrieval leaves none of it out by itself, but what has
        a wanted category only by its state."""
        popular = self._popular.list()
        if popular is None or popular.found.catalog != made.found.catalog:
            return []
        had = {one.item.item_id for one in order}
        rest = [one for one in popular.by_retriever if one.item.item_id not in had and fits(one.item)]
        states = [person.states.of(one.item.item_id) for one in rest]
        if any(state is None or state.categories is None for state in states):
            left_out = f"{made.found.model} found {len(made.found.items)} of {made.asked} items, and there are more"
            course.degrade("retrieval_unavailable", BadAnswer(left_out))
        return rest

    async def _promotable(
        self, course: Course, request: RecommendRequest, person: Person, fits: Allowed, order: Sequence[Placed]
    ) -> list[Placed]:
        """Promoted items that the catalogue knows and this user may see; without retrieval those in `order` alone."""
        asked = list(dict.fromkeys(id_ for promotion in request.promotions for id_ in promotion.item_ids))
        at_hand = {one.item.item_id: one for one in order}
        missing = [id_ for id_ in asked if id_ not in at_hand][:MAX_LIMIT]
        if missing:
            history = list(person.history[-MAX_HISTORY:])
            question = ScoreRequest(user_id=person.known_as, history=history, item_ids=missing, metadata=True)
            try:
                found = await within(course.deadline, self._retrieval.score(question, course.deadline))
            except (Unavailable, DeadlineExceeded) as error:
                course.degrade("retrieval_unavailable", error)
            else:
                fitting = [item for item in found.items if fits(item)]
                at_hand |= {item.item_id: Placed(item, item.score, Source.PROMOTION) for item in fitting}
        return [at_hand[id_] for id_ in asked if id_ in at_hand]


def _needs_metadata(request: RecommendRequest) -> bool:
    """Also for a filter, which is ours to keep: retrieval only finds what passes it."""
    return "metadata" in request.include or bool(request.filter.categories)


def chosen(asked: RankerName | str | None, loaded: Loaded, policy: Policy, deadline: Deadline) -> RankerName | None:
    """None leaves it to the ranking service, while that has not said what its default is."""
    if asked == "auto":
        return loaded.best(deadline.remaining_ms())
    return asked or policy.default_ranker or loaded.default  # type: ignore[return-value]


def answer_of(
    course: Course,
    made: RankedList,
    order: Sequence[Placed],
    confident: bool,
    include: Collection[str],
    experiment: Experiment | None = None,
) -> RecommendAnswer:
    ranked, fresh = made.ranked, course.cache == "miss"
    return RecommendAnswer(
        recommendation_id=os.urandom(16).hex(),
        items=_items(made, order, confident, SHOWN.intersection(include)),
        model=Models(
            ranker=ranked.model if ranked else None,
            retriever=made.found.model or None,
            catalog=made.found.catalog[:12] or None,
        ),
        degraded=bool(course.degradation),
        degradation=course.degradation,
        rung=made.rung if confident or made.rung != "ranker" else "retrieval",
        cache=course.cache,
        missing_ids=made.found.missing_ids,
        timing_ms=Timing(
            total=round(course.elapsed_ms(), 3),
            cache=round(course.cache_ms, 3),
            retrieval=made.found.elapsed_ms if fresh else 0.0,
            queue=ranked.queue_ms if ranked and fresh else 0.0,
            rank=ranked.rank_ms if ranked and fresh else 0.0,
        ),
        experiment=experiment,
    )


def _items(made: RankedList, order: Sequence[Placed], confident: bool, shown: frozenset[str]) -> list[RecommendedItem]:
    """Made once for the first so many of a list, which is what nearly everybody gets."""
    if tuple(order) != ordered(made, confident)[: len(order)]:
        return _itemized(order, shown, bool(made.found.model))
    key = (len(order), confident, shown)
    found = made.heads.get(key)
    if found is None:
        found = _itemized(order, shown, bool(made.found.model))
        if len(made.heads) < HEADS:
            made.heads[key] = found
    return found


def _itemized(order: Sequence[Placed], shown: frozenset[str], scored: bool) -> list[RecommendedItem]:
    """scored: not the caller's own order, of which no model has said anything."""
    metadata, scores = "metadata" in shown, "scores" in shown
    return [
        RecommendedItem(
            item_id=one.item.item_id,
            rank=rank,
            source=one.source,
            score=one.score if scored else None,
            retrieval_score=one.item.score if scored else None,
            ranker_score=one.ranker_score if scores else None,
            metadata=one.item.metadata if metadata else None,
            because=one.because,
        )
        for rank, one in enumerate(order, start=1)
    ]


def ordered_by(answer: RecommendAnswer, made: RankedList) -> str:
    """The ranker whose order it is; else retrieval, popularity or static."""
    if made.ranked and "low_confidence" not in answer.degradation:
        return made.ranked.ranker
    return "static" if made.rung == "static" else made.found.source


def record_of(answer: RecommendAnswer, made: RankedList) -> Record:
    return Record(
        recommendation_id=answer.recommendation_id,
        item_ids=tuple([item.item_id for item in answer.items]),
        ranker=ordered_by(answer, made),
        rung=answer.rung,
        experiment=answer.experiment,
    )
