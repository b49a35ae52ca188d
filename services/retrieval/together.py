"""Questions that come while the worker is busy go to it together, once it is free."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Generic, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")
Work = Callable[[Sequence[Question]], Sequence[Answer | Exception]]
"""Answers several at once, in the worker; an error of one is its answer, and nobody else's."""


class Together(Generic[Question, Answer]):
    """A caller who leaves before his question is taken costs nothing."""

    def __init__(self, worker: Executor, most: int) -> None:
        self._worker, self._most = worker, most
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        self._busy = False

    async def ask(self, work: Work[Question, Answer], question: Question) -> Answer:
        """`work` is the same each time. It isn't kept: whoever owns both would outlive its last user."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if not self._busy:
            self._next(work)
        return await future

    def _next(self, work: Work[Question, Answer]) -> None:
        taken: list[tuple[Question, asyncio.Future[Answer]]] = []
        while self._waiting and len(taken) < self._most:
            question, future = self._waiting.popleft()
            if not future.done():
                taken.append((question, future))
        self._busy = bool(taken)
        if taken:
            questions, futures = zip(*taken, strict=True)
            job = asyncio.get_running_loop().run_in_executor(self._worker, work, questions)
            job.add_done_callback(partial(self._done, work, futures))

    def _done(
        self,
        work: Work[Question, Answer],
        futures: Sequence[asyncio.Future[Answer]],
        job: asyncio.Future[Sequence[Answer | Exception]],
    ) -> None:
        if job.cancelled():  # the worker is shut down
            for future in (*futures, *(future for _, future in self._waiting)):
                future.cancel()
            self._waiting.clear()
            self._busy = False
            return
        error = job.exception()
        answers = job.result() if error is None else [_as_exception(error)] * len(futures)
        for future, answer in zip(futures, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._next(work)


def _as_exception(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    return error
