"""How the cache is kept, from the environment. Prefix TANDEM_."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pydantic import Field

from services.gateway.cache.flight import Bounds
from services.gateway.cache.layered import Layered
from services.gateway.cache.memory import MemoryCache
from services.gateway.ports import CacheStore
from services.http.settings import HttpSettings

if TYPE_CHECKING:
    from services.gateway.cache.redis import Count
    from services.gateway.state.connections import Connections

DEFAULTS = Bounds()


class CacheSettings(HttpSettings):
    cache_fresh_s: float = Field(default=60, gt=0, description="An answer is given again for so long. Seconds.")
    cache_stale_s: float = Field(
        default=600,
        ge=0,
        description="After that it is given while a new one is made, or where none can be made, for so long. Seconds.",
    )
    cache_max_bytes: int = Field(
        default=64 << 20, ge=1 << 16, description="Of the process's own memory of answers. Bytes."
    )
    cache_max_entry_bytes: int = Field(default=256 << 10, ge=1024, description="A larger answer is not kept. Bytes.")
    cache_believe_s: float = Field(
        default=2,
        ge=0,
        description="What Redis said of an answer is not asked again for so long. Seconds.",
    )
    cache_lease_ms: int = Field(
        default=DEFAULTS.lease_ms,
        ge=50,
        description="When a gateway dies while it makes an answer, others wait so long before they make it. "
        "Milliseconds.",
    )
    cache_max_flights: int = Field(
        default=DEFAULTS.flights, ge=1, description="Answers that are being made at once; one more is a 503."
    )
    cache_max_waiters: int = Field(
        default=DEFAULTS.waiters, ge=1, description="Requests that wait for one such answer; one more is a 503."
    )

    def cache_bounds(self) -> Bounds:
        return Bounds(flights=self.cache_max_flights, waiters=self.cache_max_waiters, lease_ms=self.cache_lease_ms)


def open_cache(
    connections: Connections | None,
    settings: CacheSettings,
    *,
    jitter: random.Random | None = None,
    count: Count = lambda what: None,
) -> CacheStore:
    """Over the connections of the state, guarded by a breaker, or in this process alone. Connects to nothing yet."""
    if connections is None:
        return MemoryCache(settings.cache_max_bytes, settings.cache_max_entry_bytes)
    # Imported here: a process without Redis does without the half second that its client takes to load.
    from services.gateway.cache.redis import RedisCache

    far = RedisCache(
        connections,
        jitter or random.Random(),  # noqa: S311
        max_entry_bytes=settings.cache_max_entry_bytes,
        count=count,
    )
    return Layered(
        far,
        max_bytes=settings.cache_max_bytes,
        max_entry_bytes=settings.cache_max_entry_bytes,
        believe_s=settings.cache_believe_s,
    )
