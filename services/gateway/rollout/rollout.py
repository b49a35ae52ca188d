"""Turns what is decided into what is served. Every gateway reads the decision, brings the releases that it names, and
swaps once they have shown that they answer; until then it serves on as before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

import structlog
from pydantic import ValidationError

from services.gateway.rollout import state
from services.gateway.rollout.admission import Admission
from services.gateway.rollout.assignment import Split
from services.gateway.rollout.health import Numbers
from services.gateway.rollout.metrics import Rollouts
from services.gateway.rollout.state import STARTED, By, Canary, Decided, Step
from services.gateway.rollout.stores import RolloutStore
from services.gateway.serving import Plan, Serving, Trial
from services.gateway.stack import Build, Stack
from shared.errors import Overloaded, TandemError, Unavailable
from shared.wire.rollout import ServeRequest

POLL_S = 0.5
"""What one gateway decides, the others serve so soon; half of what a way back may take."""
RETRY_S = 1.0
RETRY_AT_MOST_S = 30.0
RETIRE_S = 120.0
"""After the last change: no request is under way any more that took an older plan, at any gateway."""
TRIES = 5
SHARE = 0.1

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Rollout:
    """`build` makes a stack over the ports of a release."""

    serving: Serving
    admission: Admission
    build: Build
    store: RolloutStore
    metrics: Rollouts
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    decided: Decided = field(default_factory=Decided)
    unsaved: bool = False
    """What was decided here stands in no store yet."""
    baseline: Numbers = field(default_factory=Numbers)
    """Of the release that was live before, at its last moment here."""
    problems: dict[str, str] = field(default_factory=dict)
    """By release: why it could not be brought yet."""
    _raw: bytes | None = None
    """As the store last held it."""
    _stacks: dict[str, Stack] = field(init=False)
    _bringing: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _retired: set[str] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self._stacks = {self.serving.live.release: self.serving.live}
        self.metrics.decided(self.decided)

    # What operators ask for

    async def serve(self, wanted: ServeRequest) -> None:
        """Nothing has changed where it raises: BadInput, UnknownRelease, BadArtifact, BadAnswer, Unavailable or
        DeadlineExceeded."""
        release, step = wanted.release, self._step(wanted)
        step(self.decided)
        beside = None if wanted.role == "shadow" else self.serving.live
        try:
            try:
                stack = await self.admission.stack(release, self._stacks.get(release), beside, wanted.drop)
            except Overloaded:  # the services hold as many as they may
                await asyncio.gather(*map(self.admission.unload, self._idle() - {release}))
                stack = await self.admission.stack(release, self._stacks.get(release), beside, wanted.drop)
            await self._decide(step, stack)
        except TandemError as error:
            self.metrics.refused.inc()
            log.warning("release refused", release=release, role=wanted.role, reason=str(error))
            if release not in self.decided.releases():
                self._start(self.admission.unload(release))
            raise

    async def back(self, by: By = "operator", reason: str = "") -> None:
        """Raises BadInput where nothing was live before, or another gateway has gone back meanwhile. Also while the
        store does not answer: then here alone, and everywhere once it does."""
        await self._decide(state.back(self.clock(), by, reason, self.decided.live), urgent=True)

    async def end_canary(self, by: By = "operator", reason: str = "", release: str | None = None) -> None:
        """Raises BadInput where there is none. Also while the store does not answer."""
        await self._decide(state.without_canary(self.clock(), by, reason, release), urgent=True)

    async def end_shadow(self) -> None:
        """Raises BadInput where there is none."""
        await self._decide(state.without_shadow(self.clock()), urgent=True)

    def _step(self, wanted: ServeRequest) -> Step:
        if wanted.role == "live":
            return state.live(wanted.release, self.clock())
        if wanted.role == "shadow":
            return state.shadow(wanted.release, self.clock())
        share = SHARE if wanted.share is None else wanted.share
        canary = Canary(release=wanted.release, share=share, experiment=wanted.experiment or wanted.release)
        return state.canary(canary, self.clock())

    async def _decide(self, step: Step, stack: Stack | None = None, urgent: bool = False) -> None:
        for turn in range(TRIES):
            try:
                if await self._decided(step, stack, urgent):
                    return
            except Unavailable:
                # Redis may be busy for a moment, and the release has taken minutes to load.
                if turn + 1 == TRIES:
                    raise
                await asyncio.sleep(POLL_S)
        raise Unavailable("other gateways are changing the rollout; look at GET /admin/models and try again")

    async def _decided(self, step: Step, stack: Stack | None, urgent: bool) -> bool:
        """False where another gateway has decided something meanwhile, which is read by then."""
        async with self._lock:
            new = step(self.decided)
            if new == self.decided:
                return True
            raw: bytes | None = new.model_dump_json().encode()
            unsaved = False
            try:
                if not await self.store.swap(self._raw, raw or b""):
                    await self._read()
                    return False
            except Unavailable:
                if not urgent:
                    raise
                unsaved, raw = True, self._raw
            if stack is not None:
                self._stacks[stack.release] = stack
            self.unsaved = unsaved
            self._heed(new, raw)
            self._tell(new)
            return True

    def _tell(self, new: Decided) -> None:
        change = new.history[-1]
        self.metrics.changed(change)
        level = log.warning if change.by == "watch" else log.info
        level("rollout", what=change.what, release=change.release, by=change.by, reason=change.reason)

    # What all gateways do

    async def start(self) -> None:
        """Before anything is answered. Without a store that answers, what the services started with is live."""
        with suppress(TandemError):
            await self.look()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.look()
                self._retire()
            except TandemError as error:
                log.debug("rollout not read", error=str(error))
            except Exception:  # whatever it was, the loop must go on
                log.exception("rollout")

    async def look(self) -> None:
        """Raises Unavailable; then what was decided before still is."""
        async with self._lock:
            await self._read()

    async def _read(self) -> None:
        raw = await self.store.read()
        if raw is None or (raw == self._raw and self.unsaved):
            # A store that has lost its memory is told again.
            self._raw = raw
            if self.decided.history and await self.store.swap(raw, ours := self.decided.model_dump_json().encode()):
                self._raw, self.unsaved = ours, False
                self.metrics.unsaved.set(0)
            return
        if raw == self._raw:
            return
        try:
            decided = Decided.model_validate_json(raw)
        except ValidationError as error:
            self._raw = raw
            log.error("the rollout cannot be read; it stays as it is", faults=error.error_count())
            return
        self.unsaved = False
        self._heed(decided, raw)

    def _heed(self, decided: Decided, raw: bytes | None) -> None:
        self.decided, self._raw = decided, raw
        self.metrics.decided(decided)
        self.metrics.unsaved.set(self.unsaved)
        self._retired -= decided.releases()
        if decided.live not in self._stacks and not self.serving.live.ready:
            # At the start there is nothing to serve on with: it answers as well as it can until it is loaded.
            self._stacks[decided.live] = self.build(decided.live)
        self._install()
        for release in decided.releases():
            if not self._ready(release):
                self._bring(release)

    def _install(self) -> None:
        """One assignment: who has begun already ends with the plan that he took."""
        now, current = self.decided, self.serving.plan
        wanted = self._stacks.get(now.live)
        live = wanted if wanted is not None and (wanted.ready or not current.live.ready) else current.live
        if live is not current.live:
            self.baseline = current.live.health.numbers()
            live.health.clear()
        self.serving.plan = Plan(live, self._trial(current.trial), self._ready(now.shadow))
        self.metrics.serving(live.release)
        kept = now.releases() | {live.release}
        self._stacks = {release: stack for release, stack in self._stacks.items() if release in kept}

    def _trial(self, current: Trial | None) -> Trial | None:
        canary = self.decided.canary
        stack = self._ready(canary.release) if canary else None
        if canary is None or stack is None:
            return None
        if current is None or current.stack is not stack:
            stack.health.clear()
        return Trial(stack, Split(canary.experiment, canary.share), canary.experiment)

    def _ready(self, release: str | None) -> Stack | None:
        stack = self._stacks.get(release) if release is not None else None
        return stack if stack is not None and stack.ready else None

    def stack(self, release: str) -> Stack | None:
        return self._stacks.get(release)

    def stacks(self) -> Iterable[Stack]:
        return tuple(self._stacks.values())

    # Bringing releases, again where a service has lost them, and letting go of those that nobody needs

    def lost(self, release: str) -> None:
        """A service says that it has not loaded it. Loaded again at once, and then at most once per RETRY_S."""
        if release in self.decided.releases():
            self._bring(release)

    def _bring(self, release: str) -> None:
        if release not in self._bringing:
            task = self._bringing[release] = self._start(self._until_brought(release))
            task.add_done_callback(partial(self._ended, release))

    def _ended(self, release: str, task: asyncio.Task[None]) -> None:
        """It may have been given up and decided again while the last one rested."""
        self._bringing.pop(release, None)
        if not task.cancelled() and release in self.decided.releases() and not self._ready(release):
            self._bring(release)

    async def _until_brought(self, release: str) -> None:
        pause_s = RETRY_S
        while release in self.decided.releases():
            try:
                stack = await self._brought(release)
            except Exception as error:  # whatever it was, it is tried again
                self.problems[release] = str(error)
                log.warning("release not loaded", release=release, error=type(error).__name__, detail=str(error))
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_AT_MOST_S)
                continue
            self._stacks[release] = stack
            self._install()
            break
        self.problems.pop(release, None)
        await asyncio.sleep(RETRY_S)

    async def _brought(self, release: str) -> Stack:
        known = self._stacks.get(release)
        if known is None and release != STARTED:
            return await self.admission.stack(release)
        if release != STARTED:
            await self.admission.load(release)
        stack = known or self.build(release)
        await stack.refresh(keep=False)
        if not stack.ready:
            raise Unavailable("it is loaded, but the services do not answer yet")
        return stack

    def _retire(self) -> None:
        """Releases that were served once and are nothing any more."""
        now = self.decided
        if not now.history or (self.clock() - now.history[-1].at).total_seconds() < RETIRE_S:
            return
        for release in self._idle() - self._retired:
            self._retired.add(release)
            self._start(self.admission.unload(release))

    def _idle(self) -> set[str]:
        """Releases that this rollout has had loaded, and that are nothing any more."""
        return {one.release for one in self.decided.history if one.release} - self.decided.releases()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
