"""The list that an answer is cut from: what was retrieved, and how the ranker ordered its head. This is cached."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, ValidationError

from shared.candidate import Source
from shared.wire.base import RERANKED, Degradation, Rung
from shared.wire.inner import RankAnswer, RetrieveAnswer, RetrievedItem
from shared.wire.recommend import Because, RecommendedItem

DECODED_BYTES, ITEM_BYTES = 64 << 20, 2_500
"""Of the lists at hand: 512 of 50 items. An item takes that much in a list and an answer cut from it, with metadata."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An item at its place; `source` is what put it there."""

    item: RetrievedItem
    score: float | None
    source: str
    because: list[Because] | None = None
    ranker_score: float | None = None


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

    @cached_property
    def by_ranker(self) -> tuple[Placed, ...]:
        """The ranker's order, where there is one, then the retriever's for the rest."""
        if self.ranked is None:
            return self.by_retriever
        by_id = {one.item.item_id: one for one in self.by_retriever}
        name = self.ranked.ranker
        head = [
            Placed(by_id.pop(one.item_id).item, one.score, name, one.because, one.ranker_score)
            for one in self.ranked.items
        ]
        return (*head, *by_id.values())

    @cached_property
    def by_retriever(self) -> tuple[Placed, ...]:
        source = Source.STATIC if self.rung == "static" else Source(self.found.source)
        return tuple(Placed(item, item.score, source) for item in self.found.items)

    @cached_property
    def from_cache(self) -> RankedList:
        return self.model_copy(update={"rung": "cache"}) if self.ranked else self

    @cached_property
    def heads(self) -> dict[tuple[int, bool, frozenset[str]], list[RecommendedItem]]:
        """As they stand in answers, by how many they are, whether the ranker was trusted, and what is included."""
        return {}

    @property
    def explained(self) -> bool:
        """Whether reasons were measured, even where nothing had helped."""
        return self.ranked is None or any(one.because is not None for one in self.ranked.items)

    @property
    def lasting(self) -> bool:
        """Whether the next one who asks the same would get the same."""
        return all(reason == "cold_user" for reason, _ in self.degradation)


class Decoded:
    """Lists by their bytes, the latest ones: to decode one and put it in order takes as long as the rest of a hit."""

    def __init__(self, most_bytes: int = DECODED_BYTES) -> None:
        self._lists: LRUCache[bytes, RankedList] = LRUCache(most_bytes, getsizeof=_bytes)

    def read(self, value: bytes) -> RankedList | None:
        """None for what no version of this schema has written; a newer one may say more."""
        if kept := self._lists.get(value):
            return kept
        try:
            found = RankedList.model_validate_json(value, extra="ignore")
        except ValidationError:
            return None
        if _bytes(found) <= self._lists.maxsize:
            self._lists[value] = found
        return found


def _bytes(kept: RankedList) -> int:
    return ITEM_BYTES * (1 + len(kept.found.items))


def depth(limit: int, spare: int, most: int) -> int:
    """How many to retrieve for a `limit`, in few steps so that different limits share a cache entry."""
    wanted = max(RERANKED, limit) + spare
    step = RERANKED + spare
    return min(-(-wanted // step) * step, most)
