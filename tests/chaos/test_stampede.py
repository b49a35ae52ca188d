"""A thousand requests for one cold key, in real processes over a real Redis: it is made once, whoever dies."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.chaos.gateway_crowd import BEGAN, KEY, MADE
from tests.redis_server import RedisServer

pytestmark = pytest.mark.real
CROWD = 500
PATIENT_S = 10.0
"""A Redis that is slow because the machine is loaded would rightly be gone without."""
HURRIED_S = 0.05
Process = subprocess.Popen[str]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


@contextmanager
def gateways(redis: RedisServer, *seconds: float, patience_s: float = PATIENT_S) -> Iterator[Sequence[Process]]:
    """One process for each time that its making would take; all are ready and none has begun."""
    command = [sys.executable, "-m", "tests.chaos.gateway_crowd", redis.url, str(patience_s), str(CROWD)]
    processes = [
        subprocess.Popen([*command, str(one)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for one in seconds
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def begin(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ends(process: Process) -> dict[str, int]:
    assert process.stdout is not None
    counted: dict[str, int] = json.loads(process.stdout.readline())
    return counted


def count(redis: RedisServer, key: str) -> int:
    raw = redis.command("GET", key)
    return 0 if raw == b"$-1\r\n" else int(raw.split(b"\r\n")[1])


def test_a_thousand_at_once_in_two_processes_make_one_call(redis: RedisServer) -> None:
    with gateways(redis, 0.3, 0.3) as processes:
        for process in processes:
            begin(process)
        one, two = (ends(process) for process in processes)
    assert (count(redis, BEGAN), count(redis, MADE)) == (1, 1)
    assert one["answers"] + two["answers"] == 2 * CROWD
    assert one.get("miss", 0) + two.get("miss", 0) == 1


def test_a_value_that_takes_no_time_is_made_once_too(redis: RedisServer) -> None:
    with gateways(redis, 0.0, 0.0) as processes:
        for process in processes:
            begin(process)
        one, two = (ends(process) for process in processes)
    assert count(redis, MADE) == 1
    assert one["answers"] + two["answers"] == 2 * CROWD


def test_when_the_one_who_makes_it_is_killed_one_other_takes_over(redis: RedisServer) -> None:
    with gateways(redis, 600.0, 0.1, 0.1) as (doomed, *others):
        begin(doomed)
        while count(redis, BEGAN) == 0:
            time.sleep(0.01)
        for process in others:
            begin(process)
        time.sleep(0.5)
        assert count(redis, BEGAN) == 1
        doomed.kill()
        assert [ends(process)["answers"] for process in others] == [CROWD, CROWD]
    assert (count(redis, BEGAN), count(redis, MADE)) == (2, 1)
    assert redis.command("EXISTS", KEY) == b":1\r\n"
    assert redis.command("EXISTS", f"{KEY}:lease") == b":0\r\n"


def test_without_redis_each_process_makes_it_once(redis: RedisServer) -> None:
    """Better twice than never."""
    with gateways(redis, 0.3, 0.3) as processes:
        redis.kill()
        for process in processes:
            begin(process)
        for process in processes:
            counted = ends(process)
            assert (counted["answers"], counted[MADE]) == (CROWD, 1)


def test_a_redis_that_hangs_meanwhile_keeps_nobody_from_an_answer(redis: RedisServer) -> None:
    with gateways(redis, 0.3, 0.3, patience_s=HURRIED_S) as processes:
        for process in processes:
            begin(process)
        while count(redis, BEGAN) == 0:
            time.sleep(0.01)
        redis.pause()
        try:
            assert all(ends(process)["answers"] == CROWD for process in processes)
        finally:
            redis.resume()
