"""What waits goes together, everybody gets his own answer, and who has left is not worked for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.retrieval.service import RetrievalService
from services.retrieval.together import Together
from shared.candidate import Candidate
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded
from shared.history import History
from shared.wire.inner import ModelCard, RetrieveAnswer, RetrieveRequest
from tests import fakes

pytestmark = pytest.mark.anyio
CATALOG = fakes.catalog()
CARD = ModelCard(name="lrurec@0000aaaa", method="lrurec", catalog=CATALOG.fingerprint()[:12])


class Gate:
    """A worker that stands still until it is opened, and notes what came together."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(tuple(numbers))
        self.entered.set()
        assert self.open.wait(10)
        if 13 in numbers:
            raise RuntimeError("all of them")
        return [ValueError(str(n)) if n == 7 else 10 * n for n in numbers]


@pytest.fixture
async def worker() -> AsyncIterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


async def crowd(
    worker: ThreadPoolExecutor, numbers: Sequence[int], leave: Sequence[int] = (), most: int = 3
) -> tuple[Gate, list[int | BaseException]]:
    """The first is being answered when the others come."""
    gate, together = Gate(), Together[int, int](worker, most)
    tasks = [asyncio.create_task(together.ask(gate, numbers[0]))]
    await asyncio.sleep(0)
    await asyncio.to_thread(gate.entered.wait, 10)
    tasks += [asyncio.create_task(together.ask(gate, n)) for n in numbers[1:]]
    await asyncio.sleep(0)
    for place in leave:
        tasks[place].cancel()
    await asyncio.sleep(0)
    gate.open.set()
    return gate, await asyncio.gather(*tasks, return_exceptions=True)


async def test_those_who_wait_go_together_in_their_order_and_not_too_many(worker: ThreadPoolExecutor) -> None:
    gate, answers = await crowd(worker, [1, 2, 3, 4, 5, 6])
    assert gate.batches == [(1,), (2, 3, 4), (5, 6)]
    assert answers == [10, 20, 30, 40, 50, 60]


async def test_whoever_leaves_before_his_turn_is_not_worked_for(worker: ThreadPoolExecutor) -> None:
    gate, answers = await crowd(worker, [1, 2, 3, 4], leave=[1, 3])
    assert gate.batches == [(1,), (3,)]
    assert (answers[0], answers[2]) == (10, 30)


async def test_whoever_leaves_while_he_is_answered_leaves_the_others_theirs(worker: ThreadPoolExecutor) -> None:
    gate, answers = await crowd(worker, [1, 2], leave=[0])
    assert gate.batches == [(1,), (2,)]
    assert answers[1] == 20


async def test_the_error_of_one_is_his_alone(worker: ThreadPoolExecutor) -> None:
    _, answers = await crowd(worker, [1, 2, 7, 3])
    assert answers[:2] == [10, 20]
    assert isinstance(answers[2], ValueError)
    assert answers[3] == 30


async def test_after_a_failure_of_all_the_next_are_answered(worker: ThreadPoolExecutor) -> None:
    _, answers = await crowd(worker, [13, 2, 3])
    assert isinstance(answers[0], RuntimeError)
    assert answers[1:] == [20, 30]


async def test_when_the_worker_is_shut_down_nobody_waits_for_ever() -> None:
    worker, gate = ThreadPoolExecutor(1), Gate()
    together = Together[int, int](worker, 1)
    blocked = worker.submit(gate, (0,))
    tasks = [asyncio.create_task(together.ask(gate, n)) for n in (1, 2)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(worker.shutdown, cancel_futures=True))
    await asyncio.sleep(0.05)
    gate.open.set()
    await closing
    answers = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers)
    assert blocked.result() == [0]


class Noting(fakes.FakeRetriever):
    """Notes the size of each batch; a history that ends with item 13 breaks it, one with 7 is scored with NaN."""

    def __init__(self) -> None:
        super().__init__(len(CATALOG))
        self.batches: list[int] = []
        self.entered, self.open = threading.Event(), threading.Event()

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(len(histories))
        if any(history.items[-1] == 13 for history in histories):
            raise RuntimeError("cannot")
        found = super().retrieve(histories, k, exclude)
        return [
            [Candidate(9, float("nan"))] if history.items[-1] == 7 else one
            for history, one in zip(histories, found, strict=True)
        ]


async def served(
    *requests: RetrieveRequest, deadlines: Callable[[int], float] = lambda n: 10_000
) -> tuple[Noting, list[RetrieveAnswer | BaseException]]:
    """The first is in the worker when the others come."""
    retriever = Noting()
    service = RetrievalService(CATALOG, retriever, fakes.FakePopularity(60), CARD)
    try:
        tasks = [asyncio.create_task(service.retrieve(requests[0], Deadline.after_ms(10_000)))]
        await asyncio.sleep(0)
        await asyncio.to_thread(retriever.entered.wait, 10)
        for n, request in enumerate(requests[1:], start=1):
            tasks.append(asyncio.create_task(service.retrieve(request, Deadline.after_ms(deadlines(n)))))
        await asyncio.sleep(0.05)
        retriever.open.set()
        return retriever, await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        service.close()


async def alone(request: RetrieveRequest) -> RetrieveAnswer:
    service = fakes.retrieval_service(CATALOG)
    answer = await service.retrieve(request, Deadline.after_ms(10_000))
    service.close()
    return answer


async def test_together_everybody_gets_what_he_would_get_alone() -> None:
    requests = [
        RetrieveRequest(history=["i1"], k=3),
        RetrieveRequest(history=["i2", "i3"], k=5, exclude_item_ids=["i4"], metadata=True),
        RetrieveRequest(history=["x"], k=2),
        RetrieveRequest(history=["i9"], k=40, categories=["Horror"], vectors=True),
        RetrieveRequest(history=["i5"], k=1, exclude_item_ids=["y"]),
    ]
    retriever, answers = await served(*requests)
    assert retriever.batches == [1, 3]
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, RetrieveAnswer)
        assert answer.model_copy(update={"elapsed_ms": 0}) == (await alone(request)).model_copy(
            update={"elapsed_ms": 0}
        )


async def test_a_poisoned_history_fails_alone() -> None:
    items = ["i1", "i2", "i13", "i7", "i4"]
    retriever, answers = await served(*(RetrieveRequest(history=[item], k=3) for item in items))
    assert retriever.batches == [1, 4, 1, 1, 1, 1]
    assert isinstance(answers[2], BadAnswer)
    assert str(answers[2]) == "the retriever failed: RuntimeError"
    assert isinstance(answers[3], BadAnswer)
    for n in (0, 1, 4):
        assert isinstance(answers[n], RetrieveAnswer)


async def test_who_is_late_is_told_so_and_the_others_are_answered() -> None:
    requests = [RetrieveRequest(history=[f"i{n}"], k=3) for n in range(1, 5)]
    retriever, answers = await served(*requests, deadlines=lambda n: 1 if n == 2 else 10_000)
    assert retriever.batches == [1, 2]
    assert [isinstance(answer, DeadlineExceeded) for answer in answers] == [False, False, True, False]
