"""Three real services with fakes for models, a real Redis, and a proxy that fails on demand before each of them but the
gateway.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.chaos.proxy import Proxy
from tests.e2e.processes import Service
from tests.redis_server import RedisServer

ITEMS = 2_000
HEAL_S = 5.0
"""A whole answer is back so soon after the last fault has gone."""
BUDGET_MS = 400
TURNS = itertools.count(1)


def somebody() -> dict[str, Any]:
    """A history that nobody asked for before, so that no cache answers."""
    turn = next(TURNS)
    return {"history": ["i7", f"i{1 + turn // ITEMS}", f"i{1 + turn % ITEMS}"], "timeout_ms": BUDGET_MS}


class Stack:
    def __init__(self, folder: Path, **environment: str) -> None:
        self.fault = folder / "fault"
        environment = {
            "FAKE_ITEMS": str(ITEMS),
            "FAKE_FAULT": str(self.fault),
            "TANDEM_BREAKER_OPEN_S": "0.5",
            "TANDEM_CACHE_BELIEVE_S": "0",
        } | environment
        self.redis = RedisServer(folder)
        self.retrieval = Service("retrieval", folder, **environment)
        self.ranking = Service("ranking", folder, **environment)
        self.to_redis = Proxy(self.redis.port, "redis")
        self.to_retrieval = Proxy(self.retrieval.port)
        self.to_ranking = Proxy(self.ranking.port)
        addresses = {
            "TANDEM_REDIS_URL": self.to_redis.url,
            "TANDEM_RETRIEVAL_URL": self.to_retrieval.url,
            "TANDEM_RANKING_URL": self.to_ranking.url,
        }
        self.gateway = Service("gateway", folder, **environment, **addresses)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            services = self.retrieval, self.ranking, self.gateway
            for service in services:
                stack.callback(service.stop)
            for part in (self.to_redis, self.to_retrieval, self.to_ranking, self.redis):
                stack.enter_context(part)
            for service in services:
                service.wait_ready()
            yield

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer: a 200, in time, holding what it should. A machine that is busy with other things makes answers
        late; three in a row are ours."""
        for _ in range(3):
            asked = somebody() | request
            began = time.perf_counter()
            answer = self.post("/recommend", asked)
            took_ms = (time.perf_counter() - began) * 1000
            _require_whole(asked, answer)
            if took_ms <= asked["timeout_ms"] * 1.1 + 20:
                return answer
        raise AssertionError(f"late three times in a row: {took_ms:.0f} ms, {answer['degradation']}")

    def post(self, path: str, body: dict[str, Any], status: int = 200) -> dict[str, Any]:
        response = self._client.post(self.gateway.url + path, json=body)
        assert response.status_code == status, response.text
        parsed: dict[str, Any] = response.json()
        return parsed

    def heal(self) -> dict[str, Any]:
        """Takes every fault away. The first whole answer, which must come soon."""
        self.fault.unlink(missing_ok=True)
        for proxy in (self.to_redis, self.to_retrieval, self.to_ranking):
            proxy.become("pass")
        until = time.monotonic() + HEAL_S
        while (answer := self.post("/recommend", somebody() | {"timeout_ms": 2000}))["degraded"]:
            assert time.monotonic() < until, f"not whole after {HEAL_S} s: {answer['degradation']}"
            time.sleep(0.05)
        assert answer["rung"] == "ranker"
        return answer

    def metric(self, service: Service, name: str) -> float:
        """0 for a series that is not there yet."""
        lines = self._client.get(service.url + "/metrics").text.splitlines()
        return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + " ")), 0.0)

    _client = httpx.Client(timeout=30)


def _require_whole(asked: dict[str, Any], answer: dict[str, Any]) -> None:
    ids = [item["item_id"] for item in answer["items"]]
    assert len(ids) == len(set(ids)) == asked.get("limit", 10), ids
    assert not set(ids) & set(asked.get("history") or ()), ids
    assert answer["degraded"] == bool(answer["degradation"])
