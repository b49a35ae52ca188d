"""Two gateways, two rankers, retrieval and Redis, each a host of its own, with fakes for models. Cables are pulled
while people ask.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.netns import Network, why_not
from tests.e2e.processes import START_S, Service
from tests.redis_server import binary

reason = why_not()
pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.skipif(reason is not None, reason=str(reason))]

ITEMS = 2_000
RATE = 5
"""Requests a second to each gateway."""
BEFORE_S, CUT_S, AFTER_S = 2.0, 7.0, 2.0
HEALED_S = 30.0
BUDGET_MS = 1500
"""Enough for a machine that is busy with other things."""
PORTS = {"gateway": 8000, "retrieval": 8001, "ranking": 8002}
LOST_RANKER = {"ranker_timeout", "ranker_unavailable"}
TURNS = itertools.count(1)


class Host(Service):
    """A service on a host of its own."""

    def __init__(self, network: Network, host: str, name: str, folder: Path, **environment: str) -> None:
        command = (*network.on(host), sys.executable, "-m", "tests.e2e.serve_fakes", name)
        address = network.address[host]
        super().__init__(host, folder, PORTS[name], (*command, "--host", address), **environment)
        self.url = f"http://{address}:{PORTS[name]}"


@dataclass(frozen=True)
class Net:
    network: Network
    gateways: tuple[Host, Host]


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("net")
    with Network("g1", "g2", "r1", "r2", "retrieval", "redis") as network, ExitStack() as stack:
        redis = Redis(network, folder)
        stack.callback(redis.stop)
        common = {"FAKE_ITEMS": str(ITEMS), "TANDEM_BREAKER_OPEN_S": "0.5"}
        inner = [
            Host(network, "retrieval", "retrieval", folder, **common),
            Host(network, "r1", "ranking", folder, **common),
            Host(network, "r2", "ranking", folder, **common),
        ]
        gateways = [
            Host(
                network,
                f"g{one}",
                "gateway",
                folder,
                TANDEM_RETRIEVAL_URL=inner[0].url,
                TANDEM_RANKING_URL=inner[one].url,
                TANDEM_REDIS_URL=f"redis://{network.address['redis']}:6379/0",
                **common,
            )
            for one in (1, 2)
        ]
        for service in (*inner, *gateways):
            stack.callback(service.stop)
        for service in (*inner, *gateways):
            service.wait_ready()
        yield Net(network, (gateways[0], gateways[1]))


class Redis(Service):
    def __init__(self, network: Network, folder: Path) -> None:
        address = network.address["redis"]
        command = (*network.on("redis"), binary(), "--bind", address, "--protected-mode", "no", "--save", "", "--dir")
        super().__init__("redis", folder, 6379, (*command, str(folder)))


@dataclass(frozen=True)
class Answered:
    at_s: float
    status: int
    body: dict[str, Any]

    @property
    def whole(self) -> bool:
        return self.status == 200 and not self.body["degraded"]


async def ask(client: httpx.AsyncClient, gateway: Host, began: float) -> Answered:
    """Somebody new, so that no cache answers."""
    turn = next(TURNS)
    body = {"history": ["i7", f"i{1 + turn // ITEMS}", f"i{1 + turn % ITEMS}"], "timeout_ms": BUDGET_MS}
    at_s = time.monotonic() - began
    answer = await client.post(f"{gateway.url}/recommend", json=body)
    return Answered(at_s, answer.status_code, answer.json())


async def asked_during_a_cut(net: Net, host: str) -> tuple[list[Answered], list[Answered]]:
    """What either gateway answers to those who ask while a cable is pulled, and who cannot wait until it is healed.
    Before and afterwards both answer whole; whoever asks, at whatever moment, gets a 200."""
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:

        async def steadily(gateway: Host) -> list[Answered]:
            asking = []
            for place in range(round(RATE * (BEFORE_S + CUT_S + AFTER_S))):
                await asyncio.sleep(max(0.0, began + place / RATE - time.monotonic()))
                asking.append(asyncio.create_task(ask(client, gateway, began)))
            return await asyncio.gather(*asking)

        async def pull() -> tuple[float, float]:
            await asyncio.sleep(BEFORE_S)
            await asyncio.to_thread(net.network.cut, host)
            cut_s = time.monotonic() - began
            await asyncio.sleep(CUT_S)
            healed_s = time.monotonic() - began
            await asyncio.to_thread(net.network.heal, host)
            return cut_s, healed_s

        await whole_again(client, net)
        began = time.monotonic()
        first, second, (cut_s, healed_s) = await asyncio.gather(*map(steadily, net.gateways), pull())
        await whole_again(client, net)
    assert {answer.status for answer in first + second} == {200}
    last_s = healed_s - 2 * BUDGET_MS / 1000
    lost = [[answer for answer in answers if cut_s < answer.at_s < last_s] for answers in (first, second)]
    assert min(map(len, lost)) > RATE
    return lost[0], lost[1]


async def whole_again(client: httpx.AsyncClient, net: Net) -> None:
    for gateway in net.gateways:
        until = time.monotonic() + HEALED_S
        while not (answer := await ask(client, gateway, 0.0)).whole:
            assert time.monotonic() < until, answer


def test_a_ranker_that_is_cut_off_degrades_its_gateway_alone_and_comes_back(net: Net) -> None:
    lost, spared = asyncio.run(asked_during_a_cut(net, "r1"))
    for answer in lost:
        assert set(answer.body["degradation"]) & LOST_RANKER
        assert len(answer.body["items"]) == 10
    assert sum(answer.whole for answer in spared) > len(spared) / 2


def test_redis_cut_off_costs_no_answer(net: Net) -> None:
    for answers in asyncio.run(asked_during_a_cut(net, "redis")):
        assert all("state_unavailable" in answer.body["degradation"] for answer in answers)
        assert any(answer.body["rung"] == "ranker" for answer in answers)


def test_what_one_gateway_is_told_the_other_one_knows(net: Net) -> None:
    first, second = net.gateways
    event = {"event_id": "e1", "user_id": "anna", "item_id": "i5"}
    assert httpx.post(f"{first.url}/events", json=event, timeout=START_S).status_code in (200, 202)
    history = httpx.get(f"{second.url}/users/anna/history", timeout=START_S).json()
    assert history["item_ids"] == ["i5"]
