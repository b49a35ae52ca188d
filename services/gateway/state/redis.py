"""The state in Redis: one script per user and call, all of a call in one round trip."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog
from redis.exceptions import ResponseError

from services.gateway.ports import Appended, ItemStates, Record, Snapshot, Stored, Who
from services.gateway.state import keys
from services.gateway.state.arrivals import Arrival, appended, by_owner, joined, linked_sessions
from services.gateway.state.bounds import Bounds
from services.gateway.state.connections import Connections
from services.gateway.state.item_states import DEFAULT, dumped, parsed, too_many
from services.gateway.state.scripts import APPEND, ITEMS, READ, SET_ITEM, Command
from services.gateway.state.together import Together
from services.gateway.state.tombstones import Tombstones
from shared.errors import BadAnswer, Unavailable
from shared.wire.recommend import Experiment
from shared.wire.users import Event, ItemState

ONE = ord("1")
WRITE_PATIENCE = 10
"""Times the limit of a read: for a read there is an answer without it, a write can only be refused."""
KNOWN_CHANGES = 10_000
"""Changes of item states that a process which knows an older version can catch up with."""
CHUNK = 10_000

log = structlog.get_logger()


class RedisState:
    """A call that raised Unavailable may have been carried out. To send the same events again is safe, since each
    event_id counts once; to set an item's state or to erase a user again changes nothing.

    Erasing and setting are durable as far as Redis is: what `append` returned for outlives a crash of Redis with
    `appendonly yes` and `appendfsync always`, an orderly restart with `appendonly yes` alone.
    """

    def __init__(
        self, connections: Connections, bounds: Bounds | None = None, tombstones: Tombstones | None = None
    ) -> None:
        self.connections = connections
        self._bounds = bounds or Bounds()
        self._tombstones = tombstones or Tombstones()
        self._records = Together(connections.ask)
        self._known: dict[str, ItemStates] = {}
        self._fetching: dict[str, asyncio.Task[ItemStates]] = {}

    async def read(self, tenant: str, who: Sequence[Who]) -> Snapshot:
        commands: list[Command] = []
        for one in who:
            commands.append(READ.call(keys.of_owner(tenant, one)[:3]))
            # After the user: an erasure under way has left the tombstone before it takes the user away.
            if one.kind == "user":
                commands.append(self._tombstone(tenant, one.id))
        commands.append(("HGET", keys.items(tenant), ""))
        replies = iter(_none_refused(await self.connections.ask(commands)))
        with understood:
            return _snapshot(who, replies)

    def _tombstone(self, tenant: str, user_id: str) -> Command:
        return ("HGET", keys.erased(tenant), self._tombstones.name(tenant, user_id))

    async def append(self, tenant: str, events: Sequence[Event], now_ms: int) -> Appended:
        owned = by_owner(events, now_ms)
        users = [who for who in owned if who.kind == "user"]
        asked = joined(events)
        commands = [self._append(tenant, who, arrivals, events, now_ms) for who, arrivals in owned.items()]
        commands += [self._tombstone(tenant, who.id) for who in users]
        commands += [("GET", keys.record(tenant, recommendation_id)) for recommendation_id in asked]
        replies = await self.connections.ask(commands, WRITE_PATIENCE)
        written, rest = replies[: len(owned)], replies[len(owned) :]
        before, found = rest[: len(users)], rest[len(users) :]
        _none_refused(written + before)
        # The events are written: what is wrong with a record must not say otherwise.
        records = _records(dict(zip(asked, found, strict=True)))
        with understood:
            versions = {who: int(version) for who, (version, _) in zip(owned, written, strict=True)}
            versions |= {who: versions[who] + int(one or 0) for who, one in zip(users, before, strict=True)}
            accepted = {who: [new == ONE for new in flags] for who, (_, flags) in zip(owned, written, strict=True)}
            return appended(events, accepted, owned, versions, records)

    def _append(
        self, tenant: str, who: Who, arrivals: Sequence[Arrival], events: Sequence[Event], now_ms: int
    ) -> Command:
        bounds, ttl_ms = self._bounds, _ms(self._bounds.session_ttl_s)
        sessions = linked_sessions(events, who.id) if who.kind == "user" else []
        arguments: list[str | bytes | int] = [bounds.history, bounds.seen, bounds.event_ids]
        # A link is kept for longer than its session: the clock it is measured with is not Redis's.
        arguments += [0 if who.kind == "user" else ttl_ms, now_ms, 2 * ttl_ms, len(sessions), *sessions]
        for arrival in arrivals:
            kind = "dismissal" if arrival.dismissed else "interaction"
            arguments += [arrival.event_id, arrival.item_id, kind, arrival.timestamp]
        return APPEND.call(keys.of_owner(tenant, who), *arguments)

    async def erase(self, tenant: str, user_id: str) -> int:
        """With the sessions that the user's events named. The first round trip finds those sessions, and leaves the
        tombstone or is refused, before anything goes; a third one takes those that were named meanwhile."""
        user = keys.of_owner(tenant, Who("user", user_id))
        tombstone = (keys.erased(tenant), self._tombstones.name(tenant, user_id))
        find: list[Command] = [
            ("HINCRBY", *tombstone, 0),
            ("ZRANGE", user.events, -1, -1, "WITHSCORES"),
            ("ZRANGE", user.sessions, 0, -1),
        ]
        _, last, sessions = _none_refused(await self.connections.ask(find, WRITE_PATIENCE))
        with understood:
            version = int(last[1]) if last else 0
            gone = _unlinked(tenant, sessions)
        named: Command = ("ZRANGE", user.sessions, 0, -1)
        forget: list[Command] = [named, ("HINCRBY", *tombstone, version), ("UNLINK", *user), *gone]
        late, _, *counts = _none_refused(await self.connections.ask(forget, WRITE_PATIENCE))
        with understood:
            if left := _unlinked(tenant, set(late) - set(sessions)):
                counts += _none_refused(await self.connections.ask(left, WRITE_PATIENCE))
            return sum(counts)

    async def set_item(self, tenant: str, item_id: str, state: ItemState) -> int:
        value = "" if state == DEFAULT else dumped(state)
        # The first version is the time: after a loss of all data, no old version comes again for other states.
        arguments = (item_id, value, self._bounds.item_states, KNOWN_CHANGES, _ms(time.time()))
        command = SET_ITEM.call((keys.items(tenant), keys.changed(tenant)), *arguments)
        (version,) = _none_refused(await self.connections.ask([command], WRITE_PATIENCE))
        if version is None:
            raise too_many(self._bounds.item_states)
        with understood:
            return int(version)

    async def items(self, tenant: str) -> ItemStates:
        """What changed since the last call, put on top of what that one found. One flight per tenant, which goes on
        when a caller leaves: the next one finds it done."""
        task = self._fetching.get(tenant)
        if task is None:
            task = self._fetching[tenant] = asyncio.create_task(self._fetch(tenant))
            task.add_done_callback(lambda done: self._fetched(tenant, done))
        return await asyncio.shield(task)

    async def _fetch(self, tenant: str) -> ItemStates:
        known = self._known.get(tenant) or ItemStates()
        command = ITEMS.call((keys.items(tenant), keys.changed(tenant)), known.version)
        (reply,) = _none_refused(await self.connections.ask([command], WRITE_PATIENCE))
        with understood:
            version, extent, found = reply
            items = dict(known.items or {}) if extent == b"some" else {}
            for start in range(0, len(found), CHUNK):
                _take(found[start : start + CHUNK], items)
                await asyncio.sleep(0)
            return ItemStates(int(version), items)

    def _fetched(self, tenant: str, done: asyncio.Task[ItemStates]) -> None:
        del self._fetching[tenant]
        # The look at the exception also tells asyncio that somebody heard of it, where all callers have left.
        if not done.cancelled() and done.exception() is None:
            self._known[tenant] = done.result()

    async def record(self, tenant: str, user_id: str | None, record: Record) -> None:
        """Without the user, who may be erased."""
        about: dict[str, Any] = {"items": record.item_ids, "ranker": record.ranker, "rung": record.rung}
        if record.experiment is not None:
            about["experiment"] = record.experiment.model_dump()
        value = json.dumps(about)
        key = keys.record(tenant, record.recommendation_id)
        # One for each answer that is given, and nobody waits for it.
        _none_refused([await self._records.send(("SET", key, value, "PX", _ms(self._bounds.record_ttl_s)))])

    async def aclose(self) -> None:
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)
        await self.connections.aclose()


def _none_refused(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, ResponseError):
            # For the operator, who has to act; callers learn only that it does not work.
            log.error("redis refused", error=type(reply).__name__, detail=str(reply)[:300])
            raise Unavailable(f"the store refuses ({type(reply).__name__}); our log says why")
    return replies


class _Understood:
    """Raises BadAnswer for values that no process of this version wrote."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | LookupError | AttributeError):
            log.error("redis holds what we did not write", error=type(error).__name__)
            raise BadAnswer("the store holds values of another form; our log says more") from None


