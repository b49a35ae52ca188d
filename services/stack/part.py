"""One process of the stack: what it runs, what must be healthy before it starts, and when it is healthy itself."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import httpx

Probe = Callable[[], Awaitable[bool]]
PROBE_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """needs: what is healthy, or done, before this starts.  probe: whether it is healthy; None: it runs once, and is
    done when it exits with 0.  given: written to its standard input, where no other process can read it."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    probe: Probe | None = None
    given: str = ""


def answers(url: str) -> Probe:
    """GET answers 200."""

    async def probe() -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=PROBE_S) as client:
                return (await client.get(url)).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    return probe


def pongs(url: str) -> Probe:
    """Redis answers PING, its data loaded."""

    async def probe() -> bool:
        from redis.asyncio import Redis
        from redis.exceptions import RedisError

        try:
            async with Redis.from_url(url, socket_timeout=PROBE_S, socket_connect_timeout=PROBE_S) as client:
                return bool(await client.ping())
        except (RedisError, OSError):
            return False

    return probe
