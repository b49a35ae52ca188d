"""The cache out of the environment: in memory, or in front of Redis."""

from __future__ import annotations

from collections import Counter

import pytest

from services.gateway.cache.layered import Layered
from services.gateway.cache.memory import MemoryCache
from services.gateway.cache.settings import CacheSettings, open_cache
from services.gateway.state.connections import Connections
from services.http.settings import read
from shared.errors import BadInput
from tests.redis_server import RedisServer, free_port
from tests.services.gateway.cache.conftest import PATIENT_S

pytestmark = pytest.mark.anyio


async def test_without_redis_it_is_this_process_own() -> None:
    cache = open_cache(None, CacheSettings(cache_max_entry_bytes=1024))
    await cache.put("k", b"x" * 1024, 10, 10)
    await cache.put("large", b"x" * 1025, 10, 10)
    assert isinstance(cache, MemoryCache)
    assert await cache.get("k") is not None
    assert await cache.get("large") is None


async def test_with_redis_two_processes_share_it(server: RedisServer) -> None:
    settings = CacheSettings()
    connections = Connections(server.url, PATIENT_S)
    one, two = (open_cache(connections, settings) for _ in range(2))
    await one.put("k", b"v", 10, 10)
    entry = await two.get("k")
    assert isinstance(one, Layered)
    assert entry is not None
    assert entry.value == b"v"
    await connections.aclose()


async def test_what_redis_does_not_do_is_counted() -> None:
    counted: Counter[str] = Counter()
    connections = Connections(f"redis://127.0.0.1:{free_port()}/0", PATIENT_S)
    cache = open_cache(connections, CacheSettings(), count=lambda what: counted.update([what]))
    assert await cache.get("k") is None
    await cache.put("large", b"x" * (1 << 20), 10, 10)
    assert counted == {"unavailable": 1, "oversized": 1}
    await connections.aclose()


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_CACHE_LEASE_MS", "250")
    monkeypatch.setenv("TANDEM_CACHE_MAX_WAITERS", "7")
    bounds = read(CacheSettings).cache_bounds()
    assert (bounds.lease_ms, bounds.waiters) == (250, 7)
    monkeypatch.setenv("TANDEM_CACHE_FRESH_S", "0")
    with pytest.raises(BadInput, match="TANDEM_CACHE_FRESH_S"):
        read(CacheSettings)
