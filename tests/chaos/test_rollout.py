"""Real processes, two gateways over one Redis, and releases that come, go, break and slow down while users ask."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.load import Client
from tests.chaos.proxy import Proxy
from tests.chaos.serve_releases import ITEMS, START
from tests.e2e.processes import Service
from tests.redis_server import RedisServer

pytestmark = pytest.mark.real

REQUESTS = 2_000
AT_ONCE = 8
TURNS = itertools.count()
RANK_S = 0.02
PATIENCE_S = 30.0


def somebody() -> dict[str, Any]:
    """A user of his own, with a history that nobody else has: no cache answers."""
    turn = next(TURNS)
    history = [f"i{1 + turn % ITEMS}", f"i{1 + turn // ITEMS % ITEMS}", "i7"]
    return {"user_id": f"user-{turn}", "history": history, "limit": 5, "timeout_ms": 10_000}


def release_of(answer: dict[str, Any]) -> str:
    """Of all parts of it."""
    names = {answer["model"][part].split("@")[1] for part in ("ranker", "retriever")}
    assert len(names) == 1, f"a mixed answer: {answer['model']}"
    return str(names.pop())


class Rolling:
    def __init__(self, folder: Path) -> None:
        self._shelf = folder / "shelf.json"
        self.put(**{name: {"seconds": RANK_S} for name in (START, "r1", "r2", "r3")})
        environment = {"FAKE_SHELF": str(self._shelf)}
        command = (sys.executable, "-m", "tests.chaos.serve_releases")
        self.redis = RedisServer(folder)
        self.to_redis = Proxy(self.redis.port, "redis")
        self.retrieval = Service("retrieval", folder, command=(*command, "retrieval"), **environment)
        self.ranking = Service("ranking", folder, command=(*command, "ranking"), **environment)
        addresses = {
            "TANDEM_REDIS_URL": self.to_redis.url,
            "TANDEM_REDIS_TIMEOUT_MS": "1000",
            "TANDEM_RETRIEVAL_URL": self.retrieval.url,
            "TANDEM_RANKING_URL": self.ranking.url,
        }
        self.one, self.other = (Service("gateway", folder, **addresses) for _ in "12")
        self._http = httpx.Client(timeout=60)

    def put(self, **made: dict[str, Any]) -> None:
        """Onto the shelf, or another state of what is there."""
        before = json.loads(self._shelf.read_text()) if self._shelf.exists() else {}
        draft = self._shelf.with_suffix(".new")
        draft.write_text(json.dumps(before | made))
        draft.rename(self._shelf)

    def admin(self, method: str = "GET", path: str = "", status: int = 200, **body: Any) -> dict[str, Any]:
        response = self._http.request(method, f"{self.one.url}/admin/models{path}", json=body or None)
        assert response.status_code == status, response.text
        found: dict[str, Any] = response.json()
        return found

    def ask(self, gateway: Service) -> dict[str, Any]:
        response = self._http.post(gateway.url + "/recommend", json=somebody())
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def settle(self) -> None:
        """Everything as at the start, whole, at both gateways."""
        self.to_redis.become("pass")
        self.put(**{name: {"seconds": RANK_S} for name in (START, "r1", "r2", "r3")})
        self._until(lambda: self.admin()["saved"])
        state = self.admin()
        if "canary" in state:
            self.admin("DELETE", "/canary")
        if state["live"].get("release", START) != START:
            self.admin("POST", release=START, **{"as": "live"})
        self._until(lambda: {release_of(self.ask(gateway)) for gateway in (self.one, self.other)} == {START})

    def _until(self, done: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not done():
            assert time.monotonic() < end, self.admin()
            time.sleep(0.05)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rolling]:
    rolling = Rolling(tmp_path_factory.mktemp("rolling"))
    with ExitStack() as stack:
        stack.callback(rolling._http.close)
        services = rolling.retrieval, rolling.ranking, rolling.one, rolling.other
        for service in services:
            stack.callback(service.stop)
        stack.enter_context(rolling.to_redis)
        stack.enter_context(rolling.redis)
        for service in services:
            service.wait_ready()
        yield rolling


@pytest.fixture
def rolling(started: Rolling) -> Rolling:
    started.settle()
    return started


async def crowd(rolling: Rolling, enough: Callable[[int], bool]) -> list[dict[str, Any]]:
    """At both gateways, `AT_ONCE` at once, one after the other, until there are enough answers."""
    found: list[dict[str, Any]] = []

    async def user(client: Client) -> None:
        while not enough(len(found)):
            answered = await client.ask(somebody())
            assert answered.status == 200, answered
            found.append(answered.body)

    async with Client(rolling.one.port) as one, Client(rolling.other.port) as other:
        await asyncio.gather(*(user(client) for client in [one, other] * (AT_ONCE // 2)))
    return found


def test_two_thousand_requests_over_changes_and_ways_back(rolling: Rolling) -> None:
    done = False

    def change() -> None:
        nonlocal done
        for release in ("r1", "r2", "r3"):
            time.sleep(1)
            rolling.admin("POST", release=release, **{"as": "live"})
            time.sleep(1)
            rolling.admin("POST", "/rollback")
            rolling.admin("POST", "/rollback")
        done = True

    async def both() -> list[dict[str, Any]]:
        asking = asyncio.create_task(crowd(rolling, lambda count: done and count >= REQUESTS))
        await asyncio.gather(asyncio.to_thread(change), asking)
        return asking.result()

    answers = asyncio.run(both())
    assert len(answers) >= REQUESTS
    # On a busy machine Redis may answer late, which is no matter of the releases.
    assert {reason for answer in answers for reason in answer["degradation"]} <= {"state_unavailable"}
    assert {release_of(answer) for answer in answers} >= {START, "r1", "r2", "r3"}


def test_the_way_back_takes_less_than_a_second_at_every_gateway(rolling: Rolling) -> None:
    took = []
    for release in ("r1", "r2", "r3"):
        rolling.admin("POST", release=release, **{"as": "live"})
        rolling._until(lambda release=release: release_of(rolling.ask(rolling.other)) == release)
        before = rolling.admin()["previous"].get("release", START)
        began = time.monotonic()
        rolling.admin("POST", "/rollback")
        assert release_of(rolling.ask(rolling.one)) == before, "at once where it was asked for"
        rolling._until(lambda before=before: release_of(rolling.ask(rolling.other)) == before)
        took.append(time.monotonic() - began)
    assert min(took) < 1.0, f"a busy machine may be late once, not three times: {took}"


REFUSED = {
    "unknown": ({}, 404),
    "corrupt at one service": ({"corrupt": True, "service": "ranking"}, 409),
    "of two catalogues": ({"items": ITEMS - 1, "service": "retrieval"}, 409),
    "that scores with NaN": ({"nan": True}, 503),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_release_that_is_refused_is_nobodys_answer(rolling: Rolling, fault: str) -> None:
    about, status = REFUSED[fault]
    name = "bad-" + fault.replace(" ", "-").lower()
    if about:
        rolling.put(**{name: about})
    before = rolling.admin()
    for role in ("live", "canary"):
        problem = rolling.admin("POST", release=name, status=status, **{"as": role})
        assert problem["detail"]
    after = rolling.admin()
    assert (after["live"]["models"], after["history"]) == (before["live"]["models"], before["history"])
    answers = asyncio.run(crowd(rolling, lambda count: count >= 40))
    assert {release_of(answer) for answer in answers} == {START}
    assert {reason for answer in answers for reason in answer["degradation"]} <= {"state_unavailable"}


@pytest.mark.parametrize(("about", "cause"), [({"nan": True}, "faults"), ({"seconds": 5 * 0.1}, "latency")])
def test_a_canary_that_breaks_is_taken_back_by_itself(rolling: Rolling, about: dict[str, Any], cause: str) -> None:
    whole = {"seconds": 0.1} if cause == "latency" else {"seconds": RANK_S}
    rolling.put(**{START: whole, "r1": whole})
    rolling.admin("POST", release="r1", share=0.3, **{"as": "canary"})
    asyncio.run(crowd(rolling, lambda count: count >= 100))
    assert "canary" in rolling.admin(), "nothing is wrong with it yet"
    rolling.put(r1=about)
    began = time.monotonic()

    answers = asyncio.run(crowd(rolling, lambda count: count >= REQUESTS or "canary" not in rolling.admin()))
    newest = rolling.admin()["history"][0]
    assert (newest["what"], newest["release"], newest["by"]) == ("canary_ended", "r1", "watch")
    assert newest["reason"].startswith(cause), (newest, time.monotonic() - began)
    if cause == "faults":
        live = [answer for answer in answers if answer.get("experiment", {}).get("variant") == "live"]
        assert not any("ranker_unavailable" in answer["degradation"] for answer in live), "live never noticed"
    rolling._until(lambda: "experiment" not in rolling.ask(rolling.other))


def test_without_redis_all_stays_and_the_way_back_is_open(rolling: Rolling) -> None:
    rolling.admin("POST", release="r1", **{"as": "live"})
    rolling._until(lambda: release_of(rolling.ask(rolling.other)) == "r1")
    rolling.to_redis.become("refuse")
    assert {release_of(rolling.ask(gateway)) for gateway in (rolling.one, rolling.other)} == {"r1"}
    rolling.admin("POST", release="r2", status=503, **{"as": "live"})
    state = rolling.admin("POST", "/rollback")
    assert (state["live"].get("release", START), state["saved"]) == (START, False)
    assert release_of(rolling.ask(rolling.one)) == START
    rolling.to_redis.become("pass")
    rolling._until(lambda: rolling.admin()["saved"] and release_of(rolling.ask(rolling.other)) == START)


def test_services_and_gateways_that_restart_find_the_release_again(rolling: Rolling) -> None:
    rolling.admin("POST", release="r2", **{"as": "live"})
    for service in (rolling.ranking, rolling.retrieval, rolling.other):
        service.kill()
        service.restart()
        for gateway in (rolling.one, rolling.other):

            def whole(gateway: Service = gateway) -> bool:
                answer = rolling.ask(gateway)
                return not answer["degraded"] and release_of(answer) == "r2"

            rolling._until(whole)
