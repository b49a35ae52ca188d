"""The states of histories in Redis, for all retrieval processes of one retriever, and for the next start of one.

Raw bytes behind a tag, each with a time to live. A key is a digest of a history: no user, no item can be read from it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from typing import TYPE_CHECKING

from shared.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis import Redis

    from services.retrieval.settings import RetrievalSettings

TAG = struct.pack("<4sI", b"tdst", 1)
"""What it is, and the version of its form."""
SCHEMA = b"td1:state:"
LEFT_ALONE_S = 2.0
"""After a silence Redis is not asked for so long: everybody would wait for it, one after the other."""
MAX_WAITING = 256
"""States on their way to Redis; one more is not written."""


class RedisStates:
    """A `retriever.states.Shared`. Connects when first asked, and finds Redis whenever that comes.

    read is called by the worker, and takes `timeout_s` of its time at most: the client bounds each step of a
    connection, and not the search for a name, so that reads have a thread of their own, as writes have.
    """

    def __init__(self, redis: Redis, ttl_s: int, timeout_s: float) -> None:
        self._redis, self._ttl_s, self._timeout_s = redis, ttl_s, timeout_s
        self._heard: Callable[[str], None] = lambda outcome: None
        self._silent_until = 0.0
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="states read")
        self._reading: Future[object] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="states")
        self._room = Semaphore(MAX_WAITING)

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        replies = self._in_time(lambda: self._asked(lambda: self._redis.mget([SCHEMA + key for key in keys])))
        if not isinstance(replies, list) or len(replies) != len(keys):
            return [None] * len(keys)
        return [_state(reply) for reply in replies]

    def write(self, key: bytes, state: bytes) -> None:
        if time.monotonic() >= self._silent_until and self._room.acquire(blocking=False):
            self._writer.submit(self._write, key, state)

    def watch(self, heard: Callable[[str], None]) -> None:
        self._heard = heard

    def close(self) -> None:
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._writer.shutdown(cancel_futures=True)
        self._redis.close()

    def _write(self, key: bytes, state: bytes) -> None:
        self._room.release()
        self._asked(lambda: self._redis.set(SCHEMA + key, TAG + state, ex=self._ttl_s))

    def _in_time(self, read: Callable[[], object]) -> object:
        if self._reading is not None and not self._reading.done():
            return None
        self._reading = self._reader.submit(read)
        try:
            return self._reading.result(self._timeout_s)
        except TimeoutError:
            self._fell_silent()
            return None

    def _asked(self, command: Callable[[], object]) -> object:
        """None where Redis does not answer, or not what it should."""
        from redis.exceptions import RedisError

        if time.monotonic() < self._silent_until:
            return None
        try:
            return command()
        except (RedisError, OSError, ValueError):  # what answers may be no Redis
            self._fell_silent()
            return None

    def _fell_silent(self) -> None:
        now = time.monotonic()
        if now >= self._silent_until:
            self._heard("unavailable")
        self._silent_until = now + LEFT_ALONE_S


def _state(reply: object) -> bytes | None:
    return reply[len(TAG) :] if isinstance(reply, bytes) and reply.startswith(TAG) else None


def open_states(settings: RetrievalSettings) -> RedisStates | None:
    """None without Redis. Raises BadInput for a URL that is none, without showing it."""
    if settings.redis_url is None:
        return None
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    timeout_s = settings.redis_timeout_ms / 1000
    try:
        redis = Redis.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            decode_responses=False,
        )
    except ValueError:
        raise BadInput(
            "TANDEM_REDIS_URL is not a Redis URL; write redis://[user:password@]host[:port][/db], or rediss:// for TLS"
        ) from None
    return RedisStates(redis, settings.states_ttl_s, timeout_s)
