"""Real processes over a real Redis, while parts of them die, hang, lie or leave: every answer is a 200 in time that
says why it is not whole, and whole answers come back by themselves.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from services.gateway.cache.keys import SCHEMA
from services.gateway.ports import Who
from services.gateway.state import keys
from tests.chaos.load import Answered, Client
from tests.chaos.proxy import Kind, Proxy
from tests.chaos.stack import HEAL_S, Stack, somebody
from tests.e2e.processes import Service

pytestmark = pytest.mark.real

REASONS = {
    "redis": {"state_unavailable"},
    "retrieval": {"retrieval_unavailable"},
    "ranking": {"ranker_timeout", "ranker_unavailable"},
}
ASKED = 7
"""More than opens a breaker."""
RANK_S = 0.4


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    with stack.running():
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.heal()
    return running


def taken(event_id: str, user_id: str, item_id: str = "i1") -> dict[str, Any]:
    return {"event_id": event_id, "user_id": user_id, "item_id": item_id}


# The network


@pytest.mark.parametrize("kind", ["refuse", "black_hole", "delay", "cut", "garbage"])
@pytest.mark.parametrize("part", REASONS)
def test_whatever_the_network_does_to_one_part(stack: Stack, part: str, kind: Kind) -> None:
    proxy: Proxy = getattr(stack, f"to_{part}")
    proxy.become(kind, seconds=2.0, after=3)
    answers = [stack.ask() for _ in range(ASKED)]
    assert all(REASONS[part] & set(answer["degradation"]) for answer in answers)
    if part == "redis":
        assert any(answer["rung"] == "ranker" for answer in answers), "the language model needs no Redis"
    stack.heal()


def test_with_everything_gone_there_is_still_an_answer(stack: Stack) -> None:
    for proxy in (stack.to_redis, stack.to_retrieval, stack.to_ranking):
        proxy.become("refuse")
    answer = stack.ask()
    assert answer["rung"] == "popularity"
    assert set(answer["degradation"]) == {"state_unavailable", "retrieval_unavailable"}
    stack.heal()


def test_without_retrieval_a_known_user_gets_the_last_ranking(stack: Stack) -> None:
    before = stack.heal()
    known = {"user_id": "regular", "history": ["i40", "i41"], "timeout_ms": 2000}
    while (before := stack.post("/recommend", known))["degraded"]:
        time.sleep(0.05)
    stack.to_retrieval.become("refuse")
    answer = stack.ask(user_id="regular", history=["i40", "i41", "i42"])
    assert (answer["rung"], set(answer["degradation"])) == ("stale", {"stale_cache", "retrieval_unavailable"})
    ids = [item["item_id"] for item in before["items"]]
    assert [item["item_id"] for item in answer["items"]][:5] == [id_ for id_ in ids if id_ != "i42"][:5]


# Redis


def test_a_redis_that_comes_after_the_gateway(stack: Stack) -> None:
    """The gateway starts anew without it."""
    stack.redis.kill()
    stack.gateway.stop()
    stack.gateway.restart()
    assert stack.ask()["degradation"] == ["state_unavailable"]
    stack.post("/events", {"events": [taken("early", "u-early")]}, status=503)
    stack.redis.start()
    stack.heal()
    assert stack.post("/events", {"events": [taken("early", "u-early")]})["accepted"] == 1


def test_a_redis_that_is_killed(stack: Stack) -> None:
    stack.redis.kill()
    for _ in range(ASKED):
        assert "state_unavailable" in stack.ask()["degradation"]
    stack.post("/events", {"events": [taken("lost", "u-lost")]}, status=503)
    stack.redis.start()
    stack.heal()


def test_a_redis_that_hangs(stack: Stack) -> None:
    stack.redis.pause()
    try:
        answers = [stack.ask() for _ in range(ASKED)]
    finally:
        stack.redis.resume()
    assert all("state_unavailable" in answer["degradation"] for answer in answers)
    assert any(answer["rung"] == "ranker" for answer in answers)
    stack.heal()


def test_a_redis_without_memory_still_reads(stack: Stack) -> None:
    """What it does not take is not acknowledged."""
    token = stack.post("/events", {"events": [taken("e1", "reader", "i9")]})["tokens"]["reader"]
    stack.redis.command("CONFIG", "SET", "maxmemory", "1")
    try:
        answer = stack.ask(user_id="reader", history=None, after=token, timeout_ms=2000)
        assert not answer["degraded"]
        assert "i9" not in [item["item_id"] for item in answer["items"]]
        stack.post("/events", {"events": [taken("e2", "reader", "i10")]}, status=503)
        assert stack.metric(stack.gateway, 'tandem_cache_total{outcome="out_of_memory"}') > 0
    finally:
        stack.redis.command("CONFIG", "SET", "maxmemory", "0")
    assert stack.post("/events", {"events": [taken("e2", "reader", "i10")]})["accepted"] == 1


def test_a_user_whose_keys_hold_what_we_did_not_write(stack: Stack) -> None:
    """Nobody else is touched."""
    broken = keys.of_owner("default", Who("user", "broken"))
    stack.redis.command("SET", broken.history, "of another schema")
    assert "state_unavailable" in stack.ask(user_id="broken")["degradation"]
    assert not stack.heal()["degraded"]
    stack.redis.command("DEL", broken.history)
    stack.redis.command("ZADD", broken.history, "1", "no time of arrival")
    assert "state_unavailable" in stack.ask(user_id="broken")["degradation"]
    stack.redis.command("DEL", broken.history)
    assert not stack.ask(user_id="broken", timeout_ms=2000)["degraded"]


def test_item_states_that_we_did_not_write(stack: Stack) -> None:
    states = keys.items("default")
    stack.redis.command("HSET", states, "", "5000000000000", "i8", '{"hidden": "perhaps"}')
    assert "state_unavailable" in stack.ask()["degradation"]
    stack.redis.command("DEL", states)
    stack.heal()


@pytest.mark.parametrize(
    "command", ["'SET',k,'garbage'", "'LPUSH',k,'a list'", "'SET',k,'TDC1aaaa'..string.rep('b',99)"]
)
def test_cache_entries_that_we_did_not_write_are_made_anew(stack: Stack, command: str) -> None:
    asked = somebody() | {"timeout_ms": 2000}
    stack.post("/recommend", asked)
    until = time.monotonic() + HEAL_S
    while stack.post("/recommend", asked)["cache"] != "hit":
        assert time.monotonic() < until
    spoil = f"for _,k in ipairs(redis.call('KEYS','{SCHEMA}:*')) do redis.call('DEL',k) redis.call({command}) end"
    stack.redis.command("EVAL", spoil, "0")
    answer = stack.post("/recommend", asked)
    assert (answer["cache"], answer["degraded"]) == ("miss", False)
    assert stack.metric(stack.gateway, 'tandem_cache_total{outcome="garbage"}') > 0


# The models


@pytest.mark.parametrize("fault", ["nan", "crash"])
def test_a_ranker_that_makes_no_sense(stack: Stack, fault: str) -> None:
    stack.fault.write_text(fault)
    answer = stack.ask()
    assert (answer["degradation"], answer["rung"]) == (["ranker_unavailable"], "retrieval")
    stack.heal()


@pytest.mark.parametrize(
    ("fault", "reasons"),
    [
        ("fewer", {"retrieval_unavailable"}),
        ("nothing", {"retrieval_unavailable"}),
        ("unknown", {"ranker_unavailable"}),
        ("seen", set()),
        ("duplicates", set()),
    ],
)
def test_a_retrieval_that_answers_what_it_should_not(stack: Stack, fault: str, reasons: set[str]) -> None:
    """What comes twice or is had already is left out, and where that leaves too few, the list of what everybody likes
    helps out."""
    stack.fault.write_text(fault)
    assert set(stack.ask()["degradation"]) == reasons
    many = stack.ask(limit=60)
    assert fault in ("unknown", "seen") or "retrieval_unavailable" in many["degradation"]
    stack.heal()


def test_a_ranking_service_of_another_catalogue(stack: Stack) -> None:
    replace(stack.ranking, FAKE_ITEMS="1999")
    answer = eventually(stack, lambda answer: answer["degradation"] == ["ranker_unavailable"])
    assert answer["rung"] == "retrieval"
    replace(stack.ranking, FAKE_ITEMS="2000")
    stack.heal()


def test_a_ranking_service_that_serves_another_ranker(stack: Stack) -> None:
    """Who named none gets the new one, without the gateway being told."""
    replace(stack.ranking, FAKE_RANKER="llara")
    assert stack.heal()["items"][0]["source"] == "llara"
    replace(stack.ranking, FAKE_RANKER="llamarec")
    assert stack.heal()["items"][0]["source"] == "llamarec"


def replace(service: Service, **environment: str) -> None:
    service.stop()
    service.environment |= environment
    service.restart()


def eventually(stack: Stack, wanted: Any) -> dict[str, Any]:
    until = time.monotonic() + HEAL_S
    while not wanted(answer := stack.ask()):
        assert time.monotonic() < until, answer
    return answer


# Work under way


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Its ranker takes its time, and has room for all who ask."""
    folder = tmp_path_factory.mktemp("slow")
    stack = Stack(folder, FAKE_RANK_SECONDS=str(RANK_S), TANDEM_MAX_QUEUE="200")
    with stack.running():
        stack.heal()
        yield stack


