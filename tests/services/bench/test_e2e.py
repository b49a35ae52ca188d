"""Whom the load asks for, where the time goes, and that a slow client does read its byte a second."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

from services.bench import plots
from services.bench.e2e import BESIDE, BODIES, HITS, WAYS, Settings, bodies, run, shares, slow_client
from services.bench.processes import Server
from services.cli import main
from shared.wire.recommend import RecommendRequest
from tests.retriever import tiny

USERS = tiny.noise(users=100, length=60, items=200)


def test_every_body_is_a_request_of_the_catalogue_and_only_the_cached_come_again() -> None:
    asked = bodies(USERS)
    assert set(asked) == set(WAYS)
    for body in (one for way in WAYS for one in asked[way][:20]):
        assert set(RecommendRequest.model_validate_json(body).history or ()) <= {
            item.id for item in USERS.catalog.items
        }
    assert len(set(asked["ranked"])) > 0.99 * (BODIES - HITS)
    assert not set(asked["cached"]) & set(asked["ranked"])
    assert {json.loads(body)["ranker"] for body in asked["retrieved"]} == {"retrieval"}


def test_shares_are_of_the_answers_own_time() -> None:
    assert shares({"total": 100.0, "rank": 80.0, "cache": 5.0}) == {"rank": 0.8, "cache": 0.05, "else": 0.15}
    assert shares({}) == {}


def test_a_slow_client_asks_at_once_and_reads_a_byte_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        sent: list[int] = []

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                asked = b""
                while asked.count(b"POST /recommend") < 64:
                    asked += connection.recv(1 << 16)
                connection.settimeout(0.5)
                try:
                    while True:
                        sent.append(connection.send(bytes(1 << 16)))
                except OSError:
                    return

        server = threading.Thread(target=serve)
        server.start()
        with slow_client(Server(cast(Any, None), port), '{"user_id": "1"}'):
            server.join(30)
            assert not server.is_alive()
    assert sent, "nothing could be written to it at all"


def report() -> dict[str, Any]:
    figures = {"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0}
    rows = [
        {"way": way, "beside": beside, "open": figures, "stages": {"rank": 0.6, "else": 0.4}}
        for way in WAYS
        for beside in BESIDE
    ]
    return {"rows": rows}


def test_the_report_can_be_drawn(tmp_path: Path) -> None:
    plots.e2e(report(), tmp_path / "e2e.png")
    assert (tmp_path / "e2e.png").stat().st_size > 10_000


def test_what_is_not_there_is_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "e2e", "--load", "2"]) == 2
    assert "--load 2" in capsys.readouterr().err
    assert main(["bench", "e2e", "--data", str(tmp_path)]) != 0


@pytest.mark.real
def test_a_short_run_measures_every_row_and_what_it_says(tmp_path: Path) -> None:
    assert main(["data", "prepare", "--dataset", "ml-100k", "--out", str(tmp_path / "ml-100k")]) == 0
    settings = Settings(
        data=tmp_path / "ml-100k",
        retriever=Path("retriever/shipped/lrurec-ml-100k"),
        ranker=Path("ranker/shipped/llamarec-ml-100k"),
        seconds=3,
        load=0.3,
        connections=4,
    )
    rows = run(settings)["rows"]
    assert [(row["way"], row["beside"]) for row in rows] == [(way, beside) for way in WAYS for beside in BESIDE]
    rungs: dict[str, Counter[str]] = {way: Counter() for way in WAYS}
    for row in rows:
        rungs[row["way"]] += Counter(row["open"]["rungs"])
    assert set(rungs["cached"]) == {"cache"}
    assert set(rungs["retrieved"]) == {"retrieval"}
    assert rungs["ranked"]["ranker"] > 0
