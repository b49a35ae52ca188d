"""How often a key may ask: the sliding window counter of `limits`, in Redis where all gateways count together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from limits import RateLimitItem
from limits import parse as parse_limit
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter as Counter

from services.http.caller import Caller
from shared.errors import BadInput, RateLimited

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

RETRY_S = 1.0
"""A Redis that fails or takes longer is left alone for so long."""
MAX_PENDING = 64
BLOCK = 100
"""A hundredth of the limit is taken at a time, or what it gives in a second if that is less: one round trip to Redis
costs as much as the rest of the door, the log and the metrics together. What a process took and did not use within a
second lapses."""
LAPSE_S = 1.0
REFUSED_S = 0.05
"""A key over its limit is refused without a look at the counters for so long."""
NAMESPACE = "tandem:rate"

T = TypeVar("T")
log = structlog.get_logger()


def parse(rate: str) -> RateLimitItem:
    """Raises ValueError."""
    try:
        item = parse_limit(rate)
    except ValueError:
        raise ValueError(f"{rate!r} is no rate; give it as 100/second, 5000/minute or 1000/hour") from None
    if item.amount < 1:
        raise ValueError(f"{rate!r} allows nothing; revoke the key instead")
    return item


@dataclass(slots=True)
class Allowance:
    """What this process may let in of one key without counting again, or until when it lets nothing in."""

    rate: str
    item: RateLimitItem
    left: int = 0
    lapses_at: float = 0.0
    refused_until: float = 0.0
    retry_at: float = 0.0


class Rates:
    """Counted in this process alone where there is no Redis, and while it does not answer."""

    def __init__(self, redis_url: str | None = None, timeout_s: float = 0.05) -> None:
        self._here = Counter(MemoryStorage())
        self._timeout_s = timeout_s
        self._pool = _pool(redis_url) if redis_url else None
        self._shared = Counter(_storage(self._pool)) if self._pool else None
        self._shared_again_at = 0.0
        self._pending = 0
        self._allowances: dict[str, Allowance] = {}

    async def take(self, caller: Caller) -> None:
        """Lets one request in. Raises RateLimited."""
        mine, now = self._allowance(caller), time.monotonic()
        if now < mine.refused_until:
            raise _refusal(mine, now)
        if now >= mine.lapses_at:
            mine.left = 0
        if mine.left > 0:
            mine.left -= 1
            return
        item = mine.item
        # No more than the rate gives until it lapses: else who asks now and then would pay for what nobody used.
        block = max(1, min(item.amount // BLOCK, int(item.amount * LAPSE_S / item.get_expiry())))
        if block > 1 and await self._ask(lambda counter: counter.hit(item, caller.key_id, cost=block)):
            mine.left += block - 1
            mine.lapses_at = now + LAPSE_S
        elif not await self._ask(lambda counter: counter.hit(item, caller.key_id)):
            window = await self._ask(lambda counter: counter.get_window_stats(item, caller.key_id))
            mine.retry_at = now + window.reset_time - time.time()
            mine.refused_until = now + REFUSED_S
            raise _refusal(mine, now)

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.disconnect()

    def _allowance(self, caller: Caller) -> Allowance:
        mine = self._allowances.get(caller.key_id)
        if mine is None or mine.rate != caller.rate:
            assert caller.rate is not None, "the door asks for keys that have a rate"
            mine = self._allowances[caller.key_id] = Allowance(caller.rate, parse(caller.rate))
        return mine

    async def _ask(self, question: Callable[[Counter], Awaitable[T]]) -> T:
        if self._shared is not None and self._pending < MAX_PENDING and time.monotonic() >= self._shared_again_at:
            self._pending += 1
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await question(self._shared)
            except Exception as error:  # what answers may be no Redis, and then its client raises whatever comes to it
                self._shared_again_at = time.monotonic() + RETRY_S
                log.warning("rates are counted in this process alone", error=type(error).__name__)
            finally:
                self._pending -= 1
        return await question(self._here)


def _pool(url: str) -> ConnectionPool:
    """Raises BadInput for a URL that is none, without showing it."""
    # Imported here: a process without Redis does without the half second that its client takes to load.
    from redis.asyncio import ConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    once = Retry(NoBackoff(), 0)  # the count in this process is at hand
    # The one time limit is ours.
    try:
        return ConnectionPool.from_url(
            url, retry=once, socket_timeout=None, socket_connect_timeout=None, max_connections=MAX_PENDING
        )
    except ValueError:
        raise BadInput("TANDEM_REDIS_URL is not a Redis URL; write redis://[user:password@]host[:port][/db]") from None


def _storage(pool: ConnectionPool) -> RedisStorage:
    # The address only says which client: the pool has the connections.
    options: dict[str, Any] = {"connection_pool": pool}
    return RedisStorage("async+redis://", implementation="redispy", key_prefix=NAMESPACE, **options)


def _refusal(mine: Allowance, now: float) -> RateLimited:
    wait_s = max(1.0, mine.retry_at - now)
    return RateLimited(f"more than the agreed {mine.rate}; try again in {wait_s:.0f} s", wait_s)
