"""The queue: bounded, urgent first, never serving the dead, and no request failing for another's fault."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from services.ranking.batcher import Batcher, Ranked
from shared.candidate import Candidate, Ranking
from shared.deadline import Deadline
from shared.errors import BadAnswer, BadInput, DeadlineExceeded, Overloaded, Unavailable
from shared.history import History
from tests.fakes import FakeRanker

pytestmark = pytest.mark.anyio

POISON = 13
CANDIDATES = [Candidate(1, 0.0), Candidate(2, 0.0)]


class GatedRanker(FakeRanker):
    """Stands still until the gate opens; chokes on POISON; remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.seen: list[list[int]] = []
        self.stall = 0.0
        """Seconds before it chokes."""

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        self.entered.set()
        assert self.gate.wait(5)
        self.seen.append([history.items[0] for history in histories])
        if any(POISON in history.items for history in histories):
            time.sleep(self.stall)
            raise RuntimeError("poisoned")
        return super().rank(histories, candidates)


class Bench:
    """A batcher whose worker is held at the gate by a first job, so that what comes after it waits."""

    def __init__(self, batcher: Batcher, ends: Counter[str]) -> None:
        self.batcher, self.ends = batcher, ends
        self.ranker = GatedRanker()

    def ask(self, item: int, ranker: FakeRanker | None = None, ms: float = 5000) -> asyncio.Task[Ranked]:
        work = self.batcher.rank(ranker or self.ranker, History((item,)), CANDIDATES, Deadline.after_ms(ms))
        return asyncio.create_task(work)

    async def hold(self) -> asyncio.Task[Ranked]:
        first = self.ask(0)
        await asyncio.to_thread(self.ranker.entered.wait, 5)
        return first


@contextmanager
def bench(max_queue: int = 64, max_batch: int = 8, **bounds: Any) -> Iterator[Bench]:
    ends: Counter[str] = Counter()
    one = Bench(Batcher(max_queue, max_batch, lambda outcome: ends.update([outcome]), **bounds), ends)
    try:
        yield one
    finally:
        one.ranker.gate.set()
        one.batcher.close()