def test_a_ranking_that_is_killed_in_the_middle_of_a_batch(slow: Stack) -> None:
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(slow.post, "/recommend", somebody() | {"timeout_ms": 5000})
        time.sleep(RANK_S / 2)
        slow.ranking.kill()
        answer = asked.result()
    assert (answer["degradation"], answer["rung"]) == (["ranker_unavailable"], "retrieval")
    slow.ranking.restart()
    slow.heal()


async def crowded(slow: Stack, client: Client, group: asyncio.TaskGroup, crowd: int) -> list[asyncio.Task[Answered]]:
    """So many ask, each something else, and a third of them at least wait for the model."""
    requests = [somebody() | {"timeout_ms": 20_000} for _ in range(crowd)]
    asked = [group.create_task(client.ask(request)) for request in requests]
    until = time.monotonic() + 10
    while await asyncio.to_thread(slow.metric, slow.ranking, "tandem_rank_queue") < crowd / 3:
        assert time.monotonic() < until, "they do not get as far as the ranker"
    return asked


def test_clients_that_leave_take_their_ranking_work_along(slow: Stack) -> None:
    crowd, abandoned = 40, 'tandem_rank_jobs_total{outcome="abandoned"}'
    before = slow.metric(slow.ranking, abandoned)

    async def ask_and_leave() -> None:
        async with Client(slow.gateway.port) as client, asyncio.TaskGroup() as group:
            for task in await crowded(slow, client, group, crowd):
                task.cancel()

    asyncio.run(ask_and_leave())
    until = time.monotonic() + HEAL_S
    while slow.metric(slow.ranking, abandoned) - before < crowd / 4:
        assert time.monotonic() < until, "the ranker works for people who have left"
        time.sleep(0.05)
    left = 'tandem_http_requests_total{method="POST",route="/recommend",status="499"}'
    assert slow.metric(slow.gateway, left) >= crowd / 4
    slow.heal()


def test_a_gateway_that_is_told_to_stop_answers_all_who_asked_before(slow: Stack) -> None:
    crowd = 100

    async def ask_then_stop() -> list[Answered]:
        async with Client(slow.gateway.port) as client, asyncio.TaskGroup() as group:
            asked = await crowded(slow, client, group, crowd)
            slow.gateway.signal(signal.SIGTERM)
        return [task.result() for task in asked]

    answers = asyncio.run(ask_then_stop())
    assert [answer.status for answer in answers] == [200] * crowd
    assert slow.gateway.process.wait(10) == 0
    assert sum(answer.ranked for answer in answers) >= crowd / 3
