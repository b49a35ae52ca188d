"""The store in memory does not grow with what is forgotten."""

from __future__ import annotations

import pytest

from services.gateway.ports import Record
from services.gateway.state import memory
from services.gateway.state.bounds import Bounds
from services.gateway.state.memory import MemoryState
from tests.services.gateway.state.words import NOW, T, stored, took

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def held(state: MemoryState) -> tuple[int, int, int]:
    """Sessions, records, and the links from users to sessions."""
    links = sum(len(owner.sessions) for owner in state._users.values())
    return len(state._sessions), len(state._records), links


async def test_what_expired_leaves_with_the_next_call() -> None:
    clock = Clock()
    state = MemoryState(Bounds(session_ttl_s=10, record_ttl_s=20), clock=clock)
    for n in range(5):
        await state.append(T, [took(f"e{n}", "a", user_id="u1", session_id=f"s{n}")], NOW)
        await state.record(T, None, Record(f"r{n}", ("a",), "llamarec", "ranker"))
    assert held(state) == (5, 5, 5)
    clock.now = 15
    await state.append(T, [took("e9", "a", user_id="u1", session_id="s9")], NOW)
    assert held(state)[:2] == (1, 5)
    clock.now = 40
    await state.append(T, [took("e10", "a", user_id="u1", session_id="s10")], NOW)
    assert held(state) == (1, 0, 2)
    assert len((await stored(state)).items) == 7


async def test_too_many_sessions_and_records_push_the_oldest_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_SESSIONS", 3)
    monkeypatch.setattr(memory, "MAX_RECORDS", 2)
    state = MemoryState()
    for n in range(9):
        await state.append(T, [took(f"e{n}", "a", session_id=f"s{n}")], NOW)
        await state.record(T, None, Record(f"r{n}", ("a",), "llamarec", "ranker"))
    assert held(state) == (3, 2, 0)
    events = [took(f"f{n}", "a", recommendation_id=f"r{n}") for n in range(9)]
    assert len((await state.append(T, events, NOW)).clicked) == 2
