"""One worker thread owns the models, behind a bounded queue; what waits for the same model runs as one batch.

Queue and batch are bounded in requests and in tokens. There are no buckets of shapes: the engines compute prompts of
any lengths side by side without padding, so that a batch costs the sum of its tokens.

A job is let in only where what is ahead of it leaves time for it. Without that, an overloaded queue fills up to where
the most urgent job is always the one that is nearly too late, and the model works for nobody (docs/log.md).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import structlog

from services.ranking.pace import Pace
from shared.candidate import Candidate, Ranking
from shared.deadline import Deadline
from shared.errors import BadAnswer, DeadlineExceeded, Overloaded, TandemError, Unavailable
from shared.history import History
from shared.protocols import Ranker, TellsTokens

MAX_TOKENS = 8192
"""Of a batch, by default."""
HANG_S = 60.0
"""A batch that runs for as long never comes back."""
CROWD = 4
"""From so many waiting on, throughput counts: batches, also where each alone would be done sooner."""
PLANNED = 0.8
"""The share of the time left that is planned with: the rest is for the way back, and for what takes longer."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ranked:
    """queue_ms: from arrival to the start of its batch.  rank_ms: the whole batch's."""

    ranking: Ranking
    queue_ms: float
    rank_ms: float


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Cancelling `done` is how a caller who left takes the work back."""

    ranker: Ranker
    history: History
    candidates: Sequence[Candidate]
    deadline: Deadline
    tokens: int = 1
    done: Future[Ranked] = field(default_factory=Future)
    arrived: float = field(default_factory=time.perf_counter)


def tokens_of(ranker: Ranker, history: History, candidates: Sequence[Candidate]) -> int:
    """What the model has to read, where the ranker can tell; else 1."""
    return ranker.tokens(history, candidates) if isinstance(ranker, TellsTokens) else 1


Count = Callable[[str], None]
"""Hears each job's end: ranked, failed, expired, abandoned or refused."""
Ran = Callable[[list[float], float], None]
"""Hears of each batch that succeeded: how long its jobs had waited and how long it took, in seconds."""


