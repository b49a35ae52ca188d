"""Connections end after a while, and nothing that is under way is cut."""

from __future__ import annotations

import httpx
import pytest

from services.gateway.aging import AGE_S, Aging

pytestmark = pytest.mark.anyio


class Pool(httpx.AsyncBaseTransport):
    def __init__(self, number: int) -> None:
        self.number = number
        self.closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert not self.closed
        return httpx.Response(200, json=self.number)

    async def aclose(self) -> None:
        self.closed = True


class Pools:
    def __init__(self) -> None:
        self.made: list[Pool] = []
        self.now = 0.0
        self.client = httpx.AsyncClient(transport=Aging(self.make, clock=lambda: self.now), base_url="http://ranking")

    def make(self) -> Pool:
        self.made.append(Pool(len(self.made)))
        return self.made[-1]

    async def asked(self, after_s: float) -> int:
        self.now += after_s
        answer: int = (await self.client.get("/")).json()
        return answer


async def test_a_pool_serves_for_its_age_and_no_longer() -> None:
    pools = Pools()
    told = [await pools.asked(seconds) for seconds in (0, AGE_S / 2, AGE_S / 4, AGE_S / 4, AGE_S - 1, 1)]
    assert told == [0, 0, 0, 1, 1, 2]


async def test_the_last_pool_stays_open_for_who_still_waits() -> None:
    pools = Pools()
    await pools.asked(0)
    await pools.asked(AGE_S)
    assert [pool.closed for pool in pools.made] == [False, False]
    await pools.asked(AGE_S)
    assert [pool.closed for pool in pools.made] == [True, False, False]


async def test_closing_closes_all() -> None:
    pools = Pools()
    await pools.asked(0)
    await pools.asked(AGE_S)
    await pools.client.aclose()
    assert all(pool.closed for pool in pools.made)
