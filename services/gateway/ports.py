"""What the gateway needs from others. In one process the services themselves fit; over HTTP, remote.py does."""

from __future__ import annotations

from typing import Protocol

from shared.deadline import Deadline
from shared.wire import ItemAnswer, ModelList, RankAnswer, RankRequest, RetrieveAnswer, RetrieveRequest


class RetrievalPort(Protocol):
    async def retrieve(self, request: RetrieveRequest, deadline: Deadline) -> RetrieveAnswer: ...

    async def popular(self, k: int, deadline: Deadline) -> RetrieveAnswer:
        """For nobody in particular, with metadata."""
        ...

    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        """Raises UnknownItem."""
        ...

    async def models(self, deadline: Deadline) -> ModelList: ...


class RankingPort(Protocol):
    async def rank(self, request: RankRequest, deadline: Deadline) -> RankAnswer:
        """Raises UnknownRanker, CatalogMismatch, Overloaded, DeadlineExceeded or Unavailable."""
        ...

    async def models(self, deadline: Deadline) -> ModelList: ...


class Histories(Protocol):
    async def get(self, user_id: str) -> tuple[str, ...] | None:
        """Item ids, oldest first; None for a user that nobody knows."""
        ...