understood = _Understood()


def _snapshot(who: Sequence[Who], replies: Iterator[Any]) -> Snapshot:
    stored = []
    for one in who:
        version, history, seen = next(replies)
        before = next(replies) if one.kind == "user" else None
        seen_items = frozenset(seen.decode().split("\n")) if seen else frozenset()
        both = int(version) + int(before or 0)
        stored.append(Stored(_history(history.decode()), seen_items, both, erased=before is not None))
    return Snapshot(tuple(stored), int(next(replies) or 0))


def _history(text: str) -> tuple[str, ...]:
    lines = text.split("\n") if text else []
    items = tuple(lines[1::2])
    # The cheapest way to see that every other line is the 14 hexadecimal digits of an arrival.
    if len(lines) % 2 or len(bytes.fromhex("".join(lines[::2]))) != 7 * len(items):
        raise ValueError("an entry without the time of its arrival")
    return items


def _unlinked(tenant: str, sessions: Iterable[bytes]) -> list[Command]:
    """What forgets them. Raises ValueError for a name that is none."""
    return [("UNLINK", *keys.of_owner(tenant, Who("session", session.decode()))) for session in sessions]


def _take(found: Sequence[bytes], items: dict[str, ItemState]) -> None:
    for name, state in zip(found[::2], found[1::2], strict=True):
        if state and name:
            items[name.decode()] = parsed(state)
        else:
            items.pop(name.decode(), None)


def _records(found: Mapping[str, Any]) -> dict[str, Record]:
    """Those that are there and can be read."""
    return {name: record for name, json_ in found.items() if json_ and (record := _record(name, json_)) is not None}


def _record(recommendation_id: str, stored: Any) -> Record | None:
    try:
        fields = json.loads(stored)
        items, ranker, rung = tuple(fields["items"]), fields["ranker"], fields["rung"]
        part_of = fields.get("experiment")
        return Record(recommendation_id, items, ranker, rung, Experiment.model_validate(part_of) if part_of else None)
    except (ValueError, TypeError, LookupError):
        log.warning("a recommendation record cannot be read", recommendation_id=recommendation_id)
        return None


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
