"""The product over its real parts: MovieLens, a trained LRURec, the shipped adapter on SmolLM2, real processes.

The demo's folder is used, so that a clone that has run `make demo` does not train again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ranker.registry import SHIPPED
from tests.e2e.processes import Service, free_port, running

pytestmark = [pytest.mark.real, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
HOME = ROOT / "artifacts" / "demo"
ADAPTER = SHIPPED / "llamarec-ml-100k"
DATA, RETRIEVER = HOME / "ml-100k", HOME / "retriever"
PARTS = {
    "retrieval": ("--data", str(DATA), "--retriever", str(RETRIEVER)),
    "ranking": ("--data", str(DATA), "--ranker", str(ADAPTER)),
    "gateway": ("--data", str(DATA)),
    "all": ("--data", str(DATA), "--retriever", str(RETRIEVER), "--ranker", str(ADAPTER)),
}


def tandem(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ)


@pytest.fixture(scope="module", autouse=True)
def demo() -> str:
    """What the first `tandem demo --once` prints; it makes the data and the retriever where they are missing."""
    done = tandem("demo", "--once", "--port", str(free_port()))
    assert done.returncode == 0, done.stderr
    return done.stdout


def service(name: str, folder: Path, **environment: str) -> Service:
    return Service(
        name, folder, None, (sys.executable, "-m", "services.cli", "serve", name, *PARTS[name]), **environment
    )


TURNS = itertools.count(1)
Three = tuple[Service, Service, Service]


@pytest.fixture(scope="module")
def stack(demo: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    folder = tmp_path_factory.mktemp("stack")
    retrieval, ranking = service("retrieval", folder), service("ranking", folder)
    with running(retrieval, ranking):
        gateway = service("gateway", folder, TANDEM_RETRIEVAL_URL=retrieval.url, TANDEM_RANKING_URL=ranking.url)
        with running(gateway):
            yield gateway, retrieval, ranking


def recommend(gateway: Service, **request: Any) -> dict[str, Any]:
    body = {"user_id": "1", "timeout_ms": 20_000} | request
    answer = httpx.post(gateway.url + "/recommend", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_the_demo_shows_four_rankers_side_by_side_and_a_request(demo: str) -> None:
    assert "20 candidates of lrurec@" in demo
    for name in ("llamarec", "collm", "llara", "recllm"):
        assert f"{name}  blend 0." in demo
        assert f"{name}  ms: total" in demo
    assert demo.count("not degraded") == 4
    assert "curl -s http" in demo


def test_a_second_demo_answers_within_a_minute() -> None:
    began = time.monotonic()
    assert tandem("demo", "--once", "--port", str(free_port())).returncode == 0
    assert time.monotonic() - began < 60


def test_three_processes_answer_as_one_does(stack: Three, tmp_path: Path) -> None:
    one = service("all", tmp_path)
    with running(one):
        for request in ({}, {"limit": 40}, {"ranker": "retrieval"}, {"history": ["50", "181"]}, {"user_id": "nobody"}):
            apart, together = recommend(stack[0], **request), recommend(one, **request)
            assert [i["item_id"] for i in apart["items"]] == [i["item_id"] for i in together["items"]]
            scores = [[i["score"] for i in answer["items"]] for answer in (apart, together)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)
            for same in ("model", "degraded", "degradation", "missing_ids"):
                assert apart[same] == together[same]


def somebody_new() -> list[str]:
    """A history that nobody asked for before, so that no cache answers."""
    turn = next(TURNS)
    return ["50", "181", str(1 + turn)]


def test_a_killed_ranker_degrades_and_comes_back(stack: Three) -> None:
    gateway, _, ranking = stack
    known = recommend(gateway, history=["50", "181"])
    assert known["items"][0]["source"] == "llamarec"
    ranking.kill()
    history = somebody_new()
    answer = recommend(gateway, history=history)
    assert answer["degraded"]
    assert answer["degradation"] == ["ranker_unavailable"]
    assert answer["items"] == recommend(gateway, history=history, ranker="retrieval")["items"]
    cached = recommend(gateway, history=["50", "181"])
    assert (cached["rung"], cached["items"], cached["degraded"]) == ("cache", known["items"], False)
    ranking.restart()
    while recommend(gateway, history=somebody_new())["degraded"]:
        time.sleep(0.1)


def test_a_stopped_ranker_costs_no_more_than_the_time_allowed(stack: Three) -> None:
    gateway, _, ranking = stack
    ranking.signal(signal.SIGSTOP)
    try:
        for _ in range(5):
            began = time.perf_counter()
            answer = recommend(gateway, history=somebody_new(), timeout_ms=300)
            assert (time.perf_counter() - began) * 1000 < 350
            assert answer["degradation"] in (["ranker_timeout"], ["ranker_unavailable"])
    finally:
        ranking.signal(signal.SIGCONT)
    while recommend(gateway, history=somebody_new())["degraded"]:
        time.sleep(0.1)


@pytest.mark.parametrize("damage", ["flip", "remove", "mismatch"])
def test_a_damaged_pair_refuses_to_start_and_says_which(damage: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(ADAPTER, adapter)
    weights = adapter / "adapter.safetensors"
    if damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "remove":
        weights.unlink()
    else:
        manifest = json.loads((adapter / "manifest.json").read_text())
        manifest["catalog_fingerprint"] = "0" * 64
        (adapter / "manifest.json").write_text(json.dumps(manifest))
    done = tandem("serve", "all", *PARTS["all"][:4], "--ranker", str(adapter), "--port", str(free_port()))
    assert done.returncode == 3
    assert str(adapter) in done.stderr
    assert {"flip": "sha256", "remove": "lacks adapter.safetensors", "mismatch": "catalogue 000000000000"}[
        damage
    ] in done.stderr


def test_the_shipped_adapter_is_small_and_not_worse_than_the_retriever(tmp_path: Path) -> None:
    assert sum(file.stat().st_size for file in ADAPTER.iterdir()) < 5_000_000
    out = tmp_path / "evaluation.json"
    plots = ("--plots", str(tmp_path / "plots"))
    done = tandem("evaluate", *PARTS["all"], "--order-users", "5", "--json", str(out), *plots)
    assert done.returncode == 0, done.stderr
    made = json.loads(out.read_text())
    assert set(made["rows"]) == {"popularity", "lrurec", "llamarec alone", "llamarec blend"}
    assert made["rows"]["llamarec blend"]["ndcg@10"] >= made["rows"]["lrurec"]["ndcg@10"]
    assert made["rows"]["lrurec"]["ndcg@10"] > 2 * made["rows"]["popularity"]["ndcg@10"]
    assert {f.name for f in (tmp_path / "plots").iterdir()} >= {"movement.png", "reliability.png"}


def test_recommend_prints_known_titles(tmp_path: Path) -> None:
    done = tandem("recommend", *PARTS["all"], "--history", "50,181", "-k", "5")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
    unknown = tandem("recommend", *PARTS["all"], "--history", "50,nope")
    assert unknown.returncode == 2
    assert "'nope'" in unknown.stderr
