"""A load generator over keep-alive connections, in a process of its own: `python -m services.bench.load` reads a Plan
as JSON and writes what it measured as JSON.

Closed loop: each connection sends again once it is answered, which finds the throughput. Open loop: arrivals of a
Poisson process, whether or not the last ones are answered, which finds the latency that a caller sees.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import cast

import numpy as np

GRACE_S = 5.0
"""For what is under way when the time is over."""
END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """rate: arrivals a second; 0 for a closed loop.  stages: read what each answer says of itself."""

    port: int
    path: str
    bodies: list[str]
    connections: int
    seconds: float
    rate: float = 0.0
    seed: int = 0
    stages: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Milliseconds. lag_ms_p99: how late the generator itself was, which is in no latency.  stages: the mean time of
    each, by the answers' own `timing_ms`.  degraded: answers that say so.  rungs: answers by what they were made from.
    """

    requests: int
    failed: int
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    lag_ms_p99: float
    p95_ms: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    degraded: int = 0
    rungs: dict[str, int] = field(default_factory=dict)


class Connection(asyncio.Protocol):
    """One request at a time. `done` hears the connection, its latency in seconds, and whether the answer was a 200."""

    def __init__(self, done: Callable[[Connection, float, bool], None]) -> None:
        self._done = done
        self._began = 0.0
        self._buffer = b""
        self.answer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes, began: float) -> None:
        assert self._transport is not None
        self._began = began
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        head = self._buffer.find(END)
        if head < 0:
            return
        at = self._buffer.lower().index(LENGTH, 0, head) + len(LENGTH)
        length = int(self._buffer[at : self._buffer.index(b"\r", at)])
        if len(self._buffer) < head + len(END) + length:
            return
        good = self._buffer.startswith(b"HTTP/1.1 200")
        self.answer, self._buffer = self._buffer[head + len(END) :], b""
        self._done(self, time.perf_counter() - self._began, good)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


@dataclass(slots=True)
class Load:
    plan: Plan
    idle: deque[Connection] = field(default_factory=deque)
    due: deque[float] = field(default_factory=deque)
    """When the requests came that wait for a connection."""
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    requests: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    sent: int = 0
    failed: int = 0
    good: int = 0
    under_way: int = 0
    until: float = 0.0

    async def run(self) -> Measured:
        loop, plan = asyncio.get_running_loop(), self.plan
        self.requests = [_request(plan, body) for body in plan.bodies]
        connections = [
            (await loop.create_connection(lambda: Connection(self._done), "127.0.0.1", plan.port))[1]
            for _ in range(plan.connections)
        ]
        self.idle.extend(connections)
        began = time.perf_counter()
        self.until = began + plan.seconds
        await (self._open(began) if plan.rate else self._closed())
        for connection in connections:
            connection.close()
        return self._measured(plan.seconds)

    async def _closed(self) -> None:
        while self.idle:
            self._send(self.idle.popleft(), time.perf_counter())
        await asyncio.sleep(self.plan.seconds)
        await self._settle()

    async def _open(self, began: float) -> None:
        rng, at = random.Random(self.plan.seed), began  # noqa: S311
        while True:
            at += rng.expovariate(self.plan.rate)
            if at >= self.until:
                break
            while (now := time.perf_counter()) < at:  # noqa: ASYNC110 (a timer, which may ring a little early)
                await asyncio.sleep(at - now)
            self.lags.append(now - at)
            if self.idle:
                self._send(self.idle.popleft(), now)
            else:
                self.due.append(now)
        await self._settle()

    async def _settle(self) -> None:
        until = time.perf_counter() + GRACE_S
        while (self.under_way or self.due) and time.perf_counter() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        self.failed += self.under_way + len(self.due)

    def _send(self, connection: Connection, began: float) -> None:
        self.under_way += 1
        self.sent += 1
        connection.send(self.requests[self.sent % len(self.requests)], began)

    def _done(self, connection: Connection, seconds: float, good: bool) -> None:
        self.under_way -= 1
        now = time.perf_counter()
        if now <= self.until or self.plan.rate:
            self.latencies.append(seconds)
            self.failed += not good
            self.good += good
            if good and self.plan.stages:
                self.answers.append(connection.answer)
        if self.due:
            self._send(connection, self.due.popleft())
        elif not self.plan.rate and now < self.until:
            self._send(connection, now)
        else:
            self.idle.append(connection)

    def _measured(self, seconds: float) -> Measured:
        ms = np.asarray(self.latencies) * 1000
        p50, p95, p99 = np.percentile(ms, [50, 95, 99]) if len(ms) else (np.nan,) * 3
        answers = [json.loads(answer) for answer in self.answers]
        return Measured(
            requests=len(ms),
            failed=self.failed,
            seconds=seconds,
            per_second=self.good / seconds,
            p50_ms=float(p50),
            p99_ms=float(p99),
            lag_ms_p99=float(np.percentile(self.lags, 99)) * 1000 if self.lags else 0.0,
            p95_ms=float(p95),
            stages=_means([answer["timing_ms"] for answer in answers]),
            degraded=sum(answer["degraded"] for answer in answers),
            rungs=dict(Counter(answer["rung"] for answer in answers)),
        )


def _means(timings: list[dict[str, float]]) -> dict[str, float]:
    """A stage that an answer does not name took it no time."""
    names = {name for timing in timings for name in timing}
    return {name: round(sum(timing.get(name) or 0.0 for timing in timings) / len(timings), 4) for name in sorted(names)}


def _request(plan: Plan, body: str) -> bytes:
    payload = body.encode()
    head = f"POST {plan.path} HTTP/1.1\r\nhost: tandem\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload


def main() -> None:
    import uvloop

    plan = Plan(**json.load(sys.stdin))
    json.dump(asdict(uvloop.run(Load(plan).run())), sys.stdout)


if __name__ == "__main__":
    main()
