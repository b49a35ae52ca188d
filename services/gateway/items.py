"""The use cases around single items: what the catalogue says of one, and whether it may be recommended now."""

from __future__ import annotations

from typing import Protocol

from services.gateway.ports import State
from shared.deadline import Deadline
from shared.errors import Unavailable
from shared.wire.users import ItemAnswer, ItemState


class Catalogue(Protocol):
    async def item(self, item_id: str, deadline: Deadline) -> ItemAnswer:
        """Raises UnknownItem."""
        ...


class Items:
    def __init__(self, state: State, retrieval: Catalogue) -> None:
        self._state = state
        self._retrieval = retrieval

    async def read(self, tenant: str, item_id: str, deadline: Deadline) -> ItemAnswer:
        """Without a state where the store does not answer. Raises UnknownItem."""
        found = await self._retrieval.item(item_id, deadline)
        try:
            states = await self._state.items(tenant)
        except Unavailable:
            return found
        return found.model_copy(update={"state": states.of(item_id) or ItemState()})

    async def set(self, tenant: str, item_id: str, state: ItemState, deadline: Deadline) -> ItemAnswer:
        """Raises UnknownItem, or BadInput for one state too many."""
        found = await self._retrieval.item(item_id, deadline)
        await self._state.set_item(tenant, item_id, state)
        return found.model_copy(update={"state": state})
