"""The promise: whatever fails, and in whatever way, an answer comes in time, holds what it should and says how it was
made.

A gateway keeps it once it is ready, that is once it has seen a popularity list (before that, /readyz is a 503).

Holds what it should: distinct items, none of them had, seen, excluded, hidden or of another category, as far as the
gateway could know; and as many as were asked for, or else every item of the catalogue that is allowed. That is the same
on every rung, because the popularity list fills up what another rung leaves short. It reaches as far as that list: the
2,000 most popular items, here the whole catalogue. Of the state of users and items nothing is known while Redis fails,
but the item states that were read before; then what the answer must hold is what is allowed either way.

In time: within the budget, 10 % and 20 ms. And where nothing fails, nothing is said to fail. A process that the
machine did not let run is late, or finds another late, without a fault of its own: such an answer is asked for again,
alone, and only the third in a row counts.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from services.gateway.policy import Policy
from services.retrieval.service import RetrievalService
from shared.errors import TandemError
from shared.wire.recommend import RecommendAnswer, RecommendRequest
from shared.wire.users import Event, ItemState
from tests import fakes
from tests.services.gateway.faults import FAULTS, FOR_EVER_S, RANKING_SAYS, REDIS_SAYS, RETRIEVAL_SAYS, Faults, World

CATALOG = fakes.catalog()
IDS = [item.id for item in CATALOG.items]
EVERY_WAY = list(itertools.product(FAULTS, repeat=3))
AT_ONCE = 8
TRIES = 3
EXAMPLES = 12
"""Each in all 64 ways, which takes too long to look for a smaller one that fails."""

BASE = {"u1": ("i3", "i5"), "reader": tuple(IDS[:45]), "empty": ()}
"""What the data folder knows."""
EVENTS = [
    Event(event_id="1", user_id="fan", item_id="i7"),
    Event(event_id="2", user_id="fan", item_id="i9"),
    Event(event_id="3", user_id="fan", item_id="i30", type="dismissal"),
    Event(event_id="4", user_id="u1", item_id="i6"),
    Event(event_id="5", session_id="s1", item_id="i12"),
]
STATES = {
    "i8": ItemState(hidden=True),
    "i11": ItemState(available=False),
    "i10": ItemState(categories=["Drama"]),
    "i13": ItemState(categories=["Opera"]),
}


@dataclass(frozen=True)
class Case:
    request: RecommendRequest
    cache: Literal["cold", "warm", "stale"]
    heard: bool
    """Whether the gateway knows what the other services have loaded."""
    faults: Faults


SOME_IDS = st.lists(st.sampled_from([*IDS, "nope"]), max_size=30)
PROMOTIONS = st.one_of(
    st.builds(lambda ids, position: {"item_ids": ids, "position": position}, SOME_IDS.filter(bool), st.integers(1, 40)),
    st.builds(lambda ids, share: {"item_ids": ids, "share": share}, SOME_IDS.filter(bool), st.floats(0.05, 1)),
)
REQUESTS = st.builds(
    RecommendRequest,
    user_id=st.sampled_from(["u1", "reader", "empty", "fan", "nobody"]),
    session_id=st.sampled_from([None, "s1", "s2"]),
    history=st.none() | SOME_IDS,
    limit=st.integers(1, 40),
    ranker=st.sampled_from([None, "llamarec", "auto", "retrieval"]),
    exclude_item_ids=SOME_IDS,
    filter=st.builds(
        dict,
        categories=st.lists(st.sampled_from([*fakes.GENRES, "Opera", "None"]), max_size=2),
        availability=st.sampled_from(["available", "any"]),
    ),
    promotions=st.lists(PROMOTIONS, max_size=2),
    diversity=st.sampled_from([0, 0, 0.5, 1]),
    include=st.lists(st.sampled_from(["metadata", "explain"]), max_size=2),
    timeout_ms=st.integers(30, 300),
)
CASES = st.builds(
    Case,
    request=REQUESTS,
    cache=st.sampled_from(["cold", "warm", "stale"]),
    heard=st.booleans(),
    faults=st.builds(
        Faults,
        slow_s=st.sampled_from([FOR_EVER_S, 0.03]),
        redis_says=st.sampled_from(REDIS_SAYS),
        retrieval_says=st.sampled_from(sorted(RETRIEVAL_SAYS)),
        ranking_says=st.sampled_from(sorted(RANKING_SAYS)),
    ),
)


@pytest.fixture(scope="module")
def retrieval() -> Iterator[RetrievalService]:
    service = fakes.retrieval_service(CATALOG)
    yield service
    service.close()


@settings(max_examples=EXAMPLES, deadline=None, phases=[Phase.reuse, Phase.generate])
@given(case=CASES)
def test_whatever_fails_the_promise_is_kept(retrieval: RetrievalService, case: Case) -> None:
    asyncio.run(_in_every_way(retrieval, case))


async def _in_every_way(retrieval: RetrievalService, case: Case) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(way: Sequence[Any]) -> tuple[Case, RecommendAnswer, bool]:
        this = replace(case, faults=replace(case.faults, redis=way[0], retrieval=way[1], ranking=way[2]))
        async with gate:
            return this, *await _asked(retrieval, this)

    for this, answer, in_time in await asyncio.gather(*map(one, EVERY_WAY)):
        _require_kept(this, answer)
        for _ in range(TRIES - 1):
            if in_time and not _cries_wolf(this, answer):
                break
            answer, in_time = await _asked(retrieval, this)
            _require_kept(this, answer)
        assert in_time, f"late, again and again: {this}"
        assert not _cries_wolf(this, answer), f"cries wolf: {answer.rung} {answer.cache} {answer.degradation} {this}"


async def _asked(retrieval: RetrievalService, case: Case) -> tuple[RecommendAnswer, bool]:
    """The answer and whether it came in time."""
    policy = Policy(cache_fresh_s=0.001 if case.cache == "stale" else 60)
    world = World(retrieval, fakes.FakeHistories(**BASE), policy)
    parts = world.parts
    await parts.popular.refresh()
    if case.heard:
        await parts.loaded.refresh()
    await parts.state.append("default", EVENTS, 1)
    for item_id, state in STATES.items():
        await parts.state.set_item("default", item_id, state)
    if case.cache != "cold":
        await parts.recommender.recommend(case.request, policy.deadline(5000))
    if case.cache == "stale":
        await asyncio.sleep(0.005)
    world.fail(case.faults)
    budget_ms = case.request.timeout_ms or 0
    began = time.perf_counter()
    try:
        answer = await parts.recommender.recommend(case.request, policy.deadline(budget_ms))
        body = answer.model_dump_json(exclude_none=True)
    except TandemError as error:
        raise AssertionError(f"no answer: {error!r} {case}") from error
    took_ms = (time.perf_counter() - began) * 1000
    await world.aclose()
    return RecommendAnswer.model_validate_json(body), took_ms <= budget_ms * 1.1 + 20


def _require_kept(case: Case, answer: RecommendAnswer) -> None:
    _require_items(case, answer)
    _require_reasons(case, answer)


def _require_items(case: Case, answer: RecommendAnswer) -> None:
    ids = [item.item_id for item in answer.items]
    assert len(set(ids)) == len(ids) <= case.request.limit, case
    assert [item.rank for item in answer.items] == list(range(1, len(ids) + 1)), case
    with_state, without = _allowed(case.request, True), _allowed(case.request, False)
    known = "state_unavailable" not in answer.degradation
    may = with_state if known else with_state | without
    ghosts = set() if case.faults.retrieval != "garbage" or case.request.filter.categories else {"ghost1", "ghost2"}
    assert set(ids) <= may | ghosts, f"{set(ids) - may} must not come: {case}"
    if case.cache != "cold" and case.faults.redis_says != 0:
        assert not {"i8"} & set(ids), f"was known to be hidden: {case}"
    must = with_state if known else with_state & without
    if case.faults.retrieval == "garbage" and case.faults.retrieval_says == "another catalogue":
        must &= without  # whatever its category is there, no list of ours can tell
    assert len(ids) == case.request.limit or set(ids) >= must, f"{must - set(ids)} are missing: {case}"


def _allowed(request: RecommendRequest, state_is_known: bool) -> set[str]:
    out = {*(request.history or ()), *BASE.get(request.user_id or "", ()), *request.exclude_item_ids}
    if state_is_known:
        out |= {event.item_id for event in EVENTS if event.user_id == request.user_id}
        out |= {event.item_id for event in EVENTS if event.session_id and event.session_id == request.session_id}
    allowed = set()
    for item in CATALOG.items:
        state = STATES.get(item.id, ItemState()) if state_is_known else ItemState()
        categories = set(item.categories if state.categories is None else state.categories)
        there = not state.hidden and (state.available or request.filter.availability == "any")
        wanted = not request.filter.categories or categories & set(request.filter.categories)
        if there and wanted and item.id not in out:
            allowed.add(item.id)
    return allowed


RANKER_REASONS = {"ranker_timeout", "ranker_unavailable", "ranker_overloaded", "low_confidence"}


def _require_reasons(case: Case, answer: RecommendAnswer) -> None:
    """Each rung below the best one has its reason, and each reason its effect."""
    reasons, faults = set(answer.degradation), case.faults
    told = f"{answer.rung} {answer.cache} {answer.degradation} {case}"
    assert answer.degraded == bool(reasons), told
    assert len(reasons) == len(answer.degradation), told
    match answer.rung:
        case "ranker" | "cache":
            assert not reasons & RANKER_REASONS, told
        case "retrieval":
            by_choice = case.request.ranker in ("retrieval", "auto")
            nothing_to_rank = not any(item.source == "retrieval" for item in answer.items)
            assert by_choice or nothing_to_rank or reasons & RANKER_REASONS, told
        case "popularity" | "static":
            assert reasons & {"cold_user", "retrieval_unavailable"}, told
        case "stale":
            assert reasons >= {"stale_cache", "retrieval_unavailable"}, told
    filled = any(item.source in ("popularity", "static") for item in answer.items)
    assert not filled or reasons & {"cold_user", "retrieval_unavailable"} or _states_add(case.request), told
    if faults.redis == "down" or (faults.redis == "slow" and faults.slow_s == FOR_EVER_S):
        assert "state_unavailable" in reasons, told


def _cries_wolf(case: Case, answer: RecommendAnswer) -> bool:
    """Whether it names a fault where there is none, and was given time enough to see that."""
    faults = case.faults
    nothing_fails = (faults.redis, faults.retrieval, faults.ranking) == ("none", "none", "none")
    return nothing_fails and case.request.timeout_ms > 200 and not set(answer.degradation) <= {"cold_user"}


def _states_add(request: RecommendRequest) -> bool:
    """Whether an item has a wanted category only by its state, which retrieval does not know."""
    return bool({"Drama", "Opera"} & set(request.filter.categories))