class Batcher:
    def __init__(
        self,
        max_queue: int,
        max_batch: int,
        count: Count = lambda outcome: None,
        ran: Ran = lambda waited_s, seconds: None,
        *,
        max_queue_tokens: int = 64 * MAX_TOKENS,
        max_batch_tokens: int = MAX_TOKENS,
        hang_s: float = HANG_S,
    ) -> None:
        """hang_s: after which a batch that still runs counts as dead."""
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._count = count
        self._ran = ran
        self._max_queue_tokens = max_queue_tokens
        self._max_batch_tokens = max_batch_tokens
        self._hang_s = hang_s
        self._began: float | None = None
        """When the batch that runs was taken."""
        self._waiting: list[Job] = []
        self._paces: WeakKeyDictionary[Ranker, Pace] = WeakKeyDictionary()
        self._busy_until = 0.0
        """When the batch that runs will be done, by its pace; 0 where none runs."""
        self._changed = threading.Condition()
        self._closed = self._asked_to_close = False
        self._thread = threading.Thread(target=self._work, name="ranking", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self.why_dead() is None and not self._closed

    def why_dead(self) -> str | None:
        """What only a new process mends; None while all is well, and after `close`."""
        if not self._thread.is_alive():
            return None if self._asked_to_close else "the thread that owns the models has died"
        began = self._began
        if began is not None and (ran_s := time.perf_counter() - began) > self._hang_s:
            return f"a batch has run for {ran_s:.1f} s, and {self._hang_s:g} s is what a batch may take"
        return None

    @property
    def rankers(self) -> list[Ranker]:
        """Those that were asked and are still loaded."""
        return list(self._paces)

    @property
    def waiting(self) -> int:
        """Jobs in the queue, without those that run."""
        return len(self._waiting)

    @property
    def waiting_tokens(self) -> int:
        return self._tokens()

    async def rank(
        self, ranker: Ranker, history: History, candidates: Sequence[Candidate], deadline: Deadline
    ) -> Ranked:
        """Raises Overloaded at once when the queue is full or leaves no time, DeadlineExceeded for work that came too
        late, BadAnswer when the model fails on this very request."""
        job = Job(ranker, history, candidates, deadline, tokens_of(ranker, history, candidates))
        self._put(job)
        return await asyncio.wrap_future(job.done)

    def close(self) -> None:
        """What waits is refused; what runs is finished."""
        with self._changed:
            self._asked_to_close = True
            self._refuse_waiting()
            self._changed.notify()
        self._thread.join(self._hang_s)

    def _put(self, job: Job) -> None:
        with self._changed:
            if not self.alive:
                raise _stopping() if self._closed else Unavailable(f"no ranker: {self.why_dead()}")
            if self._is_full(job):
                self._drop_dead()
            if self._is_full(job):
                self._count("refused")
                waiting = f"{len(self._waiting)} requests of {self._tokens()} tokens"
                raise Overloaded(f"{waiting} wait for the ranker, which is the bound")
            needed_s, left_s = self._needed_s(job), job.deadline.remaining_s()
            if needed_s > PLANNED * left_s:
                self._count("refused")
                times = f"it would take {needed_s * 1000:.0f} ms, and {left_s * 1000:.0f} ms are left"
                raise Overloaded(f"with {len(self._waiting)} requests waiting for the ranker {times}", needed_s)
            self._waiting.append(job)
            self._changed.notify()

    def _is_full(self, job: Job) -> bool:
        """A request alone is always let in, however long."""
        if not self._waiting:
            return False
        return len(self._waiting) >= self._max_queue or self._tokens() + job.tokens > self._max_queue_tokens

    def _tokens(self) -> int:
        return sum(job.tokens for job in self._waiting)

    def _needed_s(self, job: Job) -> float:
        """With the batch that runs and all that is more urgent. 0 for a job that finds nobody: it is always tried, so
        that a pace that was wrong is corrected."""
        if not self._waiting and not self._busy_until:
            return 0.0
        ahead = Counter([job.ranker])
        ahead.update(
            other.ranker
            for other in self._waiting
            if other.deadline.at <= job.deadline.at and not other.done.cancelled()
        )
        running_s = max(0.0, self._busy_until - time.perf_counter())
        return running_s + sum(self._pace(ranker).of_queue(jobs, self._max_batch) for ranker, jobs in ahead.items())

    def _pace(self, ranker: Ranker) -> Pace:
        return self._paces.setdefault(ranker, Pace())

    def _work(self) -> None:
        batch: list[Job] = []
        try:
            while batch := self._take():
                self._run(batch)
                batch = []  # an idle worker keeps no ranker alive that was unloaded
        finally:
            # Also where the thread dies of what is no Exception: nobody must wait for the dead.
            self._refuse_waiting()
            for job in batch:
                if not job.done.done():
                    job.done.set_exception(_stopping())

    def _take(self) -> list[Job]:
        """The most urgent live jobs that share a model, now running; empty only when closed."""
        with self._changed:
            self._busy_until, self._began = 0.0, None
            while not self._closed:
                self._drop_dead()
                if batch := self._next_batch():
                    self._began = time.perf_counter()
                    self._busy_until = self._began + self._pace(batch[0].ranker).of(len(batch))
                    return batch
                if not self._waiting:
                    self._changed.wait()
        return []

    def _next_batch(self) -> list[Job]:
        if not self._waiting:
            return []
        self._waiting.sort(key=lambda job: job.deadline.at)
        while len(self._waiting) > 1 and self._is_too_late(self._waiting[0]):
            self._refuse(self._waiting.pop(0), DeadlineExceeded("too little time is left to rank"), "expired")
        first = self._waiting[0]
        same = [job for job in self._waiting if job.ranker is first.ranker]
        calm = len(same) < CROWD and self._pace(first.ranker).prefers_one_by_one(len(same))
        batch = self._within_tokens(same[: 1 if calm else self._fitting(first)])
        self._waiting = [job for job in self._waiting if job not in batch]
        return [job for job in batch if self._starts(job)]

    def _fitting(self, first: Job) -> int:
        """Where a batch takes as long as its members one by one, as on a CPU, a full one would make all late."""
        pace, left_s = self._pace(first.ranker), first.deadline.remaining_s()
        return next((size for size in range(self._max_batch, 1, -1) if pace.of(size) <= left_s), 1)

    def _within_tokens(self, urgent: Sequence[Job]) -> list[Job]:
        """The first of them, and those after it that fit beside."""
        batch, tokens = [urgent[0]], urgent[0].tokens
        for job in urgent[1:]:
            if tokens + job.tokens <= self._max_batch_tokens:
                batch.append(job)
                tokens += job.tokens
        return batch

    def _is_too_late(self, job: Job) -> bool:
        return self._pace(job.ranker).of(1) > job.deadline.remaining_s()

    def _starts(self, job: Job) -> bool:
        """False for one that was abandoned just now."""
        starts = job.done.set_running_or_notify_cancel()
        if not starts:
            self._count("abandoned")
        return starts

    def _drop_dead(self) -> None:
        alive = []
        for job in self._waiting:
            if job.done.cancelled():
                self._count("abandoned")
            elif job.deadline.expired:
                self._refuse(job, DeadlineExceeded("no time is left: all of it went to waiting"), "expired")
            else:
                alive.append(job)
        self._waiting = alive

    def _run(self, batch: Sequence[Job]) -> None:
        began = self._began = time.perf_counter()
        try:
            rankings = batch[0].ranker.rank([job.history for job in batch], [job.candidates for job in batch])
            if len(rankings) != len(batch):
                raise BadAnswer(f"the ranker answered {len(rankings)} rankings for {len(batch)} requests")
        except Exception as error:
            self._fail(batch, error)
            return
        rank_ms = (time.perf_counter() - began) * 1000
        self._pace(batch[0].ranker).saw(len(batch), rank_ms / 1000)
        self._ran([began - job.arrived for job in batch], rank_ms / 1000)
        for job, ranking in zip(batch, rankings, strict=True):
            if job.deadline.expired:
                self._end(job, DeadlineExceeded("the ranker was done when no time was left"), "expired")
                continue
            self._count("ranked")
            job.done.set_result(Ranked(ranking, (began - job.arrived) * 1000, rank_ms))

    def _fail(self, batch: Sequence[Job], error: Exception) -> None:
        """One poisoned request must fail alone, so a batch that fails runs again one by one."""
        if len(batch) > 1:
            for job in batch:
                if job.deadline.expired:
                    self._end(job, DeadlineExceeded("no time is left after a batch that failed"), "expired")
                else:
                    self._run([job])
            return
        log.error("ranker failed", exc_info=error)
        known = isinstance(error, TandemError)
        self._count("failed")
        batch[0].done.set_exception(error if known else BadAnswer(f"the ranker failed: {type(error).__name__}"))

    def _refuse_waiting(self) -> None:
        """And whatever comes after."""
        with self._changed:
            self._closed = True
            for job in self._waiting:
                self._refuse(job, _stopping(), "refused")
            self._waiting.clear()

    def _refuse(self, job: Job, error: TandemError, outcome: str) -> None:
        if job.done.set_running_or_notify_cancel():
            self._end(job, error, outcome)

    def _end(self, job: Job, error: TandemError, outcome: str) -> None:
        self._count(outcome)
        job.done.set_exception(error)


def _stopping() -> Unavailable:
    return Unavailable("the ranking service is stopping")
