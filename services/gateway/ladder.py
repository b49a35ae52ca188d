"""From a history to a ranked list, down the ladder: fresh cache, language model, retriever's order, stale cache,
popularity, the gateway's own list. Each rung that is left says why.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from services.gateway.cache.flight import DEGRADED_FRESH_S, DEGRADED_STALE_S, Flights, Made
from services.gateway.course import Course, within
from services.gateway.loaded import Loaded
from services.gateway.policy import Policy
from services.gateway.popular import Popular
from services.gateway.ports import CacheStore, RankingPort, RetrievalPort
from services.gateway.question import Question, last_key, list_key
from services.gateway.ranked import Decoded, RankedList
from services.http.tracing import span
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, TandemError, Unavailable, UnknownRanker
from shared.wire.base import MAX_HISTORY, MAX_SEEN, RERANKED, Degradation
from shared.wire.inner import (
    ModelCard,
    RankAnswer,
    RankRequest,
    RetrieveAnswer,
    RetrievedItem,
    RetrieveRequest,
    ScoreRequest,
)

LANDING_MS = 2.0
"""Between the end of a flight's work and the end of its request's patience, to get from one task to the other."""
LAST_MS = 4.0
"""Past the deadline, for the user's last ranking: out of what is kept back to put the answer together."""
LINGER_S = 0.1
"""What was retrieved stays at hand a little longer than the flight: both may end in the same turn of the loop."""
SYSTEM = frozenset({"ranker_unavailable", "ranker_overloaded", "cold_user"})
"""What any other request would meet as well."""


