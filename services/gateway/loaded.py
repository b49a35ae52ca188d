"""What the two services have loaded, as last heard: the names that stand in cache keys, and which ranker is best."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping

import structlog

from services.gateway.latency import Latency
from services.gateway.ports import RankingPort, RetrievalPort
from shared.deadline import Deadline
from shared.wire.base import RankerName
from shared.wire.inner import ModelCard, ModelList

ASK_MS = 2_000
DOUBT_S = 1.0
log = structlog.get_logger()


class Loaded:
    def __init__(self, retrieval: RetrievalPort, ranking: RankingPort, default: RankerName | None) -> None:
        """`default` is the operator's, before the ranking service's own."""
        self._retrieval, self._ranking, self._ours = retrieval, ranking, default
        self._theirs: RankerName | None = None
        self.retriever: ModelCard | None = None
        self.rankers: Mapping[str, ModelCard] = {}
        self.latency: dict[str, Latency] = {}
        self._heard = False
        self._doubted_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """A service that does not answer keeps the cards that it had."""
        deadline = Deadline.after_ms(ASK_MS)
        retrievers, rankers = await asyncio.gather(_models(self._retrieval, deadline), _models(self._ranking, deadline))
        if retrievers and retrievers.models:
            self.retriever = retrievers.models[0]
        if rankers:
            self._heard = True
            self.rankers = {card.method: card for card in rankers.models}
            self._theirs = rankers.default

    def doubt(self) -> None:
        """Somebody saw that what was heard is no longer true: it is asked again, now, and at most every DOUBT_S."""
        now = time.monotonic()
        if now >= self._doubted_at + DOUBT_S:
            self._doubted_at = now
            self._asking = asyncio.create_task(self.refresh())

    @property
    def complete(self) -> bool:
        """Both have been heard at least once."""
        return self.retriever is not None and self._heard

    @property
    def default(self) -> RankerName | None:
        """None until the ranking service has said what its own is."""
        return self._ours or self._theirs

    def of(self, ranker: str) -> Latency:
        return self.latency.setdefault(ranker, Latency())

    def best(self, remaining_ms: float) -> RankerName:
        """The ranker that gained most over the retriever on validation and whose usual time fits; the retriever's order
        where none does. One without weight in its blend would only say that order again."""
        fitting = [
            card
            for card in self.rankers.values()
            if card.metrics.get("blend") != 0 and self.of(card.method).serves(remaining_ms)
        ]
        best = max(fitting, key=_gain, default=None)
        return best.method if best else "retrieval"  # type: ignore[return-value]


def _gain(card: ModelCard) -> float:
    found = card.metrics.get("blend_gain")
    return float(found) if isinstance(found, int | float) else 0.0


async def _models(port: RetrievalPort | RankingPort, deadline: Deadline) -> ModelList | None:
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await port.models(deadline)
    except Exception as error:  # whatever it was, the loop must go on
        log.warning("models not refreshed", error=type(error).__name__)
        return None
