"""The list that an answer is cut from: what was retrieved, and how the ranker ordered its head. This is cached."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from shared.wire import RERANKED, Degradation, RankAnswer, RetrieveAnswer, Rung


class RankedList(BaseModel):
    """degradation: what went wrong while it was made, with the detail for those who allow no degraded answer.

    asked: how many items retrieval was asked for; fewer found means that there are no more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    found: RetrieveAnswer
    ranked: RankAnswer | None = None
    rung: Rung
    asked: int
    degradation: list[tuple[Degradation, str]] = []

    def encoded(self) -> bytes:
        return self.model_dump_json(exclude_none=True).encode()

    @property
    def lasting(self) -> bool:
        """Whether the next one who asks the same would get the same."""
        return all(reason == "cold_user" for reason, _ in self.degradation)


def depth(limit: int, spare: int, most: int) -> int:
    """How many to retrieve for a `limit`, in few steps so that different limits share a cache entry."""
    wanted = max(RERANKED, limit) + spare
    step = RERANKED + spare
    return min(-(-wanted // step) * step, most)
