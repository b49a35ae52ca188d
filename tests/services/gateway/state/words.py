"""Events in few words."""

from __future__ import annotations

from typing import Any

from services.gateway.ports import State, Stored, Who
from shared.wire.users import Event

T = "tenant"
NOW = 1_700_000_000_000
U1, S1 = Who("user", "u1"), Who("session", "s1")


def took(event_id: str, item_id: str, timestamp: int | None = None, **fields: Any) -> Event:
    """By user u1 where nobody else is named."""
    who = {} if fields.keys() & {"user_id", "session_id"} else {"user_id": "u1"}
    return Event(event_id=event_id, item_id=item_id, timestamp=timestamp, **who, **fields)


def dismissed(event_id: str, item_id: str, timestamp: int | None = None, **fields: Any) -> Event:
    return took(event_id, item_id, timestamp, type="dismissal", **fields)


async def stored(state: State, who: Who = U1, tenant: str = T) -> Stored:
    (found,) = (await state.read(tenant, [who])).stored
    return found
