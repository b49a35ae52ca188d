"""How often a key may ask: in one process, and together with others over a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from structlog.testing import capture_logs

from services.http.caller import Caller
from services.http.rates import MAX_PENDING, Rates, parse
from shared.errors import BadInput, RateLimited
from tests.redis_server import RedisServer, free_port

pytestmark = pytest.mark.anyio
Open = Callable[..., Rates]
PATIENT_S = 5.0
"""A loaded machine is not what these tests are about."""


def caller(rate: str, key_id: str = "k1") -> Caller:
    return Caller("shop", key_id, frozenset({"read"}), rate)


async def let_in(rates: Rates, who: Caller, tries: int) -> int:
    count = 0
    for _ in range(tries):
        try:
            await rates.take(who)
        except RateLimited:
            continue
        count += 1
    return count


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as one:
        yield one


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.command("FLUSHALL")
    return running


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    """Makes counters, and closes them in the end."""
    made: list[Rates] = []

    def one(url: str | None = None, timeout_s: float = PATIENT_S) -> Rates:
        made.append(Rates(url, timeout_s))
        return made[-1]

    yield one
    for rates in made:
        await rates.aclose()


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "memory" else request.getfixturevalue("server").url


@pytest.mark.parametrize("limit", [1, 7, 250])
async def test_as_many_as_agreed_are_let_in(opened: Open, url: str | None, limit: int) -> None:
    rates = opened(url)
    assert await let_in(rates, caller(f"{limit}/hour"), limit + 50) == limit


async def test_each_key_has_its_own_count(opened: Open, url: str | None) -> None:
    rates = opened(url)
    await let_in(rates, caller("2/hour", "one"), 5)
    assert await let_in(rates, caller("2/hour", "other"), 5) == 2


async def test_a_refusal_says_when_to_come_back(opened: Open, url: str | None) -> None:
    rates = opened(url)
    await let_in(rates, caller("1/hour"), 1)
    with pytest.raises(RateLimited, match="1/hour") as caught:
        await rates.take(caller("1/hour"))
    assert 1 <= caught.value.retry_after_s <= 2 * 3600


async def test_a_window_passes(opened: Open, url: str | None) -> None:
    rates, who = opened(url), caller("1/second")
    await rates.take(who)
    for _ in range(100):
        await asyncio.sleep(0.1)
        if await let_in(rates, who, 1):
            return
    raise AssertionError("nothing was let in for ten seconds")


async def test_a_new_rate_of_a_key_counts_at_once(opened: Open) -> None:
    rates = opened()
    assert await let_in(rates, caller("1/hour"), 5) == 1
    assert await let_in(rates, caller("3/minute"), 5) == 3


async def test_two_processes_share_one_count(opened: Open, server: RedisServer) -> None:
    two = opened(server.url), opened(server.url)
    for limit, slack in (("10/hour", 0), ("1000/hour", 50)):
        agreed = int(limit.split("/")[0])
        let = 0
        for _ in range(agreed):
            for rates in two:
                let += await let_in(rates, caller(limit, limit), 1)
        assert agreed - slack <= let <= agreed


async def test_those_who_ask_at_once_are_counted_as_well(opened: Open, server: RedisServer) -> None:
    rates, who = opened(server.url), caller("20/hour")
    let = await asyncio.gather(*(let_in(rates, who, 1) for _ in range(MAX_PENDING)))
    assert sum(let) == 20


async def test_a_high_limit_does_not_ask_redis_each_time(opened: Open, server: RedisServer) -> None:
    rates, who = opened(server.url), caller("10000/minute")
    server.command("CONFIG", "RESETSTAT")
    await let_in(rates, who, 1000)
    stats = server.command("INFO", "commandstats").decode()
    calls = sum(int(line.split("calls=")[1].split(",")[0]) for line in stats.splitlines() if "evalsha" in line)
    assert 1 <= calls <= 20


@pytest.mark.parametrize(("rate", "every_s"), [("1000/hour", 4.0), ("100000/day", 0.9), ("5000/minute", 1.1)])
async def test_who_keeps_to_the_rate_is_let_in_however_slowly(
    opened: Open, rate: str, every_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken ahead and lapses is nobody's."""
    rates, now = opened(), [7200.0 * 1000]
    monkeypatch.setattr("time.time", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for _ in range(900):
        await rates.take(caller(rate))
        now[0] += every_s


async def test_without_redis_the_process_counts_alone_and_says_so(opened: Open) -> None:
    rates = opened(f"redis://127.0.0.1:{free_port()}")
    with capture_logs() as told:
        assert await let_in(rates, caller("5/hour"), 10) == 5
    assert [line["event"] for line in told] == ["rates are counted in this process alone"]


async def test_a_redis_that_hangs_is_asked_once_and_then_left_alone(opened: Open, server: RedisServer) -> None:
    rates = opened(server.url, timeout_s=0.05)
    await rates.take(caller("500/hour"))
    server.pause()
    try:
        with capture_logs() as told:
            async with asyncio.timeout(5):
                assert await let_in(rates, caller("5/hour", "k2"), 10) == 5
    finally:
        server.resume()
    assert 1 <= len(told) <= 5


async def test_a_counter_that_holds_nonsense_is_left_alone(opened: Open, server: RedisServer) -> None:
    who = caller("3/hour")
    rates = opened(server.url)
    await rates.take(who)
    keys = server.command("KEYS", "*").decode().split("\r\n")
    for key in (one for one in keys if one.startswith("tandem:")):
        server.command("DEL", key)
        server.command("LPUSH", key, "nonsense")
    assert await let_in(opened(server.url), who, 10) == 3


def test_a_url_that_is_none_is_refused_without_being_shown() -> None:
    with pytest.raises(BadInput) as caught:
        Rates("http://user:hunter2@nowhere")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "often", "10", "ten/second", "0/second", "-1/second", "1/fortnight"])
def test_a_rate_that_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"no rate|allows nothing"):
        parse(text)
