"""What docs/operations.md says a user and an answer take in Redis is what they take."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from pydantic import SecretStr

from services.gateway.settings import GatewaySettings
from tests import fakes
from tests.deploy.manifests import ROOT
from tests.redis_server import RedisServer
from tests.services.asgi import client, embedded_app

pytestmark = [pytest.mark.real, pytest.mark.anyio]
PAGE = (ROOT / "docs" / "operations.md").read_text()
ITEMS, USERS, AT_ONCE = 2000, 60, 500
CLOSE = 0.35
"""Between versions of Redis and lengths of ids."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def documented() -> tuple[dict[int, float], float]:
    """Bytes of a user by number of events, and bytes of an answer."""
    [users] = re.findall(r"^\| Redis: one user with ([\d, ]+ events) \| (.+?) kB", PAGE, re.MULTILINE)
    counts = [int(word.replace(",", "")) for word in re.findall(r"[\d,]*\d", users[0])]
    sizes = [float(word) * 1000 for word in re.findall(r"[\d.]*\d", users[1])]
    [answer] = re.findall(r"^\| Redis: one answer that is cached and recorded \| ([\d.]+) kB", PAGE, re.MULTILINE)
    return dict(zip(counts, sizes, strict=True)), float(answer) * 1000


async def test_users_and_answers_take_what_is_documented(server: RedisServer) -> None:
    by_events, of_answer = documented()
    settings = GatewaySettings(redis_url=SecretStr(server.url), redis_timeout_ms=1000, log_level="error")
    with redis.Redis(port=server.port) as store:

        def used() -> float:
            """Of the keys themselves: the buffers of connections come and go."""
            return float(sum(store.memory_usage(key, samples=0) or 0 for key in store.scan_iter(count=1000)))

        async with client(embedded_app(settings, items=fakes.catalog(ITEMS))) as http:
            await http.post("/recommend", json={"user_id": "nobody", "timeout_ms": 9000})
            for events in by_events:
                before = used()
                for user in range(USERS):
                    await take(http, f"user-{events}-{user}", user, events)
                assert (used() - before) / USERS == pytest.approx(by_events[events], rel=CLOSE), events
            before = used()
            for user in range(USERS):
                asked = {"user_id": f"user-50-{user}", "limit": 10, "timeout_ms": 9000}
                assert (await http.post("/recommend", json=asked)).json()["cache"] == "miss"
        assert (used() - before) / USERS == pytest.approx(of_answer, rel=CLOSE)


async def take(http: httpx.AsyncClient, user_id: str, start: int, events: int) -> None:
    for first in range(0, events, AT_ONCE):
        sent = [
            {
                "event_id": f"{user_id}-{n}-0123456789abcdef",
                "user_id": user_id,
                "item_id": f"i{(7 * start + n) % ITEMS + 1}",
                "timestamp": 1_700_000_000_000 + n,
            }
            for n in range(first, min(events, first + AT_ONCE))
        ]
        assert (await http.post("/events", json={"events": sent})).status_code == 200
