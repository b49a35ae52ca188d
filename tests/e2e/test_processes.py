"""Three processes over real sockets: the same answers as one process, and an answer whatever dies."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.e2e.processes import Service, running, three

Three = tuple[Service, Service, Service]
ITEMS = 2_000
SETTLED_S = 30
TURNS = itertools.count(1)


def somebody() -> dict[str, Any]:
    """A history that nobody asked for before, so that no cache answers."""
    return {"history": ["i7", f"i{1 + next(TURNS) % ITEMS}", "i5"]}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    environment = {"TANDEM_POPULARITY_REFRESH_S": "0.5", "FAKE_ITEMS": str(ITEMS)}
    with three(tmp_path_factory.mktemp("stack"), **environment) as services:
        yield services


def recommend(service: Service, **request: Any) -> dict[str, Any]:
    response = httpx.post(service.url + "/recommend", json=somebody() | request, timeout=10)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def settled(service: Service, **request: Any) -> dict[str, Any]:
    """The first whole answer."""
    until = time.monotonic() + SETTLED_S
    while (answer := recommend(service, **request))["degraded"]:
        assert time.monotonic() < until, answer["degradation"]
        time.sleep(0.1)
    return answer


def in_time(service: Service, timeout_ms: int = 300) -> list[str]:
    """The degradation of an answer that came within its budget, 10 % and 20 ms; on a loaded machine the best of three
    counts."""
    for _ in range(3):
        with httpx.Client() as client:
            began = time.perf_counter()
            response = client.post(service.url + "/recommend", json=somebody() | {"timeout_ms": timeout_ms})
            took_ms = (time.perf_counter() - began) * 1000
        assert response.status_code == 200
        if took_ms <= timeout_ms * 1.1 + 20:
            degradation: list[str] = response.json()["degradation"]
            return degradation
    raise AssertionError(f"three answers in a row came late, the last one after {took_ms:.0f} ms")


QUESTIONS: list[dict[str, Any]] = [
    {},
    {"limit": 45},
    {"ranker": "retrieval", "limit": 3},
    {"history": ["i9", "nope"], "exclude_item_ids": ["i12"]},
    {"filter": {"categories": ["Horror"]}, "include": ["metadata", "scores"]},
    {"user_id": "stranger"},
    {"limit": 0},
    {"ranker": "collm"},
]


def test_three_processes_answer_as_one_does(stack: Three, tmp_path: Path) -> None:
    one = Service("all", tmp_path, FAKE_ITEMS=str(ITEMS))
    with running(one):
        for question in QUESTIONS:
            request = {"user_id": "u1", "timeout_ms": 5000} | question
            apart, together = (
                httpx.post(service.url + "/recommend", json=request, timeout=10) for service in (stack[0], one)
            )
            assert _lasting(apart) == _lasting(together)


def _lasting(response: httpx.Response) -> Any:
    """Without what differs from one request to the next."""
    passing = {"recommendation_id", "timing_ms", "instance", "request_id"}
    return response.status_code, {k: v for k, v in response.json().items() if k not in passing}


def test_items_with_odd_ids_survive_the_way(stack: Three) -> None:
    for odd in ("a/b", "a b?c#d", "ü", "..%2F"):
        response = httpx.get(f"{stack[0].url}/items/{quote(odd, safe='')}")
        assert (response.status_code, response.json()["type"]) == (404, "urn:tandem:problem:unknown-item")
        assert repr(odd) in response.json()["detail"]


def test_a_killed_ranking_degrades_and_comes_back_by_itself(stack: Three) -> None:
    gateway, _, ranking = stack
    assert not settled(gateway)["degraded"]
    ranking.kill()
    answer = recommend(gateway)
    assert (answer["degraded"], answer["degradation"]) == (True, ["ranker_unavailable"])
    assert {item["source"] for item in answer["items"]} == {"retrieval"}
    assert httpx.get(gateway.url + "/readyz").status_code == 200
    ranking.restart()
    assert settled(gateway)["items"][0]["source"] == "llamarec"


def test_a_stopped_ranking_costs_no_more_than_the_budget(stack: Three) -> None:
    gateway, _, ranking = stack
    settled(gateway)
    ranking.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            assert in_time(gateway) in (["ranker_timeout"], ["ranker_unavailable"])
    finally:
        ranking.signal(signal.SIGCONT)
    assert settled(gateway)["items"][0]["source"] == "llamarec"


def test_connections_recover_from_a_crowd_that_gave_up(stack: Three) -> None:
    gateway, _, ranking = stack
    settled(gateway)
    ranking.signal(signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: recommend(gateway, timeout_ms=200), range(48)))
    finally:
        ranking.signal(signal.SIGCONT)
    assert {reason for answer in answers for reason in answer["degradation"]} >= {"ranker_timeout"}
    settled(gateway)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: recommend(gateway, timeout_ms=2000), range(20)))
    assert not any(answer["degraded"] for answer in answers)


def test_a_killed_retrieval_leaves_what_is_popular(stack: Three) -> None:
    gateway, retrieval, _ = stack
    settled(gateway)
    retrieval.kill()
    answer = recommend(gateway, history=["i1", "i3"], limit=3)
    assert answer["degradation"] == ["retrieval_unavailable"]
    assert [item["item_id"] for item in answer["items"]] == ["i2", "i4", "i5"]
    strict = httpx.post(gateway.url + "/recommend", json=somebody() | {"allow_degraded": False})
    assert (strict.status_code, strict.headers["retry-after"]) == (503, "1")
    retrieval.restart()
    assert settled(gateway)["items"][0]["source"] == "llamarec"


def test_a_stopped_retrieval_costs_no_more_than_the_budget(stack: Three) -> None:
    gateway, retrieval, _ = stack
    settled(gateway)
    retrieval.signal(signal.SIGSTOP)
    try:
        assert in_time(gateway) == ["retrieval_unavailable"]
    finally:
        retrieval.signal(signal.SIGCONT)
    settled(gateway)


def test_one_request_id_runs_through_the_logs_and_no_user_id_does(stack: Three) -> None:
    gateway = stack[0]
    settled(gateway)
    httpx.post(gateway.url + "/recommend", json=somebody() | {"user_id": "u1"}, headers={"X-Request-Id": "trace-me"})
    for service in stack:
        while '"trace-me"' not in service.log.read_text():
            time.sleep(0.05)
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        assert any(line.get("request_id") == "trace-me" for line in lines), service.name
        assert not any('"u1"' in json.dumps(line) or "Title" in json.dumps(line) for line in lines)


def test_a_large_body_is_refused_over_a_socket(stack: Three) -> None:
    response = httpx.post(stack[0].url + "/recommend", content=b" " * 5_000_000, timeout=10)
    assert response.status_code == 413
    assert response.headers["content-type"] == "application/problem+json"


def test_work_past_its_deadline_is_refused_by_the_inner_services(stack: Three) -> None:
    for service, route in zip(stack[1:], ("/retrieve", "/rank"), strict=True):
        body = {"history": ["i1"], "candidates": [{"item_id": "i2", "score": 1}], "catalog": "x"}
        body = {"history": ["i1"]} if route == "/retrieve" else body
        response = httpx.post(service.url + route, json=body, headers={"X-Tandem-Deadline-Ms": "0"})
        assert (response.status_code, response.json()["type"]) == (504, "urn:tandem:problem:deadline-exceeded")


def test_the_ranking_service_refuses_another_catalogue(stack: Three) -> None:
    body = {"history": ["i1"], "candidates": [{"item_id": "i2", "score": 1}], "catalog": "0" * 64}
    response = httpx.post(stack[2].url + "/rank", json=body)
    assert (response.status_code, response.json()["type"]) == (409, "urn:tandem:problem:catalog-mismatch")


def test_a_gateway_that_starts_alone_becomes_ready_with_retrieval(tmp_path: Path) -> None:
    retrieval = Service("retrieval", tmp_path)
    retrieval.kill()
    gateway = Service("gateway", tmp_path, TANDEM_RETRIEVAL_URL=retrieval.url, TANDEM_POPULARITY_REFRESH_S="0.2")
    try:
        while _status(gateway) is None:
            time.sleep(0.05)
        assert _status(gateway) == 503
        assert httpx.post(gateway.url + "/recommend", json={"user_id": "u1"}).status_code == 503
        retrieval.restart()
        gateway.wait_ready()
    finally:
        gateway.stop()
        retrieval.stop()


def _status(service: Service) -> int | None:
    try:
        return httpx.get(service.url + "/readyz").status_code
    except httpx.ConnectError:
        return None


def test_clients_that_leave_cancel_their_work_in_the_ranking_queue(tmp_path: Path) -> None:
    def ask_and_leave(url: str) -> None:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=somebody() | {"timeout_ms": 10_000}, timeout=0.3)

    with three(tmp_path, FAKE_RANK_SECONDS="0.8", TANDEM_MAX_BATCH="1") as (gateway, _, ranking):
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(ask_and_leave, [gateway.url + "/recommend"] * 5))
        while 'outcome="abandoned"} 4.0' not in httpx.get(ranking.url + "/metrics").text:
            time.sleep(0.1)
        assert 'status="499"' in httpx.get(gateway.url + "/metrics").text


@pytest.mark.parametrize("stopped", [0, 2], ids=["gateway", "ranking"])
def test_a_stop_finishes_what_is_in_flight(stopped: int, tmp_path: Path) -> None:
    clients = 20
    patient = {"timeout_ms": 10_000}
    with three(tmp_path, FAKE_RANK_SECONDS="0.3", FAKE_ITEMS=str(ITEMS)) as stack, httpx.Client(timeout=15) as client:
        url = stack[0].url + "/recommend"
        with ThreadPoolExecutor(clients) as pool:
            futures = [pool.submit(client.post, url, json=somebody() | patient) for _ in range(clients)]
            time.sleep(0.4)
            stack[stopped].signal(signal.SIGTERM)
            answers = [future.result() for future in futures]
        assert [answer.status_code for answer in answers] == [200] * clients
        assert not any(answer.json()["degraded"] for answer in answers)
        assert stack[stopped].process.wait(10) == 0
