"""Takes back by itself what does worse: a canary beside the live release, a new live release beside the one before."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from services.gateway.rollout.rollout import POLL_S, Rollout
from services.gateway.rollout.verdict import Limits, verdict
from shared.errors import BadInput, TandemError

AGAIN_S = 10.0
"""After a way back was found to be none."""

log = structlog.get_logger()


class Watch:
    def __init__(self, rollout: Rollout, limits: Limits, watch_s: float) -> None:
        """`watch_s`: for so long a release is new."""
        self._rollout = rollout
        self._limits = limits
        self._watch_s = watch_s

    @property
    def is_on(self) -> bool:
        """Whether the live release would go back by itself."""
        decided = self._rollout.decided
        is_new = decided.is_new(self._rollout.clock(), self._watch_s)
        return is_new and self._rollout.serving.live.release == decided.live

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.judge()
            except Exception:  # whatever it was, the loop must go on
                log.exception("watch")

    async def judge(self) -> None:
        await self._judge_canary()
        if self.is_on:
            await self._judge_live()

    async def _judge_canary(self) -> None:
        plan = self._rollout.serving.plan
        if plan.trial is None:
            return
        new = plan.trial.stack
        found = verdict(new.health.numbers(), plan.live.health.numbers(), self._limits)
        if found is not None:
            with suppress(BadInput):  # another gateway was faster
                await self._rollout.end_canary("watch", f"{found.cause}: {found.reason}", new.release)

    async def _judge_live(self) -> None:
        rollout = self._rollout
        found = verdict(rollout.serving.live.health.numbers(), rollout.baseline, self._limits)
        previous = rollout.decided.previous
        if found is None or previous is None:
            return
        stack = rollout.stack(previous)
        try:
            if stack is None or not stack.ready:
                raise BadInput("it is not loaded here")
            await rollout.admission.prove(stack)
        except TandemError as error:
            log.error("no way back", release=previous or None, detail=str(error), because=found.reason)
            await asyncio.sleep(AGAIN_S)
            return
        if self.is_on and rollout.decided.previous == previous:
            with suppress(BadInput):  # another gateway was faster
                await rollout.back("watch", f"{found.cause}: {found.reason}")
