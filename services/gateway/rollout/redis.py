"""What is decided, in Redis: one value that all gateways read, and that none overwrites unread."""

from __future__ import annotations

from redis.exceptions import ResponseError

from services.gateway.state.connections import Connections
from shared.errors import Unavailable

KEY = "td1:rollout"
"""Of no tenant: those have a colon after their name."""
PATIENCE = 10
"""Times the limit of a read: there is no answer without this one."""
SWAP = """
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


class RedisStore:
    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def read(self) -> bytes | None:
        (found,) = await self._connections.ask([("GET", KEY)])
        if found is not None and not isinstance(found, bytes):
            raise Unavailable(f"Redis does not give {KEY}: {found}")
        return found

    async def swap(self, old: bytes | None, new: bytes) -> bool:
        (done,) = await self._connections.ask([("EVAL", SWAP, 1, KEY, old or b"", new)], PATIENCE)
        if isinstance(done, ResponseError):
            raise Unavailable(f"Redis does not take {KEY}: {done}")
        return bool(done == 1)
