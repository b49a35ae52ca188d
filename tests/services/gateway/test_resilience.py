"""The breakers of the two services, and the second question to retrieval."""

from __future__ import annotations

import asyncio

import pytest

from services.gateway.latency import ENOUGH
from services.gateway.resilience import ResilientRanking, ResilientRetrieval, at_most_twice
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, Unavailable, UnknownItem
from shared.wire.inner import RankRequest, RetrievedItem, RetrieveRequest
from tests import fakes

pytestmark = pytest.mark.anyio
RANK = RankRequest(history=["i1"], candidates=[RetrievedItem(item_id="i2", score=0.0)], catalog="c")


class Scripted:
    """Each call does the next of its steps: seconds to take, then an error to raise or a value to give."""

    def __init__(self, *steps: tuple[float, object]) -> None:
        self.steps = list(steps)
        self.calls = self.cancelled = 0

    async def __call__(self) -> object:
        seconds, end = self.steps[self.calls]
        self.calls += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(end, Exception):
            raise end
        return end


async def test_a_connection_that_breaks_is_tried_once_more() -> None:
    work = Scripted((0, Unavailable("reset")), (0, "second"))
    assert await at_most_twice(work, None) == "second"
    work = Scripted((0, Unavailable("reset")), (0, Unavailable("again")), (0, "never"))
    with pytest.raises(Unavailable, match="again"):
        await at_most_twice(work, None)
    assert work.calls == 2


@pytest.mark.parametrize("error", [Overloaded("full"), BadAnswer("nonsense"), UnknownItem("i9"), DeadlineExceeded("x")])
async def test_who_answers_is_not_asked_again(error: Exception) -> None:
    work = Scripted((0, error), (0, "never"))
    with pytest.raises(type(error)):
        await at_most_twice(work, None)
    assert work.calls == 1


async def test_a_slow_answer_is_overtaken() -> None:
    work = Scripted((30, "first"), (0, "second"))
    assert await at_most_twice(work, 0.01) == "second"
    await asyncio.sleep(0)
    assert work.cancelled == 1


async def test_a_slow_answer_may_still_come_first() -> None:
    work = Scripted((0.03, "first"), (30, "second"))
    assert await at_most_twice(work, 0.01) == "first"
    await asyncio.sleep(0)
    assert work.cancelled == 1


async def test_a_caller_who_leaves_takes_both_questions_along() -> None:
    work = Scripted((30, "first"), (30, "second"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await at_most_twice(work, 0.01)
    await asyncio.sleep(0)
    assert (work.calls, work.cancelled) == (2, 2)


async def test_second_questions_are_few_when_all_are_slow() -> None:
    port = fakes.AnsweringRetrieval()
    retrieval = ResilientRetrieval(port, failures=5, open_s=60, hedge=True)
    question = RetrieveRequest(history=["i1"])
    for _ in range(ENOUGH):
        await retrieval.retrieve(question, Deadline.after_ms(5000))
    port.asked, port._seconds = 0, 0.1
    await asyncio.gather(*(retrieval.retrieve(question, Deadline.after_ms(5000)) for _ in range(100)))
    assert 110 <= port.asked <= 120, "ten that were saved up, and a tenth"


async def test_a_retrieval_that_is_down_is_not_asked_twice_for_long() -> None:
    port = fakes.AnsweringRetrieval(lambda answer: (_ for _ in ()).throw(Unavailable("down")))
    retrieval = ResilientRetrieval(port, failures=1000, open_s=60, hedge=False)
    for _ in range(100):
        with pytest.raises(Unavailable):
            await retrieval.retrieve(RetrieveRequest(history=["i1"]), Deadline.after_ms(5000))
    assert 110 <= port.asked <= 120


async def test_an_open_breaker_asks_nobody() -> None:
    port = fakes.BrokenRanking(Unavailable("down"))
    ranking = ResilientRanking(port, failures=3, open_s=60)
    for _ in range(10):
        with pytest.raises(Unavailable):
            await ranking.rank(RANK, Deadline.after_ms(1000))
    assert port.asked == 3


async def test_a_full_queue_is_not_silence() -> None:
    port = fakes.BrokenRanking(Overloaded("full"))
    ranking = ResilientRanking(port, failures=3, open_s=60)
    for _ in range(10):
        with pytest.raises(Overloaded):
            await ranking.rank(RANK, Deadline.after_ms(1000))
    assert port.asked == 10


@pytest.mark.parametrize(("budget_ms", "asked"), [(60, 2), (20, 4)])
async def test_silence_counts_only_where_there_was_time_to_answer(budget_ms: float, asked: int) -> None:
    port = fakes.AnsweringRanking(seconds=30)
    ranking = ResilientRanking(port, failures=2, open_s=60)
    for _ in range(4):
        with pytest.raises((Unavailable, DeadlineExceeded)):
            await ranking.rank(RANK, Deadline.after_ms(budget_ms))
    assert len(port.requests) == asked


async def test_after_a_while_one_call_tries_again() -> None:
    port = fakes.AnsweringRetrieval()
    broken = ResilientRetrieval(port, failures=1, open_s=0.02, hedge=False)
    port._distort = lambda answer: (_ for _ in ()).throw(Unavailable("down"))
    question = RetrieveRequest(history=["i1"])
    with pytest.raises(Unavailable):
        await broken.retrieve(question, Deadline.after_ms(1000))
    port._distort = lambda answer: answer
    with pytest.raises(Unavailable, match="in a row"):
        await broken.retrieve(question, Deadline.after_ms(1000))
    await asyncio.sleep(0.03)
    assert (await broken.retrieve(question, Deadline.after_ms(1000))).items
