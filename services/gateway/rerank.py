"""The caller's own candidates: POST /rank, and POST /rerank in the shape of Jina and Cohere."""

from __future__ import annotations

from typing import get_args

from services.gateway.arrange import ordered
from services.gateway.course import Course, within
from services.gateway.ladder import Ladder
from services.gateway.loaded import Loaded
from services.gateway.people import People
from services.gateway.policy import Policy
from services.gateway.ports import RetrievalPort
from services.gateway.question import Question
from services.gateway.ranked import RankedList
from services.gateway.recommend import Answered, Observer, answer_of, chosen, record_of
from services.gateway.records import Records
from shared.deadline import Deadline
from shared.errors import BadInput
from shared.wire.base import MAX_HISTORY, RankerName
from shared.wire.inner import ResolveRequest
from shared.wire.recommend import (
    Document,
    Experiment,
    RankItemsRequest,
    RecommendAnswer,
    RerankAnswer,
    RerankRequest,
    RerankResult,
)

RERANKERS: dict[str, RankerName] = {name: name for name in get_args(RankerName)}
"""A client of Jina's must send a model; a name of theirs means the default here."""


class Reranker:
    def __init__(
        self,
        people: People,
        ladder: Ladder,
        retrieval: RetrievalPort,
        loaded: Loaded,
        records: Records,
        policy: Policy,
        observe: Observer = lambda answered: None,
    ) -> None:
        self._people = people
        self._ladder = ladder
        self._retrieval = retrieval
        self._loaded = loaded
        self._records = records
        self._policy = policy
        self._observe = observe

    async def rank(
        self,
        request: RankItemsRequest,
        deadline: Deadline,
        tenant: str = "default",
        experiment: Experiment | None = None,
    ) -> RecommendAnswer:
        """Raises as Recommender.recommend does. Candidates that the catalogue does not know are `missing_ids`."""
        answer, made = await self._answer(request, deadline, tenant, experiment)
        await self._records.keep(tenant, request.user_id, record_of(answer, made))
        return answer

    async def _answer(
        self, request: RankItemsRequest, deadline: Deadline, tenant: str, experiment: Experiment | None = None
    ) -> tuple[RecommendAnswer, RankedList]:
        budget_ms = deadline.remaining_ms()
        working = self._policy.working_time(deadline)
        course = Course(tenant=tenant, deadline=working, allow_degraded=request.allow_degraded)
        person = await self._people.read(course, request.user_id, request.session_id, request.history, request.after)
        given = tuple(dict.fromkeys(request.candidates))
        question = Question(
            person=person,
            ranker=chosen(request.ranker, self._loaded, self._policy, course.deadline),
            k=len(given),
            metadata="metadata" in request.include,
            explain="explain" in request.include,
            given=given,
            named=request.ranker not in (None, "auto"),
        )
        made, confident = await self._ladder.descend(course, question)
        order = ordered(made, confident)[: request.limit]
        answer = answer_of(course, made, order, confident, request.include, experiment)
        self._observe(Answered(tenant, request.user_id, answer, made, budget_ms))
        return answer, made

    async def rerank(self, request: RerankRequest, deadline: Deadline, tenant: str = "default") -> RerankAnswer:
        """Raises BadInput where no document names an item."""
        texts = [one if isinstance(one, str) else one.text for one in request.documents]
        lines = [line for line in request.query.splitlines() if line.strip()][-MAX_HISTORY:]
        asked = ResolveRequest(texts=[*texts, *lines])
        resolved = (await within(deadline, self._retrieval.resolve(asked, deadline))).item_ids
        documents, history = resolved[: len(texts)], [id_ for id_ in resolved[len(texts) :] if id_]
        known = [id_ for id_ in documents if id_]
        if not known:
            raise BadInput("no document is the id or the exact title of an item of the catalogue; see GET /items/{id}")
        ranker = RERANKERS.get(request.model or "")
        question = RankItemsRequest(history=history, candidates=list(dict.fromkeys(known)), ranker=ranker)
        answer, _ = await self._answer(question, deadline, tenant)  # its id is told to nobody
        place = {item.item_id: item.rank for item in answer.items}
        order = sorted(range(len(texts)), key=lambda i: place.get(documents[i] or "", len(texts) + 1))
        results = [
            RerankResult(
                index=i,
                relevance_score=1 - place_ / (len(place) + 1) if (place_ := place.get(documents[i] or "")) else 0.0,
                document=Document(text=texts[i]) if request.return_documents else None,
            )
            for i in order[: request.top_n]
        ]
        return RerankAnswer(
            model=answer.model.ranker or answer.model.retriever or "",
            results=results,
            degraded=answer.degraded,
            degradation=answer.degradation,
        )
