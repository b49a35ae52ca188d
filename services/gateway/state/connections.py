"""Commands to Redis and their replies: one round trip, inside one time limit, on a connection of redis-py's.

redis-py's own client and pool would do, but spend 100 microseconds of CPU on a pipeline of three commands, where this
spends 30; and one request for a recommendation reads once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.exceptions import NoScriptError, ResponseError

from services.gateway.state.scripts import TEXTS, Command
from shared.errors import Unavailable

MAX_CONNECTIONS = 64


class Connections:
    """Connects when first asked, so that a process starts without Redis and finds it later.

    Nothing is sent twice: what was sent may have been done. A connection whose replies were not all read (a time limit,
    a caller who was cancelled, any error) is closed; one that the server closed meanwhile is not used again.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float,
        max_connections: int = MAX_CONNECTIONS,
        took: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`took` hears the seconds of each `ask` that was answered."""
        options: dict[str, Any] = dict(parse_url(url))
        self._connection_class: type[AbstractConnection] = options.pop("connection_class", Connection)
        # The one time limit is ours. Without a protocol and a driver to announce, connecting costs no round trip more.
        ours = {"socket_timeout": None, "socket_connect_timeout": None, "protocol": 2, "driver_info": None}
        self._options = options | ours
        self._timeout_s = timeout_s
        self._idle: list[AbstractConnection] = []
        self._free = asyncio.Semaphore(max_connections)
        self._closed = False
        self._took = took

    async def ask(self, commands: Sequence[Command], patience: float = 1) -> list[Any]:
        """A reply per command, as bytes, integers, lists or None; a ResponseError where Redis refused that one.
        `patience` times the time limit. Raises Unavailable."""
        try:
            async with asyncio.timeout(self._timeout_s * patience), self._free:
                began = time.perf_counter()
                replies = await self._ask(commands)
                self._took(time.perf_counter() - began)
                return replies
        except TimeoutError:
            raise Unavailable("the store does not answer in time; try again") from None
        except Exception as error:  # what answers may be no Redis, and then the parser raises whatever comes to it
            raise Unavailable(f"the store does not answer ({type(error).__name__}); try again") from error

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        connection = await self._connected()
        try:
            replies = await _exchange(connection, commands)
            # Redis forgets scripts when it restarts. What it did not know it has not run, and only that goes again.
            unknown = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if unknown:
                whole = [_with_text(commands[place]) for place in unknown]
                for place, reply in zip(unknown, await _exchange(connection, whole), strict=True):
                    replies[place] = reply
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        await self._give_back(connection)
        return replies

    async def _connected(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_connected and not await connection.can_read():
                return connection
            await connection.disconnect(nowait=True)
        connection = self._connection_class(**self._options)
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    async def _give_back(self, connection: AbstractConnection) -> None:
        if self._closed:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def aclose(self) -> None:
        self._closed = True
        while self._idle:
            await self._idle.pop().disconnect()


async def _exchange(connection: AbstractConnection, commands: Sequence[Command]) -> list[Any]:
    # Its stub asks for a tuple of one.
    packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]
    await connection.send_packed_command(b"".join(packed))
    return [await _reply(connection) for _ in commands]


async def _reply(connection: AbstractConnection) -> Any:
    # Off, since any error would close it, and a refused command leaves the connection as good as it was.
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error


def _with_text(command: Command) -> Command:
    _, sha, *rest = command
    return ("EVAL", TEXTS[str(sha)], *rest)
