"""Many writers, two gateways, and a Redis that is killed: what was acknowledged is there once, in order."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.processes import Service, running
from tests.redis_server import RedisServer

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SENT = 100_000
DIFFERENT = 80_000
USERS = 100
WRITERS = 8
BATCH = 100
DOWN_S = 0.5

Events = list[dict[str, Any]]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    # everysec keeps what it acknowledged through an orderly restart; only always does through a crash.
    with RedisServer(tmp_path, appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture
def gateways(redis: RedisServer, tmp_path: Path) -> Iterator[list[Service]]:
    services = [Service("all", tmp_path, TANDEM_REDIS_URL=redis.url) for _ in range(2)]
    with running(*services):
        yield services


def event(number: int) -> dict[str, Any]:
    """The events of one user have different times."""
    user, place = f"user-{number % USERS}", number // USERS
    return {"event_id": f"e{number}", "user_id": user, "item_id": f"{user}/{place}", "timestamp": 1_000_000 + place}


def shuffled(chance: random.Random) -> list[Events]:
    """All events in any order, a fifth of them for the second time, in batches."""
    numbers = list(range(DIFFERENT))
    numbers += chance.choices(numbers, k=SENT - DIFFERENT)
    chance.shuffle(numbers)
    return [[event(number) for number in numbers[start : start + BATCH]] for start in range(0, SENT, BATCH)]


def answer_of(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


class Writer:
    """Sends its batches one after the other, each until it is acknowledged."""

    def __init__(self, service: Service, batches: Sequence[Events]) -> None:
        self.service, self.batches = service, batches
        self.acknowledged = self.accepted = self.refused = 0

    def run(self) -> None:
        with httpx.Client(base_url=self.service.url, timeout=30) as http:
            for number, batch in enumerate(self.batches):
                answer = self.send(http, batch)
                assert answer["accepted"] + answer["duplicates"] == len(batch)
                self.accepted += answer["accepted"]
                self.acknowledged += 1
                if number % 10 == 0:
                    self._look(http, batch[-1], answer["tokens"])

    def send(self, http: httpx.Client, batch: Events) -> dict[str, Any]:
        while (response := http.post("/events", json={"events": batch})).status_code == 503:
            assert response.headers["retry-after"]
            self.refused += 1
            time.sleep(0.05)
        return answer_of(response)

    def _look(self, http: httpx.Client, sent: dict[str, Any], tokens: dict[str, str]) -> None:
        """Whoever reads after the acknowledgement sees the event, and a token that is no older."""
        while (response := http.get(f"/users/{sent['user_id']}")).status_code == 503:
            time.sleep(0.05)
        found = answer_of(response)
        assert int(found["token"], 16) >= int(tokens[sent["user_id"]], 16)
        assert sent["item_id"] in found["item_ids"]


def test_100_000_events_outlive_a_killed_redis(redis: RedisServer, gateways: list[Service]) -> None:
    batches = shuffled(random.Random(5))
    writers = [
        Writer(service, batches[start::WRITERS]) for start, service in enumerate(islice(cycle(gateways), WRITERS))
    ]

    def acknowledged() -> int:
        return sum(writer.acknowledged for writer in writers)

    with ThreadPoolExecutor(WRITERS) as threads:
        running_writers = [threads.submit(writer.run) for writer in writers]
        while acknowledged() < len(batches) / 2 and not all(one.done() for one in running_writers):
            time.sleep(0.01)
        redis.kill()
        time.sleep(DOWN_S)
        redis.start()
        for one in running_writers:
            one.result()

    assert acknowledged() == len(batches)
    assert sum(writer.refused for writer in writers) > 0
    # An acknowledgement that was lost on its way is sent again and answered as a duplicate.
    assert DIFFERENT - BATCH * WRITERS <= sum(writer.accepted for writer in writers) <= DIFFERENT
    expected = DIFFERENT // USERS
    for user in (f"user-{number}" for number in range(USERS)):
        found = httpx.get(f"{gateways[0].url}/users/{user}", timeout=30).json()
        assert found["item_ids"] == [f"{user}/{place}" for place in range(expected)]
        assert (found["seen_item_ids"], int(found["token"], 16)) == ([], expected)


def test_the_next_recommendation_with_the_token_rests_on_the_event(gateways: list[Service]) -> None:
    one, other = gateways

    def recommend(**request: Any) -> dict[str, Any]:
        """Asks again where the store was too slow for the gateway, which a loaded machine's may be."""
        question = {"user_id": "somebody", "limit": 60, "timeout_ms": 5000} | request
        while True:
            answer = answer_of(httpx.post(other.url + "/recommend", json=question, timeout=30))
            if "state_unavailable" not in answer["degradation"]:
                return answer

    writer = Writer(one, ())
    taken: set[str] = set()
    with httpx.Client(base_url=one.url, timeout=30) as http:
        for number in range(1, 30):
            sent = {"event_id": f"e{number}", "user_id": "somebody", "item_id": f"i{number}"}
            token = writer.send(http, [sent])["tokens"]["somebody"]
            taken.add(sent["item_id"])
            answer = recommend(after=token)
            assert "stale_history" not in answer["degradation"]
            assert not taken & {item["item_id"] for item in answer["items"]}
    assert "stale_history" in recommend(after=f"{len(taken) + 1:x}")["degradation"]
