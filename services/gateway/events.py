"""The use cases around what users did: take events in, show what is stored of a user, forget the user."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services.gateway.cache.keys import user_prefix
from services.gateway.ports import CacheStore, Click, Histories, State, Stored, Who
from services.gateway.state.merge import merged
from shared.errors import UnknownUser
from shared.wire.base import Token
from shared.wire.users import ErasedAnswer, Event, EventsAnswer, HistoryAnswer, UserAnswer

Clicked = Callable[[Sequence[Click]], None]
"""Hears of each recommended item that was taken."""


class Users:
    """`home` is the tenant whose users the data folder holds."""

    def __init__(
        self,
        state: State,
        cache: CacheStore,
        histories: Histories,
        home: str = "default",
        clicked: Clicked = lambda clicks: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state = state
        self._cache = cache
        self._histories = histories
        self._home = home
        self._clicked = clicked
        self._clock = clock

    async def accept(self, tenant: str, events: Sequence[Event]) -> EventsAnswer:
        """Raises Unavailable, and then some of the events may be written: the same call again is safe."""
        found = await self._state.append(tenant, events, int(self._clock() * 1000))
        self._clicked(found.clicked)
        # Where a user and a session have the same id, it stands for the user.
        order = sorted(found.versions, key=lambda who: who.kind == "user")
        tokens = {who.id: token(found.versions[who]) for who in order}
        return EventsAnswer(accepted=found.accepted, duplicates=found.duplicates, tokens=tokens)

    async def read(self, tenant: str, user_id: str) -> UserAnswer:
        """Raises UnknownUser for whom no event is stored, erased users among them."""
        stored = await self._stored(tenant, user_id)
        if not stored.items and not stored.seen:
            raise UnknownUser(f"nothing is stored of user {user_id!r}; POST /events brings it")
        return UserAnswer(
            user_id=user_id,
            item_ids=list(stored.items),
            seen_item_ids=sorted(stored.seen),
            token=token(stored.version),
        )

    async def history(self, tenant: str, user_id: str) -> HistoryAnswer:
        """With what the data folder holds. Raises UnknownUser."""
        stored = await self._stored(tenant, user_id)
        base = await self._histories.get(user_id) if tenant == self._home else None
        items, _ = merged(base, [stored])
        if not items:
            raise UnknownUser(f"user {user_id!r} has no stored history; send one with the request")
        return HistoryAnswer(user_id=user_id, item_ids=list(items))

    async def erase(self, tenant: str, user_id: str) -> ErasedAnswer:
        """Also for a user of whom nothing is stored: the data folder may hold a history. Raises Unavailable, and then
        some of it may be left: the same call again is safe."""
        stored = await self._state.erase(tenant, user_id)
        cached = await self._cache.forget(user_prefix(tenant, user_id))
        return ErasedAnswer(user_id=user_id, erased_keys=stored + cached)

    async def _stored(self, tenant: str, user_id: str) -> Stored:
        snapshot = await self._state.read(tenant, [Who("user", user_id)])
        return snapshot.stored[0]


def token(version: int) -> Token:
    return f"{version:x}"
