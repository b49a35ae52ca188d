"""`tandem stack` runs what docker-compose.yml runs: the same graph, the same variables, from the same file."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.commands import demo
from services.commands.stack import Stack, run, settings
from services.stack.graph import INHERITED, Ports, parts
from services.stack.part import Part
from shared.errors import BadInput
from tests.deploy import compose
from tests.deploy.test_dashboards import exposed, queried
from tests.redis_server import free_port

WIRED = {"TANDEM_RETRIEVAL_URL", "TANDEM_RANKING_URL", "TANDEM_REDIS_URL", "TANDEM_API_KEYS_FILE"}
"""Where the parts find one another, and files: not the same on one machine and in a network of containers."""
PAGES = {"prometheus", "grafana"}
READY_S = 300
"""With the downloads of a clone that has never run anything."""
BACK_S = 120


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """Every variable of the example has a value, those too that are comments in it."""
    path = compose.environment(tmp_path)
    path.write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", path.read_text(), flags=re.MULTILINE))
    return path


@pytest.fixture
def graph(env_file: Path, tmp_path: Path) -> dict[str, Part]:
    return {part.name: part for part in parts(settings(env_file), tmp_path / "registry", tmp_path / "demo", Ports())}


@pytest.mark.parametrize("name", ["retrieval", "ranking", "gateway"])
def test_each_variable_of_one_is_in_the_other(name: str, graph: dict[str, Part], env_file: Path) -> None:
    theirs = compose.config(env_file)["services"][name]["environment"]
    ours = {key: value for key, value in graph[name].environment.items() if key not in INHERITED}
    assert set(theirs) == set(ours)
    assert {key: theirs[key] for key in theirs.keys() - WIRED} == {key: ours[key] for key in ours.keys() - WIRED}


def test_both_have_the_same_graph(graph: dict[str, Part], env_file: Path) -> None:
    services = compose.config(env_file)["services"]
    assert graph.keys() == services.keys() - PAGES
    for name, part in graph.items():
        assert set(part.needs) == set(services[name].get("depends_on", {})) - {"ranking-gpu"}, name


def test_neither_trains_before_its_first_answer(graph: dict[str, Part]) -> None:
    assert {"demo", "--no-train"} <= set(graph["train"].command)
    assert 'CMD ["demo", "--no-train",' in (compose.ROOT / "docker" / "train.Dockerfile").read_text()


def test_an_unset_variable_stays_unset(tmp_path: Path) -> None:
    """An empty string is a value, and for most settings a wrong one."""
    made = {part.name: part for part in parts({}, tmp_path / "registry", tmp_path / "demo", Ports())}
    assert {name for name in made["ranking"].environment if name.startswith("TANDEM_")} <= {"TANDEM_CACHE"}


def test_the_shell_comes_before_the_file(env_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_LOG_LEVEL", "error")
    monkeypatch.setenv("TANDEM_OTLP_ENDPOINT", "http://elsewhere:4318")
    env_file.write_text(re.sub("TANDEM_OTLP_ENDPOINT=.*", "", env_file.read_text()))
    told = settings(env_file)
    assert (told["TANDEM_LOG_LEVEL"], told["TANDEM_OTLP_ENDPOINT"]) == ("error", "http://elsewhere:4318")
    assert told["TANDEM_MAX_QUEUE"] == "64"


def test_paths_of_the_images_are_paths_of_the_registry(tmp_path: Path) -> None:
    made = parts({"TANDEM_API_KEYS_FILE": "/models/keys.json"}, tmp_path / "registry", tmp_path / "demo", Ports())
    assert made[-1].environment["TANDEM_API_KEYS_FILE"] == str(tmp_path / "registry" / "keys.json")


def test_no_secret_is_on_a_command_line(graph: dict[str, Part], env_file: Path) -> None:
    secrets = re.findall(r"=([0-9a-f]{64})$", env_file.read_text(), re.MULTILINE)
    assert len(secrets) == 6
    words = " ".join(word for part in graph.values() for word in part.command)
    assert not any(secret in words for secret in secrets)


def test_a_missing_environment_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"docker/env\.sh makes"):
        run(Stack(env_file=tmp_path / ".env"))


def test_a_taken_port_is_told(env_file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"127.0.0.1:{port}: .* Give another --port"):
            run(Stack(env_file=env_file, port=port, registry=tmp_path / "registry"))


def test_train_leaves_a_registry_alone_that_has_a_release(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "current").write_text("mine\n")
    demo.run(demo.Demo(registry=tmp_path / "registry", home=tmp_path / "home"))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["current", "registry"]


# The real thing: MovieLens, the shipped LRURec and adapters, a real Redis


class Real:
    def __init__(self, folder: Path) -> None:
        self.ports = {name: free_port() for name in ("", "retrieval-", "ranking-", "redis-")}
        self.log = folder / "stack.log"
        self.url = f"http://127.0.0.1:{self.ports['']}"
        self.env_file = compose.environment(folder)
        words = ["stack", "--env-file", str(self.env_file)]
        words += [f"--{name}port={port}" for name, port in self.ports.items()]
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "services.cli", *words]
            self.process = subprocess.Popen(command, cwd=compose.ROOT, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        until = time.monotonic() + READY_S
        while "stack     | ready" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.1)

    def recommend(self) -> dict[str, Any]:
        """Somebody new, so that no cache answers: that of the stack before this one is still in Redis."""
        turn = next(TURNS)
        body = {"history": ["50", str(1 + turn // 600 % 600), str(1 + turn % 600)], "timeout_ms": 20_000}
        answer = httpx.post(f"{self.url}/recommend", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    def whole(self) -> bool:
        try:
            answer = self.recommend()
        except httpx.TransportError:
            return False
        return answer["rung"] == "ranker" and not answer["degraded"]

    def children(self) -> dict[str, int]:
        """The parts by what tells them apart on their command lines."""
        told = subprocess.run(
            ["ps", "-ww", "--ppid", str(self.process.pid), "-o", "pid=,args="],
            capture_output=True,
            text=True,
            check=True,
        )
        found = {}
        for line in told.stdout.splitlines():
            pid, words = line.split(maxsplit=1)
            name = re.search(r"serve (\w+)|(redis)-server", words)
            if name:
                found[name[1] or name[2]] = int(pid)
        return found


TURNS = itertools.count(time.time_ns() // 1_000_000_000)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    stack = Real(tmp_path_factory.mktemp("stack"))
    try:
        yield stack
    finally:
        stack.process.terminate()
        stack.process.wait(60)


@pytest.mark.real
@pytest.mark.timeout(900)
def test_the_stack_answers_and_what_is_killed_comes_back(real: Real) -> None:
    real.wait_ready()
    assert real.whole()
    assert real.children().keys() == {"redis", "retrieval", "ranking", "gateway"}
    for name, pid in real.children().items():
        os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + BACK_S
        while real.children().get(name, pid) == pid or not real.whole():
            assert time.monotonic() < until, f"{name} is not back: {real.log.read_text()}"
            time.sleep(0.2)


@pytest.mark.real
@pytest.mark.timeout(900)
def test_every_metric_of_dashboard_and_rules_is_exposed_by_the_running_stack(real: Real) -> None:
    real.wait_ready()
    token = {"Authorization": f"Bearer {settings(real.env_file)['TANDEM_METRICS_TOKEN']}"}
    found = set()
    for name in ("", "retrieval-", "ranking-"):
        page = httpx.get(f"http://127.0.0.1:{real.ports[name]}/metrics", headers=token)
        assert page.status_code == 200, page.text
        found |= exposed(page.text)
    assert queried() <= found


@pytest.mark.real
@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_and_no_port(real: Real) -> None:
    """After the test above; alone it starts the stack as well."""
    real.wait_ready()
    left = real.children().values()
    real.process.send_signal(signal.SIGINT)
    assert real.process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in left)
    for port in real.ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
