"""POST /recommend over real processes and sockets: ranked by the language model, out of the cache, in the retriever's
order; each alone, beside a client that reads a byte a second, and over 200 connections.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from services.bench.load import Measured, Plan
from services.bench.machine import load_average, machine
from services.bench.processes import Server, measure, redis, server
from shared.data.prepared import Prepared, load
from shared.errors import BadInput, Unavailable

PATH = "/recommend"
COMMAND = "services.cli"
START_S = 300
"""A language model is loaded, compiled and tried before its service listens."""
BUDGET_MS = 10_000
"""So large that an answer is never degraded for want of time: what it takes is the question."""
HISTORY, BODIES, HITS = 50, 24_000, 64
SWAPS = 3
KEPT_OPEN = 200
SLOW_ASKS = 64
"""Requests that the slow client has sent at once; it never gets to the end of the answers."""
WAYS = ("ranked", "cached", "retrieved")
BESIDE = ("alone", "slow client", f"{KEPT_OPEN} connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    data: Path
    retriever: Path
    ranker: Path
    seconds: float
    load: float
    connections: int


def run(settings: Settings, said: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    asked = bodies(load(settings.data))
    rows = []
    with services(settings) as gateway:
        for way in WAYS:
            _ask_once(gateway, asked[way])
            closed = measure(_plan(settings, gateway, way, asked[way]))
            rate = settings.load * closed.per_second
            said(f"{way:<10} {closed.per_second:8.1f}/s in a closed loop, {closed.failed} failed")
            if not closed.requests:
                raise Unavailable(f"nothing was answered ({way}): the services' own logs say why")
            for number, beside in enumerate(BESIDE, start=1):
                slow = slow_client(gateway, asked[way][0]) if beside == "slow client" else nullcontext()
                with slow:
                    found = measure(_plan(settings, gateway, way, asked[way], rate, beside, number))
                rows.append(_row(way, beside, closed, rate, found))
                said(_line(rows[-1]))
    return {
        "settings": {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()},
        "machine": machine() | {"load_average": load_average()},
        "rows": rows,
    }


@contextmanager
def services(settings: Settings) -> Iterator[Server]:
    """The gateway, when the other two and Redis are up."""
    for folder in (settings.data, settings.retriever, settings.ranker):
        if not folder.is_dir():
            raise BadInput(f"{folder} is not there: `make demo` makes it, or name another one")
    data = ["--data", str(settings.data)]
    with ExitStack() as stack:
        url = stack.enter_context(redis())
        first = ["serve", "retrieval", *data, "--retriever", str(settings.retriever)]
        second = ["serve", "ranking", *data, "--ranker", str(settings.ranker)]
        retrieval = stack.enter_context(server(COMMAND, first, {"TANDEM_REDIS_URL": url}, start_s=START_S))
        ranking = stack.enter_context(server(COMMAND, second, {}, start_s=START_S))
        environment = {
            "TANDEM_RETRIEVAL_URL": f"http://127.0.0.1:{retrieval.port}",
            "TANDEM_RANKING_URL": f"http://127.0.0.1:{ranking.port}",
            "TANDEM_REDIS_URL": url,
            "TANDEM_CACHE_FRESH_S": "86400",
        }
        yield stack.enter_context(server(COMMAND, ["serve", "gateway", *data], environment))


def bodies(data: Prepared) -> dict[str, list[str]]:
    """Of real users. Each of the ranked and of the retrieved has a history that none other has, so that no answer is in
    the cache; the cached are a few that were asked before."""
    rng = np.random.default_rng(0)
    histories = [_history(data, user, rng) for user in rng.integers(0, len(data), BODIES)]
    ask = [{"history": history, "limit": 10, "timeout_ms": BUDGET_MS} for history in histories]
    plain = [json.dumps(one) for one in ask]
    return {
        "ranked": plain[HITS:],
        "cached": plain[:HITS],
        "retrieved": [json.dumps(one | {"ranker": "retrieval"}) for one in ask],
    }


def _history(data: Prepared, user: int, rng: np.random.Generator) -> list[str]:
    """A part of his, of random length, with a few of its items swapped: hardly ever the same twice."""
    items = [data.catalog[int(item)].id for item in data.sequence(user)[-HISTORY:]]
    start = int(rng.integers(0, max(1, len(items) // 2)))
    for one, other in rng.integers(start, len(items), (SWAPS, 2)):
        items[one], items[other] = items[other], items[one]
    return items[start:]


@contextmanager
def slow_client(gateway: Server, body: str) -> Iterator[None]:
    """Asks many times over one connection and reads a byte a second of what comes."""
    done = threading.Event()
    payload = body.encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: tandem\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(payload)}\r\n\r\n".encode() + payload
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        connection.connect(("127.0.0.1", gateway.port))
        connection.settimeout(1)

        def read() -> None:
            while not done.wait(1):
                try:
                    connection.recv(1)
                except OSError:
                    return

        reader = threading.Thread(target=read)
        reader.start()
        try:
            connection.sendall(request * SLOW_ASKS)
            yield
        finally:
            done.set()
            reader.join()


def _ask_once(gateway: Server, asked: list[str]) -> None:
    """To warm up, and to fill the cache for those that are to be found there. The others are not asked for again."""
    for body in asked[-HITS:]:
        gateway.post(PATH, body)


def _plan(
    settings: Settings,
    gateway: Server,
    way: str,
    asked: list[str],
    rate: float = 0.0,
    beside: str = "alone",
    number: int = 0,
) -> Plan:
    """Each measurement asks what no other one does, but for the cached."""
    share = len(asked) // (1 + len(BESIDE))
    return Plan(
        port=gateway.port,
        path=PATH,
        bodies=asked if way == "cached" else asked[number * share : (number + 1) * share],
        connections=KEPT_OPEN if beside == BESIDE[-1] else settings.connections,
        seconds=settings.seconds * (2 if way == "ranked" else 1),
        rate=rate,
        seed=number,
        stages=True,
    )


def _row(way: str, beside: str, closed: Measured, rate: float, found: Measured) -> dict[str, Any]:
    return {
        "way": way,
        "beside": beside,
        "per_second": round(closed.per_second, 2),
        "rate": round(rate, 2),
        "open": asdict(found),
        "stages": shares(found.stages),
    }


def shares(ms: Mapping[str, float]) -> dict[str, float]:
    """Of the gateway's own time to an answer; `else` is what no stage names."""
    total = ms.get("total", 0.0)
    if not total:
        return {}
    named = {stage: round(time / total, 4) for stage, time in ms.items() if stage != "total"}
    return named | {"else": round(max(0.0, 1 - sum(named.values())), 4)}


def _line(row: Mapping[str, Any]) -> str:
    found = row["open"]
    stages = "  ".join(f"{stage} {share:.0%}" for stage, share in row["stages"].items())
    return (
        f"{row['way']:<10} {row['beside']:<16} {row['rate']:7.1f}/s   p50 {found['p50_ms']:7.1f}  "
        f"p95 {found['p95_ms']:7.1f}  p99 {found['p99_ms']:7.1f} ms   failed {found['failed']}  "
        f"degraded {found['degraded']}  {found['rungs']}   {stages}"
    )
