"""Whatever comes in whatever order, both stores hold what a few lines of plain Python say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.ports import State, Stored, Who
from services.gateway.state.bounds import Bounds
from services.gateway.state.memory import MemoryState
from shared.wire.users import Event
from tests.redis_server import RedisServer
from tests.services.gateway.state.conftest import redis_state
from tests.services.gateway.state.words import NOW, S1, U1, T

SMALL = Bounds(history=4, seen=3, event_ids=8)
EVENTS = st.builds(
    Event,
    event_id=st.integers(0, 30).map(str),
    user_id=st.just("u1"),
    session_id=st.sampled_from([None, "s1"]),
    item_id=st.sampled_from(["a", "b", "c", "d", "é", "f:g"]),
    type=st.sampled_from(["interaction", "interaction", "dismissal"]),
    timestamp=st.one_of(st.none(), st.integers(0, 9), st.just(1 << 53), st.just(NOW)),
)
BATCHES = st.lists(st.lists(EVENTS, min_size=1, max_size=12), max_size=8)

Run = Callable[[Bounds, Callable[[State], Awaitable[None]]], None]


@pytest.fixture(params=["memory", "redis"], scope="module")
def run(request: pytest.FixtureRequest, server: RedisServer) -> Run:
    """Runs a scenario on a store that is empty at first."""

    async def on_one(bounds: Bounds, scenario: Callable[[State], Awaitable[None]]) -> None:
        state: State = MemoryState(bounds) if request.param == "memory" else redis_state(server, bounds)
        await scenario(state)
        await state.aclose()

    def one(bounds: Bounds, scenario: Callable[[State], Awaitable[None]]) -> None:
        server.command("FLUSHALL")
        asyncio.run(on_one(bounds, scenario))

    return one


class Plain:
    """One user or session, kept in the simplest way."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.known: list[str] = []
        self.taken: list[tuple[int, int, str]] = []
        self.seen: dict[str, int] = {}
        self.version = 0

    def append(self, batch: Sequence[Event]) -> int:
        before = self.version
        for event in batch:
            if event.event_id in self.known:
                continue
            self.known.append(event.event_id)
            self.version += 1
            timestamp = NOW if event.timestamp is None else event.timestamp
            if event.type == "dismissal":
                self.see(timestamp, event.item_id)
            else:
                self.taken.append((timestamp, self.version, event.item_id))
        self.taken.sort()
        while len(self.taken) > self.bounds.history:
            timestamp, _, item = self.taken.pop(0)
            self.see(timestamp, item)
        while len(self.seen) > self.bounds.seen:
            del self.seen[min((timestamp, item) for item, timestamp in self.seen.items())[1]]
        self.known = self.known[-self.bounds.event_ids :]
        return self.version - before

    def see(self, timestamp: int, item: str) -> None:
        self.seen[item] = max(timestamp, self.seen.get(item, 0))

    def stored(self) -> Stored:
        return Stored(tuple(item for _, _, item in self.taken), frozenset(self.seen), self.version)


@settings(deadline=None)
@given(batches=BATCHES)
def test_a_store_is_what_plain_python_is(run: Run, batches: list[list[Event]]) -> None:
    async def scenario(state: State) -> None:
        plain = {U1: Plain(SMALL), S1: Plain(SMALL)}
        for batch in batches:
            found = await state.append(T, batch, NOW)
            accepted = plain[U1].append(batch)
            plain[S1].append([event for event in batch if event.session_id])
            assert (found.accepted, found.duplicates) == (accepted, len(batch) - accepted)
            assert (await state.read(T, [U1, S1])).stored == (plain[U1].stored(), plain[S1].stored())

    run(SMALL, scenario)


@settings(deadline=None, max_examples=50)
@given(
    order=st.permutations(range(60)),
    repeated=st.lists(st.integers(0, 59), max_size=30),
    writers=st.integers(1, 6),
)
def test_simultaneous_writers_with_duplicates_make_one_history(
    run: Run, order: list[int], repeated: list[int], writers: int
) -> None:
    sent = [*order, *repeated]
    events = [
        Event(event_id=f"e{n}", user_id=f"u{n % 2}", item_id=f"i{n}", timestamp=1000 + n) for n in sent
    ]  # times differ, so that the order of arrival does not matter

    async def scenario(state: State) -> None:
        found = await asyncio.gather(*(state.append(T, events[writer::writers], NOW) for writer in range(writers)))
        assert sum(one.accepted for one in found) == 60
        assert sum(one.duplicates for one in found) == len(repeated)
        snapshot = await state.read(T, [Who("user", "u0"), Who("user", "u1")])
        assert [one.items for one in snapshot.stored] == [
            tuple(f"i{n}" for n in range(start, 60, 2)) for start in (0, 1)
        ]

    if len(events) >= writers:
        run(Bounds(), scenario)
