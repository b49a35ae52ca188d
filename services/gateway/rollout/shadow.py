"""A release that answers nobody: after an answer was given it is asked the same, and the two orders are compared."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import structlog

from services.gateway.policy import Policy
from services.gateway.stack import Stack
from shared.errors import TandemError
from shared.wire.base import RERANKED
from shared.wire.recommend import RecommendAnswer, RecommendRequest

AT_ONCE = 4
"""One more is dropped: the shadow takes what is left of the machine, and never a queue of it."""
KEPT = 1_000

Outcome = Literal["scored", "dropped", "failed"]
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Agreement:
    """tau: None where the two lists have fewer than two items in common.  top1: whether both begin with one item."""

    tau: float | None
    top1: bool


Hear = Callable[[Outcome, Agreement | None], None]


def kendall_tau(one: Sequence[str], other: Sequence[str]) -> float | None:
    """Kendall's tau over the items that both lists hold, each once: from -1 (turned round) to 1 (the same order)."""
    place = {item: at for at, item in enumerate(other)}
    common = [place[item] for item in one if item in place]
    pairs = len(common) * (len(common) - 1) // 2
    if not pairs:
        return None
    agreeing = sum(before < after for at, before in enumerate(common) for after in common[at + 1 :])
    return 2 * agreeing / pairs - 1


class Shadow:
    def __init__(self, policy: Policy, hear: Hear = lambda outcome, agreement: None) -> None:
        self._policy = policy
        self._hear = hear
        self._under_way: set[asyncio.Task[None]] = set()
        self._seen: deque[Agreement] = deque(maxlen=KEPT)
        self._of: str | None = None

    def compare(self, stack: Stack, request: RecommendRequest, tenant: str, answer: RecommendAnswer) -> None:
        """Returns at once. Degraded answers tell nothing about the models, and promotions nothing about the order."""
        if answer.degraded or request.promotions:
            return
        if len(self._under_way) >= AT_ONCE:
            self._hear("dropped", None)
            return
        task = asyncio.create_task(self._compare(stack, request, tenant, [item.item_id for item in answer.items]))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def lately(self, release: str) -> Sequence[Agreement]:
        return tuple(self._seen) if self._of == release else ()

    async def aclose(self) -> None:
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _compare(self, stack: Stack, request: RecommendRequest, tenant: str, given: Sequence[str]) -> None:
        asked = request.model_copy(update={"limit": max(request.limit, RERANKED), "allow_degraded": False})
        try:
            answer = await stack.recommender.consider(asked, self._policy.deadline(), tenant)
        except Exception as error:  # nobody waits for this task: it must not die unheard
            stack.health.failed()
            self._hear("failed", None)
            log.debug("shadow failed", error=type(error).__name__, exc_info=not isinstance(error, TandemError))
            return
        stack.health.answered(answer)
        found = [item.item_id for item in answer.items]
        agreement = Agreement(kendall_tau(given, found), given[:1] == found[:1])
        if self._of != stack.release:
            self._of = stack.release
            self._seen.clear()
        self._seen.append(agreement)
        self._hear("scored", agreement)
