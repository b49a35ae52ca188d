"""A user who is erased leaves nothing in Redis, and gets nothing from before."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from services.gateway.cache.keys import user_prefix
from services.gateway.cache.redis import RedisCache
from services.gateway.events import Users
from services.gateway.state.connections import Connections
from services.gateway.state.redis import RedisState
from shared.deadline import Deadline
from shared.errors import Unavailable
from shared.wire.recommend import RecommendRequest
from shared.wire.users import Event
from tests import fakes
from tests.redis_server import RedisServer
from tests.services.gateway.parts import Failing, Parts, ask

pytestmark = pytest.mark.anyio
PATIENT_S = 5.0


def names(server: RedisServer) -> set[str]:
    """But for leases, which a flight gives back only after its answer was given."""
    lines = server.command("KEYS", "*").decode().splitlines()
    return {line for line in lines if not line.startswith(("$", "*")) and not line.endswith(":lease")}


async def test_a_scan_finds_nothing_of_an_erased_user(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        connections = Connections(server.url, PATIENT_S)
        parts = await Parts(
            Failing(),
            state=RedisState(connections),
            cache=RedisCache(connections, random.Random(0), max_entry_bytes=1 << 20),
            histories=fakes.histories(),
        ).started()
        users = Users(parts.state, parts.cache, parts.histories)
        for user in ("u1", "u2"):
            await users.accept("default", [Event(event_id="e", user_id=user, item_id="i7")])
            asked = RecommendRequest(user_id=user)
            await parts.recommender.recommend(asked, Deadline.after_ms(5000))
        await parts.records.aclose()
        cached = {user: user_prefix("default", user) for user in ("u1", "u2")}
        assert all(any(name.startswith(prefix) for name in names(server)) for prefix in cached.values())
        before = names(server)
        erased = await users.erase("default", "u1")
        after = names(server)
        assert not any(name.startswith(cached["u1"]) for name in after)
        assert any(name.startswith(cached["u2"]) for name in after)
        assert len(before - after) == erased.erased_keys >= 2
        await connections.aclose()


async def test_when_retrieval_is_down_an_erased_user_does_not_get_the_ranking_of_before() -> None:
    retrieval = Failing()
    parts = await Parts(retrieval).started()
    users = Users(parts.state, parts.cache, parts.histories)
    await ask(parts)
    retrieval.error = Unavailable("down")
    await users.accept("default", [Event(event_id="e", user_id="u1", item_id="i7")])
    assert (await ask(parts)).rung == "stale"
    await users.erase("default", "u1")
    assert (await ask(parts)).rung == "popularity"
