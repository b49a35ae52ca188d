"""A TCP proxy on 127.0.0.1 that fails on demand, in a thread of its own; the fault may change while connections stand.

What a connection holds back while nothing passes goes on its way once it is whole again, as after a lost network. A
connection that was broken stays broken.
"""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal

from tests.redis_server import free_port

Kind = Literal["pass", "refuse", "black_hole", "delay", "cut", "garbage"]
CHUNK = 1 << 16
WAIT_S = 10
LAST_MET_S = 0.01


class Proxy:
    """`url` is of the scheme's server at `target`, by way of this. `carried` counts the bytes of its answers."""

    def __init__(self, target: int, scheme: str = "http") -> None:
        self.port = free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.carried = 0
        self._target = target
        self._kind: Kind = "pass"
        self._seconds = 0.0
        self._left = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy {target}", daemon=True)
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()
        self._ways: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.become("pass")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def become(self, kind: Kind, *, seconds: float = 0.0, after: int = 0) -> None:
        """`seconds` each piece is delayed, `after` so many bytes of answers, over all connections, it is cut."""
        self._do(self._become(kind, seconds, after))

    def _do(self, work: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.result(WAIT_S)

    async def _become(self, kind: Kind, seconds: float, after: int) -> None:
        self._kind, self._seconds, self._left = kind, seconds, after
        self._changed.set()
        self._changed = asyncio.Event()
        if kind == "refuse":
            await self._stop()
        elif self._server is None:
            self._server = await asyncio.start_server(self._meet, "127.0.0.1", self.port)

    async def _stop(self) -> None:
        if self._server is not None:
            for listening in self._server.sockets:
                self._loop.remove_reader(listening.fileno())
            await asyncio.sleep(LAST_MET_S)  # asyncio drops, unclosed, what it has accepted when the server is closed
            self._server.close()
            self._server = None
        for way in self._ways:
            way.cancel()
        await asyncio.gather(*self._ways, return_exceptions=True)
        await asyncio.sleep(0)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._ways.add(task)
        ends = [writer]
        try:
            await self._while("black_hole")
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(to_writer)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, to_writer, answers=False, other=writer))
                both.create_task(self._carry(to_reader, writer, answers=True, other=to_writer))
        except* (OSError, asyncio.CancelledError, _BrokenOff):
            pass
        finally:
            self._ways.discard(task)
            for end in ends:
                end.transport.abort()

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool, other: asyncio.StreamWriter
    ) -> None:
        while piece := await reader.read(CHUNK):
            await self._while("black_hole")
            if self._kind == "delay":
                await asyncio.sleep(self._seconds)
            if self._kind == "garbage" and not answers:
                with suppress(OSError):
                    other.write(os.urandom(256))
                    await other.drain()
                continue
            if self._kind == "cut" and answers:
                piece, self._left = piece[: self._left], max(0, self._left - len(piece))
            self.carried += len(piece) * answers  # before: who has read an answer finds it counted
            writer.write(piece)
            await writer.drain()
            if self._kind == "cut" and self._left == 0:
                raise _BrokenOff
        raise _BrokenOff

    async def _while(self, kind: Kind) -> None:
        while self._kind == kind:
            await self._changed.wait()


class _BrokenOff(Exception):
    pass
