"""Requests to one gateway over raw keep-alive connections: at a constant rate whether or not earlier ones were answered
(an open loop, as users are), or one by one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 30.0
LENGTH = b"content-length:"


@dataclass(frozen=True)
class Answered:
    """due_s: after the beginning.  took_ms: from then on.  status: 0 where the connection broke."""

    status: int
    body: dict[str, Any]
    took_ms: float
    due_s: float = 0.0

    @property
    def ranked(self) -> bool:
        """By the language model, now."""
        return self.status == 200 and self.body["rung"] == "ranker"


@dataclass
class Client:
    """As many connections as are needed at once."""

    port: int
    path: str = "/recommend"
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def ask(self, request: dict[str, Any], began: float | None = None, due_s: float = 0.0) -> Answered:
        due = due_s + (time.perf_counter() if began is None else began)
        try:
            async with asyncio.timeout(PATIENCE_S):
                status, body = await self._exchange(json.dumps(request).encode())
        except (OSError, EOFError):
            status, body = 0, b"{}"
        return Answered(status, json.loads(body), (time.perf_counter() - due) * 1000, due_s)

    async def at_rate(self, rate: float, seconds: float, request: Callable[[], dict[str, Any]]) -> list[Answered]:
        began = time.perf_counter()
        asking = []
        for place in range(round(rate * seconds)):
            due_s = place / rate
            await asyncio.sleep(max(0.0, began + due_s - time.perf_counter()))
            asking.append(asyncio.create_task(self.ask(request(), began, due_s)))
        return await asyncio.gather(*asking)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *error: object) -> None:
        while self._idle:
            _, writer = self._idle.pop()
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _exchange(self, content: bytes) -> tuple[int, bytes]:
        reader, writer = await self._connected()
        try:
            head = f"POST {self.path} HTTP/1.1\r\nHost: tandem\r\nContent-Type: application/json\r\n"
            writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(answer.split(LENGTH, 1)[1].split(b"\r\n", 1)[0])
            body = await reader.readexactly(length)
        except BaseException:
            writer.transport.abort()
            raise
        if b"connection: close" in answer:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(answer.split(b" ", 2)[1]), body

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection("127.0.0.1", self.port)
