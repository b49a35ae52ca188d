"""The state of one process, gone when it ends: for `serve all` without Redis, and for tests."""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from services.gateway.ports import Appended, ItemStates, Record, Snapshot, Stored, Who
from services.gateway.state.arrivals import Arrival, appended, by_owner, joined, linked_sessions
from services.gateway.state.bounds import Bounds
from services.gateway.state.item_states import DEFAULT, too_many
from services.gateway.state.tombstones import Tombstones
from shared.wire.users import Event, ItemState

T = TypeVar("T")
MAX_SESSIONS = 100_000
MAX_RECORDS = 100_000
"""Over all tenants; the oldest leave. Redis bounds them by time alone, memory must not grow with the traffic."""


@dataclass(slots=True)
class _Owner:
    """A user or session. history: (timestamp, arrival, item).  latest: (timestamp, item) of all that is `seen`."""

    history: list[tuple[int, int, str]] = field(default_factory=list)
    seen: dict[str, int] = field(default_factory=dict)
    latest: list[tuple[int, str]] = field(default_factory=list)
    event_ids: dict[bytes, None] = field(default_factory=dict)
    version: int = 0
    sessions: set[str] = field(default_factory=set)
    expires: float = float("inf")
    stored: Stored | None = None

    def add(self, arrivals: Sequence[Arrival], bounds: Bounds) -> list[bool]:
        accepted = [self._add(arrival) for arrival in arrivals]
        for timestamp, _, item in _overflow(self.history, bounds.history):
            self._see(item, timestamp)
        for _, item in _overflow(self.latest, bounds.seen):
            del self.seen[item]
        for event_id in list(self.event_ids)[: max(0, len(self.event_ids) - bounds.event_ids)]:
            del self.event_ids[event_id]
        self.stored = None
        return accepted

    def _add(self, arrival: Arrival) -> bool:
        if arrival.event_id in self.event_ids:
            return False
        self.event_ids[arrival.event_id] = None
        self.version += 1
        if arrival.dismissed:
            self._see(arrival.item_id, arrival.timestamp)
        else:
            insort(self.history, (arrival.timestamp, self.version, arrival.item_id))
        return True

    def _see(self, item: str, timestamp: int) -> None:
        before = self.seen.get(item)
        if before is not None and before >= timestamp:
            return
        if before is not None:
            del self.latest[bisect_left(self.latest, (before, item))]
        self.seen[item] = timestamp
        insort(self.latest, (timestamp, item))

    def read(self) -> Stored:
        if self.stored is None:
            self.stored = Stored(tuple(item for _, _, item in self.history), frozenset(self.seen), self.version)
        return self.stored


class MemoryState:
    """Atomic, since nothing in it waits."""

    connections = None
    """To Redis: there are none."""

    def __init__(
        self, bounds: Bounds | None = None, tombstones: Tombstones | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._bounds = bounds or Bounds()
        self._tombstones = tombstones or Tombstones()
        self._clock = clock
        self._users: dict[tuple[str, str], _Owner] = {}
        self._sessions: dict[tuple[str, str], _Owner] = {}
        self._erased: dict[str, int] = {}
        self._items: dict[str, ItemStates] = {}
        self._records: dict[tuple[str, str], tuple[float, Record]] = {}

    async def read(self, tenant: str, who: Sequence[Who]) -> Snapshot:
        return Snapshot(tuple(self._read(tenant, one) for one in who), self._states(tenant).version)

    def _read(self, tenant: str, who: Who) -> Stored:
        owner = self._owner(tenant, who)
        stored = owner.read() if owner else Stored()
        if not self._erased or who.kind != "user":
            return stored
        before = self._erased.get(self._tombstones.name(tenant, who.id))
        if before is None:
            return stored
        return Stored(stored.items, stored.seen, before + stored.version, erased=True)

    def _owner(self, tenant: str, who: Who) -> _Owner | None:
        kept = self._users if who.kind == "user" else self._sessions
        owner = kept.get((tenant, who.id))
        return owner if owner and owner.expires > self._clock() else None

    async def append(self, tenant: str, events: Sequence[Event], now_ms: int) -> Appended:
        owned = by_owner(events, now_ms)
        accepted = {who: self._writable(tenant, who).add(arrivals, self._bounds) for who, arrivals in owned.items()}
        for who in owned:
            if who.kind == "user":
                self._link(tenant, who.id, linked_sessions(events, who.id))
        self._leave()
        records = {id_: record for id_ in joined(events) if (record := self._record(tenant, id_)) is not None}
        versions = {who: self._read(tenant, who).version for who in owned}
        return appended(events, accepted, owned, versions, records)

    def _writable(self, tenant: str, who: Who) -> _Owner:
        owner = self._owner(tenant, who) or _Owner()
        key = (tenant, who.id)
        if who.kind == "user":
            self._users[key] = owner
        else:
            owner.expires = self._clock() + self._bounds.session_ttl_s
            self._sessions.pop(key, None)
            self._sessions[key] = owner
        return owner

    def _link(self, tenant: str, user_id: str, sessions: Sequence[str]) -> None:
        owner = self._users[tenant, user_id]
        if not owner.sessions.issuperset(sessions):
            alive = {session for session in owner.sessions if (tenant, session) in self._sessions}
            owner.sessions = alive.union(sessions)

    def _leave(self) -> None:
        """Sessions and records stand in the order in which they expire."""
        now = self._clock()
        while self._sessions:
            key, owner = next(iter(self._sessions.items()))
            if owner.expires > now and len(self._sessions) <= MAX_SESSIONS:
                break
            del self._sessions[key]
        while self._records:
            name, (expires, _) = next(iter(self._records.items()))
            if expires > now and len(self._records) <= MAX_RECORDS:
                break
            del self._records[name]

    async def erase(self, tenant: str, user_id: str) -> int:
        """With the sessions that the user's events named."""
        name = self._tombstones.name(tenant, user_id)
        owner = self._users.pop((tenant, user_id), None)
        self._erased[name] = self._erased.get(name, 0) + (owner.version if owner else 0)
        if owner is None:
            return 0
        sessions = [self._sessions.pop((tenant, session), None) for session in owner.sessions]
        return 1 + sum(session is not None for session in sessions)

    async def set_item(self, tenant: str, item_id: str, state: ItemState) -> int:
        before = self._states(tenant)
        items = dict(before.items or {})
        if state == DEFAULT:
            items.pop(item_id, None)
        elif item_id not in items and len(items) >= self._bounds.item_states:
            raise too_many(self._bounds.item_states)
        else:
            items[item_id] = state
        self._items[tenant] = ItemStates(before.version + 1, items)
        return before.version + 1

    async def items(self, tenant: str) -> ItemStates:
        return self._states(tenant)

    def _states(self, tenant: str) -> ItemStates:
        return self._items.get(tenant) or ItemStates()

    async def record(self, tenant: str, user_id: str | None, record: Record) -> None:
        """Without the user, who may be erased."""
        key = (tenant, record.recommendation_id)
        self._records.pop(key, None)
        self._records[key] = (self._clock() + self._bounds.record_ttl_s, record)
        self._leave()

    def _record(self, tenant: str, recommendation_id: str) -> Record | None:
        expires, record = self._records.get((tenant, recommendation_id), (0.0, None))
        return record if expires > self._clock() else None

    async def aclose(self) -> None:
        pass


def _overflow(ordered: list[T], bound: int) -> list[T]:
    """Takes the first ones out of it."""
    extra = max(0, len(ordered) - bound)
    out = ordered[:extra]
    del ordered[:extra]
    return out