async def test_what_waits_for_one_model_runs_as_one_batch() -> None:
    with bench(max_batch=3) as one:
        first = await one.hold()
        rest = [one.ask(item) for item in (1, 2, 3, 4)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        await asyncio.gather(first, *rest)
        assert one.ranker.seen == [[0], [1, 2, 3], [4]]


@pytest.mark.parametrize(("waiting", "batches"), [(2, [1, 1]), (5, [5])])
async def test_few_are_done_one_by_one_where_a_batch_saves_nothing_and_many_are_not(
    waiting: int, batches: list[int]
) -> None:
    with bench() as one:
        first = await one.hold()
        for size in (1, 2, 5):
            one.batcher._pace(one.ranker).saw(size, 0.001 * size)
        rest = [one.ask(item) for item in range(1, waiting + 1)]
        await asyncio.sleep(0.01)
        one.batcher._pace(one.ranker).saw = lambda size, seconds: None  # type: ignore[method-assign]
        one.ranker.gate.set()
        await asyncio.gather(first, *rest)
        assert [len(seen) for seen in one.ranker.seen[1:]] == batches


async def test_models_never_share_a_batch() -> None:
    with bench() as one:
        other = FakeRanker()
        first = await one.hold()
        rest = [one.ask(1), one.ask(2, other), one.ask(3)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        await asyncio.gather(first, *rest)
        assert (one.ranker.seen, other.batches) == ([[0], [1, 3]], [1])


async def test_the_earliest_deadline_goes_first() -> None:
    with bench(max_batch=1) as one:
        first = await one.hold()
        rest = [one.ask(1, ms=9000), one.ask(2, ms=2000), one.ask(3, ms=4000)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        await asyncio.gather(first, *rest)
        assert one.ranker.seen == [[0], [2], [3], [1]]


class LinearRanker(FakeRanker):
    """As long per request as a model on a CPU: a batch saves nothing."""

    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        self.seconds = 0.05 * len(histories)
        return super().rank(histories, candidates)


async def test_a_batch_is_no_larger_than_its_most_urgent_member_can_wait_for() -> None:
    with bench() as one:
        ranker = LinearRanker()
        await one.ask(0, ranker)
        await asyncio.gather(*(one.ask(item, ranker, ms=190) for item in range(1, 7)), return_exceptions=True)
        assert one.ends["ranked"] >= 3
        assert max(ranker.batches) <= 3


async def test_who_would_be_late_behind_the_others_is_refused_at_once() -> None:
    with bench(max_batch=1) as one:
        ranker = FakeRanker(seconds=0.2)
        await one.ask(0, ranker)
        asked = [one.ask(item, ranker, ms=900) for item in range(10)]
        await asyncio.sleep(0.05)
        refused = [task for task in asked if task.done()]
        assert len(refused) >= 6
        for task in refused:
            with pytest.raises(Overloaded, match="requests waiting for the ranker"):
                await task
        assert one.ends["refused"] == len(refused)
        await asyncio.gather(*asked, return_exceptions=True)
        assert one.ends["ranked"] >= 3


async def test_who_is_more_urgent_only_waits_for_what_runs() -> None:
    with bench(max_batch=1) as one:
        ranker = FakeRanker(seconds=0.1)
        await one.ask(0, ranker)
        waiting = [one.ask(item, ranker, ms=20_000) for item in range(1, 6)]
        await asyncio.sleep(0)
        urgent = await one.ask(9, ranker, ms=500)
        assert urgent.queue_ms < 400
        await asyncio.gather(*waiting)


async def test_who_finds_nobody_is_tried_even_where_it_took_longer_before() -> None:
    with bench() as one:
        ranker = FakeRanker(seconds=0.4)
        await one.ask(0, ranker)
        ranker.seconds = 0.0
        await asyncio.sleep(0.01)
        await one.ask(1, ranker, ms=200)
        assert one.ends["ranked"] == 2


async def test_far_too_many_requests_leave_the_model_as_much_to_do_as_it_can() -> None:
    """An open loop at ten times what the model does: those who are let in are in time."""
    seconds, budget_ms = 0.02, 400.0
    with bench(max_batch=1) as one:
        ranker = FakeRanker(seconds=seconds)
        asked = []
        for item in range(1000):
            asked.append(one.ask(item, ranker, ms=budget_ms))
            await asyncio.sleep(seconds / 10)
        done = await asyncio.gather(*asked, return_exceptions=True)
        in_time = [one for one in done if isinstance(one, Ranked) and one.queue_ms + one.rank_ms <= budget_ms]
        assert len(in_time) >= 0.9 * len(ranker.batches)
        assert {type(one) for one in done} <= {Ranked, Overloaded, DeadlineExceeded}


async def test_a_full_queue_refuses_at_once() -> None:
    with bench(max_queue=2) as one:
        await one.hold()
        waiting = [one.ask(1), one.ask(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded) as refusal:
            await one.ask(3)
        assert refusal.value.retry_after_s > 0
        assert one.ends["refused"] == 1
        one.ranker.gate.set()
        await asyncio.gather(*waiting)


async def test_the_dead_make_room_in_a_full_queue() -> None:
    with bench(max_queue=2) as one:
        await one.hold()
        left, late = one.ask(1), one.ask(2, ms=20)
        await asyncio.sleep(0.03)
        left.cancel()
        await asyncio.sleep(0)
        live = one.ask(3)
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        await live
        with pytest.raises(DeadlineExceeded):
            await late


async def test_what_expired_in_the_queue_never_runs() -> None:
    with bench() as one:
        await one.hold()
        late = one.ask(1, ms=10)
        await asyncio.sleep(0.02)
        one.ranker.gate.set()
        with pytest.raises(DeadlineExceeded):
            await late
        assert one.ranker.seen == [[0]]
        assert one.ends["expired"] == 1


async def test_what_was_abandoned_never_runs() -> None:
    with bench() as one:
        first = await one.hold()
        left, stays = one.ask(1), one.ask(2)
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        one.ranker.gate.set()
        await asyncio.gather(first, stays)
        assert one.ranker.seen == [[0], [2]]
        assert one.ends["abandoned"] == 1


async def test_a_queue_of_the_abandoned_alone_leaves_the_worker_alive() -> None:
    with bench() as one:
        await one.hold()
        left = one.ask(1)
        await asyncio.sleep(0.01)
        left.cancel()
        await asyncio.sleep(0)
        one.ranker.gate.set()
        await one.ask(2)
        assert one.batcher.alive


async def test_a_poisoned_request_fails_alone() -> None:
    with bench() as one:
        first = await one.hold()
        rest = [one.ask(1), one.ask(POISON), one.ask(2)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        good, bad, good_too = await asyncio.gather(*rest, return_exceptions=True)
        await first
        assert isinstance(bad, BadAnswer)
        assert isinstance(good, Ranked)
        assert isinstance(good_too, Ranked)
        assert one.ends == {"ranked": 3, "failed": 1}


async def test_a_models_own_refusal_comes_through_as_it_is() -> None:
    with bench() as one:
        many = [Candidate(item, 0.0) for item in range(1, 30)]
        with pytest.raises(BadInput, match="20"):
            await one.batcher.rank(FakeRanker(), History((1,)), many, Deadline.after_ms(1000))


async def test_times_tell_waiting_from_ranking() -> None:
    with bench() as one:
        slow = FakeRanker(seconds=0.5)
        first = one.ask(1, slow)
        await asyncio.sleep(0.2)
        second = one.ask(2, slow)
        await first
        ranked = await second
        assert 10 < ranked.queue_ms < 490
        assert 500 <= ranked.rank_ms < 900


class FatalRanker(FakeRanker):
    def rank(self, histories: Sequence[History], candidates: Sequence[Sequence[Candidate]]) -> list[Ranking]:
        raise SystemExit


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_worker_that_dies_leaves_nobody_waiting() -> None:
    with bench() as one:
        await one.hold()
        dying, waiting = one.ask(1, FatalRanker(), ms=100), one.ask(2)
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        for job in (dying, waiting, one.ask(3)):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(job, 2)
        assert not one.batcher.alive


async def test_closing_finishes_what_runs_and_refuses_what_waits() -> None:
    with bench(max_batch=1) as one:
        first = await one.hold()
        waits = one.ask(1)
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(asyncio.to_thread(one.batcher.close))
        with pytest.raises(Unavailable):
            await waits
        one.ranker.gate.set()
        assert (await first).ranking.candidates
        await closing
        with pytest.raises(Unavailable):
            await one.ask(2)


class LongRanker(GatedRanker):
    """Item n stands for a prompt of n tokens."""

    def tokens(self, history: History, candidates: Sequence[Candidate]) -> int:
        return history.items[0]


async def test_a_batch_is_no_longer_than_its_tokens_and_who_still_fits_comes_along() -> None:
    with bench(max_batch_tokens=100) as one:
        one.ranker = LongRanker()
        first = await one.hold()
        rest = [one.ask(60, ms=2000), one.ask(50, ms=3000), one.ask(40, ms=4000), one.ask(200, ms=9000)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        await asyncio.gather(first, *rest)
        assert one.ranker.seen == [[0], [60, 40], [50], [200]]


async def test_a_queue_is_bounded_in_tokens_but_takes_any_request_alone() -> None:
    with bench(max_queue_tokens=100) as one:
        one.ranker = LongRanker()
        await one.hold()
        waiting = one.ask(500)
        await asyncio.sleep(0.01)
        assert one.batcher.waiting_tokens == 500
        with pytest.raises(Overloaded, match="1 requests of 500 tokens wait"):
            await one.ask(1)
        one.ranker.gate.set()
        await waiting


async def test_what_is_done_after_its_deadline_is_not_served() -> None:
    with bench() as one:
        first = one.ask(0, ms=50)
        await asyncio.sleep(0.1)
        one.ranker.gate.set()
        with pytest.raises(DeadlineExceeded, match="was done when no time was left"):
            await first
        assert one.ends == {"expired": 1}


async def test_after_a_batch_that_failed_nothing_runs_that_is_late() -> None:
    with bench() as one:
        await one.hold()
        rest = [one.ask(POISON), one.ask(1, FakeRanker()), one.ask(2, ms=300)]
        await asyncio.sleep(0.01)
        one.ranker.gate.set()
        one.ranker.stall = 0.4
        poisoned, other, late = await asyncio.gather(*rest, return_exceptions=True)
        assert isinstance(poisoned, BadAnswer)
        assert isinstance(other, Ranked)
        assert isinstance(late, DeadlineExceeded)
        assert [2] not in one.ranker.seen


async def test_a_batch_that_hangs_is_dead_and_nobody_is_let_in_behind_it() -> None:
    with bench(hang_s=0.2) as one:
        await one.hold()
        assert one.batcher.alive
        await asyncio.sleep(0.3)
        assert not one.batcher.alive
        assert "0.2 s is what a batch may take" in (one.batcher.why_dead() or "")
        with pytest.raises(Unavailable, match="no ranker: a batch has run for"):
            await one.ask(1)


async def test_closing_does_not_wait_for_what_hangs() -> None:
    with bench(hang_s=0.1) as one:
        await one.hold()
        await asyncio.wait_for(asyncio.to_thread(one.batcher.close), 2)
