"""States in a real Redis: shared, bounded in time, and nothing that a request waits for when Redis is not there."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from retriever.retrieve import LRURecRetriever, build_index, load
from retriever.states import SHARED_FROM, States
from services.loading import retrieval_service
from services.retrieval import states as module
from services.retrieval.service import RetrievalService
from services.retrieval.settings import RetrievalSettings
from services.retrieval.states import SCHEMA, TAG, RedisStates, open_states
from shared.deadline import Deadline
from shared.errors import BadInput
from shared.wire.inner import RetrieveRequest
from tests.redis_server import RedisServer, free_port
from tests.retriever import tiny

ITEMS = tiny.catalog(40)
HISTORY = [n % 40 + 1 for n in range(SHARED_FROM)]
WINDOW = SHARED_FROM + 20
SOON_S = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("retriever") / "lrurec"
    tiny.trained(out)
    return out


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def opened(url: str, **settings: int) -> RedisStates:
    found = open_states(RetrievalSettings(redis_url=url, **settings))
    assert found is not None
    return found


def shared(server: RedisServer) -> RedisStates:
    return opened(server.url)


def retriever(folder: Path, shared: RedisStates | None = None) -> tuple[LRURecRetriever, Counter[str]]:
    """A process of its own, as far as its memory goes."""
    model = load(folder, ITEMS).retriever.model
    made, outcomes = LRURecRetriever(model, build_index(model), WINDOW), Counter[str]()
    states = States("v", 1 << 20, shared=shared)
    states.watch(lambda outcome: outcomes.update([outcome]))
    made.remember(states)
    return made, outcomes


def written(server: RedisServer, count: int) -> None:
    until = time.monotonic() + SOON_S
    while server.command("DBSIZE") != b":%d\r\n" % count:
        assert time.monotonic() < until, server.command("DBSIZE")
        time.sleep(0.01)


def test_one_process_goes_on_where_another_stood(folder: Path, redis: RedisServer) -> None:
    first, second = shared(redis), shared(redis)
    retriever(folder, first)[0].encode([HISTORY])
    written(redis, 1)
    other, outcomes = retriever(folder, second)
    found = other.encode([[*HISTORY, 7]])
    assert outcomes == {"advanced": 1}
    np.testing.assert_allclose(found, retriever(folder)[0].encode([[*HISTORY, 7]]), atol=1e-5)
    written(redis, 2)
    for one in (first, second):
        one.close()


def test_a_key_is_a_digest_that_expires_and_a_value_is_tagged(folder: Path, redis: RedisServer) -> None:
    one = opened(redis.url, states_ttl_s=77)
    retriever(folder, one)[0].encode([HISTORY])
    written(redis, 1)
    [key] = one._redis.keys("*")
    assert key.startswith(SCHEMA)
    assert len(key) == len(SCHEMA) + 16
    assert 0 < one._redis.ttl(key) <= 77
    assert one._redis.get(key).startswith(TAG)
    one.close()


@pytest.mark.parametrize("stored", [b"", b"garbage", TAG, TAG + b"short", b"tdst\x02\x00\x00\x00" + bytes(500)])
def test_what_is_no_state_in_redis_is_as_nothing(folder: Path, redis: RedisServer, stored: bytes) -> None:
    one = shared(redis)
    made, outcomes = retriever(folder, one)
    [key, *_] = States("v", 1000).keys(np.array(HISTORY))
    one._redis.set(SCHEMA + key, stored)
    np.testing.assert_allclose(made.encode([HISTORY]), retriever(folder)[0].encode([HISTORY]), atol=1e-5)
    assert outcomes == {"whole": 1}
    one.close()


def test_without_redis_it_starts_answers_and_finds_it_later(folder: Path, tmp_path: Path) -> None:
    port = free_port()
    one = opened(f"redis://127.0.0.1:{port}/0")
    made, outcomes = retriever(folder, one)
    made.encode([HISTORY])
    made.encode([HISTORY[::-1]])
    assert outcomes == {"whole": 2, "unavailable": 1}
    with RedisServer(tmp_path, port) as server:
        one._silent_until = 0.0
        made.encode([[*HISTORY, 5]])
        written(server, 1)
        one.close()


def test_a_redis_that_hangs_is_waited_for_once(
    folder: Path, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEFT_ALONE_S", 60.0)
    one = shared(redis)
    one.read([b"connect"])
    made, outcomes = retriever(folder, one)
    redis.pause()
    began = time.monotonic()
    for n in range(1, 21):
        made.encode([[n, *HISTORY]])
    assert time.monotonic() - began < SOON_S
    assert outcomes == {"whole": 20, "unavailable": 1}
    redis.resume()
    one.close()


def test_a_wrong_url_is_told_without_showing_it() -> None:
    with pytest.raises(BadInput, match="TANDEM_REDIS_URL is not a Redis URL") as told:
        open_states(RetrievalSettings(redis_url="http://user:secret@host"))
    assert "secret" not in str(told.value)


def test_without_a_url_there_is_nothing_shared() -> None:
    assert open_states(RetrievalSettings()) is None


class Heard:
    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def __call__(self, work: str, waited_s: float, seconds: float) -> None: ...

    def encoded(self, outcome: str) -> None:
        self.outcomes[outcome] += 1


async def retrieved(service: RetrievalService, *history: str) -> list[str]:
    found = await service.retrieve(RetrieveRequest(history=list(history), k=5), Deadline.after_ms(10_000))
    return [item.item_id for item in found.items]


@pytest.mark.anyio
async def test_a_service_remembers_as_its_settings_say_and_answers_the_same(folder: Path) -> None:
    remembers = retrieval_service(folder, ITEMS, settings=RetrievalSettings())
    forgets = retrieval_service(folder, ITEMS, settings=RetrievalSettings(states_max_bytes=0))
    remembers.took = heard = Heard()
    for history in (["i1", "i2"], ["i1", "i2", "i3"], ["i1", "i2", "i3"]):
        assert await retrieved(remembers, *history) == await retrieved(forgets, *history)
    assert heard.outcomes == {"whole": 1, "advanced": 1, "known": 1}
    remembers.close()
    forgets.close()


def test_a_name_that_is_not_found_in_time_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client bounds its sockets, not the search for an address."""
    asked = []

    def resolve(*args: object, **more: object) -> NoReturn:
        asked.append(args)
        time.sleep(0.5)
        raise OSError("no such name")

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    states = opened("redis://redis.internal:6379", redis_timeout_ms=30)
    heard: list[str] = []
    states.watch(heard.append)
    began = time.monotonic()
    assert states.read([b"a", b"b"]) == [None, None]
    states._silent_until = 0.0
    assert states.read([b"a"]) == [None], "and nobody queues up behind it"
    assert time.monotonic() - began < 0.4
    assert (heard, len(asked)) == (["unavailable"], 1)
    states.close()