class Ladder:
    def __init__(
        self,
        retrieval: RetrievalPort,
        ranking: RankingPort,
        popular: Popular,
        loaded: Loaded,
        cache: CacheStore,
        flights: Flights,
        policy: Policy,
        release: str = "",
        decoded: Decoded | None = None,
    ) -> None:
        """`release`: whose answers these are, in the cache. `decoded` may be shared by the ladders of all releases."""
        self._retrieval = retrieval
        self._ranking = ranking
        self._popular = popular
        self._loaded = loaded
        self._cache = cache
        self._flights = flights
        self._policy = policy
        self._release = release
        self._decoded = decoded or Decoded()
        self._found: dict[str, RetrieveAnswer] = {}
        """Of the flights whose ranker is at work."""

    async def descend(self, course: Course, question: Question) -> tuple[RankedList, bool]:
        """And whether the ranker's order is to be trusted. Raises UnknownRanker; Unavailable or DeadlineExceeded where
        no rung holds, or where one failed and the request allows no degraded answer."""
        made = await self._descend(course, question)
        confident = made.ranked is None or self._policy.confident(made.ranked)
        if not confident:
            course.degradation.append("low_confidence")
        return made, confident

    async def anew(self, deadline: Deadline, question: Question) -> RankedList:
        """Past the cache. Raises what retrieval raises; what a ranker does wrong stands in the list."""
        return await self._make(deadline, question)

    async def _descend(self, course: Course, question: Question) -> RankedList:
        key = list_key(course.tenant, self._release, question, self._loaded)
        try:
            made = await (self._through(course, question, key) if key else self._make(course.deadline, question))
        except (Unavailable, DeadlineExceeded) as error:
            course.degrade("retrieval_unavailable", error)
            return await self._below(course, question, error)
        for reason, detail in made.degradation:
            if reason == "cold_user":
                course.degradation.append(reason)
            else:
                late = reason == "ranker_timeout"
                course.degrade(reason, DeadlineExceeded(detail) if late else Unavailable(detail))
        return made

    async def _through(self, course: Course, question: Question, key: str) -> RankedList:
        """From the cache, from a flight that is under way, or made now."""
        began = time.perf_counter()
        answered, ours, spent = False, False, 0.0
        named = self._loaded.retriever, self._loaded.rankers

        async def make() -> Made:
            nonlocal ours, spent
            ours, started = True, time.perf_counter()
            # A stale entry is renewed after its request was answered: then the request's own budget is no bound.
            deadline = self._policy.deadline() if answered else course.deadline.less_ms(LANDING_MS)
            try:
                made = await self._make(deadline, question, key)
            finally:
                asyncio.get_running_loop().call_later(LINGER_S, self._found.pop, key, None)
            spent = time.perf_counter() - started
            if not _made_by(made, *named):
                self._loaded.doubt()
                return Made(made.encoded(), DEGRADED_FRESH_S, DEGRADED_STALE_S, store=False)
            return self._kept(course.tenant, question, made)

        while True:
            try:
                with span("cache"):
                    outcome = await self._flights.through(key, make, course.deadline, revalidate=True)
                break
            except DeadlineExceeded as error:
                if (found := self._found.get(key)) is not None:
                    return self._listed(question, found, None, [("ranker_timeout", str(error))])
                if ours or course.deadline.expired:
                    raise
                # Whoever began the flight had less time: the next one of those who wait begins another.
        answered = True
        course.cache = outcome.cache
        course.cache_ms = (time.perf_counter() - began - spent) * 1000
        made = self._decoded.read(outcome.value)
        if made is None:
            await within(course.deadline, self._cache.delete([key]))
            return await self._make(course.deadline, question)
        if outcome.shared and self._could_do_better(course, question, made):
            return await self._make(course.deadline, question)
        return made.from_cache if outcome.cache != "miss" else made

    def _kept(self, tenant: str, question: Question, made: RankedList) -> Made:
        value, policy = made.encoded(), self._policy
        if question.explain and not made.explained:
            # The next one may have time for reasons.
            return Made(value, DEGRADED_FRESH_S, DEGRADED_STALE_S, store=False)
        if made.lasting:
            last = last_key(tenant, self._release, question, self._loaded.default)
            return Made(value, policy.cache_fresh_s, policy.cache_stale_s, also=last)
        # What one request's own haste degraded says nothing to the next one.
        ours = all(reason in SYSTEM for reason, _ in made.degradation)
        return Made(value, DEGRADED_FRESH_S, DEGRADED_STALE_S, store=ours)

    def _could_do_better(self, course: Course, question: Question, made: RankedList) -> bool:
        """The flight that was joined had less time than this request has left."""
        name, left_ms = question.ranker or self._loaded.default, course.deadline.remaining_ms()
        if any(reason == "ranker_timeout" for reason, _ in made.degradation):
            return self._loaded.of(str(name)).fits(left_ms)
        return question.explain and not made.explained and self._loaded.of(f"{name} explained").fits(left_ms)

    async def _make(self, deadline: Deadline, question: Question, key: str | None = None) -> RankedList:
        """Raises what retrieval raises; a ranker that fails degrades. With a `key` what was retrieved is at hand for
        those who cannot wait for the ranker."""
        began = time.perf_counter()
        with span("retrieve", k=question.k):
            found = await self._retrieve(deadline, question)
        found = found.model_copy(update={"elapsed_ms": round((time.perf_counter() - began) * 1000, 3)})
        if key:
            self._found[key] = found
        if question.ranker == "retrieval" or found.source == "popularity" or not found.items:
            return self._listed(question, found, None, [])
        try:
            with span("rank", ranker=question.ranker or "default"):
                ranked = await self._rank(deadline, question, found)
        except UnknownRanker as error:
            if question.named:
                raise
            self._loaded.doubt()
            return self._listed(question, found, None, [("ranker_unavailable", str(error))])
        except DeadlineExceeded as error:
            return self._listed(question, found, None, [("ranker_timeout", str(error))])
        except Overloaded as error:
            return self._listed(question, found, None, [("ranker_overloaded", str(error))])
        except TandemError as error:
            return self._listed(question, found, None, [("ranker_unavailable", str(error))])
        return self._listed(question, found, ranked, [])

    @staticmethod
    def _listed(
        question: Question,
        found: RetrieveAnswer,
        ranked: RankAnswer | None,
        degradation: list[tuple[Degradation, str]],
    ) -> RankedList:
        cold = found.source == "popularity"
        return RankedList(
            found=found,
            ranked=ranked,
            rung="ranker" if ranked else "popularity" if cold else "retrieval",
            asked=question.k,
            degradation=[*degradation, ("cold_user", "")] if cold else degradation,
        )

    async def _retrieve(self, deadline: Deadline, question: Question) -> RetrieveAnswer:
        person = question.person
        if question.given:
            given = ScoreRequest(
                user_id=person.known_as,
                history=list(person.history[-MAX_HISTORY:]),
                item_ids=list(question.given),
                metadata=question.metadata,
            )
            return await within(deadline, self._retrieval.score(given, deadline))
        asked = RetrieveRequest(
            user_id=person.known_as,
            history=list(person.history[-MAX_HISTORY:]),
            k=question.k,
            exclude_item_ids=[*sorted(person.seen)[:MAX_SEEN], *person.history[:-MAX_HISTORY][-MAX_SEEN:]][:MAX_SEEN],
            categories=list(question.categories),
            metadata=question.metadata,
            vectors=question.vectors,
        )
        found = await within(deadline, self._retrieval.retrieve(asked, deadline))
        return found.model_copy(update={"items": list({item.item_id: item for item in found.items}.values())})

    async def _rank(self, deadline: Deadline, question: Question, found: RetrieveAnswer) -> RankAnswer:
        """Raises DeadlineExceeded at once where the ranker's usual time is more than what is left."""
        person, first = question.person, found.items[:RERANKED]
        name = question.ranker or self._loaded.default
        left_ms = deadline.remaining_ms()
        # Reasons cost ten more prompts: where those do not fit, an order without reasons may.
        explain = question.explain and self._loaded.of(f"{name} explained").fits(left_ms)
        latency = self._loaded.of(f"{name} explained" if explain else str(name))
        if not latency.fits(left_ms):
            raise DeadlineExceeded(f"{left_ms:.0f} ms are left, {name} usually takes {latency.p95_ms():.0f} ms")
        asked = RankRequest(
            user_id=person.known_as,
            history=list(person.history[-MAX_HISTORY:]),
            ranker=name,
            candidates=[item.model_copy(update={"metadata": None, "vector": None}) for item in first],
            catalog=found.catalog,
            explain=explain,
        )
        began = time.perf_counter()
        try:
            answer = await within(deadline, self._ranking.rank(asked, deadline))
        except (DeadlineExceeded, Overloaded):
            latency.missed(left_ms)
            raise
        # Without its queue: whether that leaves time is for the ranking service to say, which knows it as it is now.
        latency.add((time.perf_counter() - began) * 1000 - answer.queue_ms)
        _require_permutation(answer, first)
        return answer

    async def _below(self, course: Course, question: Question, error: TandemError) -> RankedList:
        """Retrieval does not answer: this user's last ranking, else what everybody likes."""
        if question.given:
            return _as_given(question)
        if made := await self._last(course, question):
            course.degradation.append("stale_cache")
            course.cache = "stale"
            return made.model_copy(update={"rung": "stale"})
        popular = self._popular.list()
        if popular is None:
            raise Unavailable("retrieval does not answer, and this gateway has no popularity list yet") from error
        return popular

    async def _last(self, course: Course, question: Question) -> RankedList | None:
        key = last_key(course.tenant, self._release, question, self._loaded.default)
        if key is None:
            return None
        deadline = max(course.deadline, Deadline.after_ms(LAST_MS), key=lambda one: one.at)
        try:
            kept = await within(deadline, self._cache.get(key))
        except DeadlineExceeded:
            return None
        return self._decoded.read(kept.value) if kept else None


def _made_by(made: RankedList, retriever: ModelCard | None, rankers: Mapping[str, ModelCard]) -> bool:
    """Whether these models have made it, which the key names; others have, just after a deploy."""
    cold = made.found.source == "popularity"
    retrieved = retriever is None or cold or retriever.name == made.found.model
    card = rankers.get(made.ranked.ranker) if made.ranked else None
    return retrieved and (card is None or made.ranked is None or card.name == made.ranked.model)


def _as_given(question: Question) -> RankedList:
    """The caller's order, where nobody can tell a better one."""
    items = [RetrievedItem(item_id=id_, score=-float(place)) for place, id_ in enumerate(question.given)]
    found = RetrieveAnswer(items=items, source="retrieval", missing_ids=[], model="", catalog="", elapsed_ms=0.0)
    return RankedList(found=found, rung="static", asked=len(items))


def _require_permutation(answer: RankAnswer, asked: Sequence[RetrievedItem]) -> None:
    given = [item.item_id for item in answer.items]
    if len(given) != len(asked) or set(given) != {item.item_id for item in asked}:
        raise BadAnswer(f"{answer.model} answered {len(given)} items that are not the {len(asked)} it was given")
