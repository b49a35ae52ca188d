"""The commands and variables of the manifests, run as processes here: what Kubernetes would start does serve."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from services.releases.publish import publish
from shared.registry import Registry
from tests.deploy.manifests import Object, build, of_kind, workloads
from tests.e2e.processes import Service, free_port, running
from tests.redis_server import RedisServer
from tests.services.releases import made

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]
OBJECTS = build("cpu")
CONFIGS = {one["metadata"]["name"]: one["data"] for one in of_kind(OBJECTS, "ConfigMap")}
TANDEM = str(Path(sys.executable).parent / "tandem")
SECRETS = {
    name: secrets.token_hex(32)
    for name in ("internal-secret", "metrics-token", "log-salt", "erasure-secret", "redis-password")
}
REFERENCE = re.compile(r"\$\((\w+)\)")
HISTORY = ["i3", "i4"]


@dataclass(frozen=True)
class Pod:
    """One of a service: its containers as processes, with `here` in place of the cluster's names and paths."""

    part: str
    here: dict[str, str]

    def process(self, container: str, arguments: list[str] | None = None) -> tuple[list[str], dict[str, str]]:
        """The command, and the environment of a container with nothing of this machine's."""
        spec = self.container(container)
        given: dict[str, str] = {}
        for source in spec.get("envFrom", []):
            given |= CONFIGS[source["configMapRef"]["name"]] if "configMapRef" in source else {}
        for variable in spec.get("env", []):
            given[variable["name"]] = _value(variable, given)
        words = [REFERENCE.sub(lambda match: given[match[1]], word) for word in arguments or spec["args"]]
        environment = {name: self.moved(value) for name, value in given.items()}
        return [TANDEM, *map(self.moved, words)], environment | {"PATH": os.environ["PATH"]}

    def container(self, name: str) -> Object:
        [pod] = [pod for pod in workloads(OBJECTS) if pod.served and pod.part == self.part]
        [container] = [one for one in pod.containers if one["name"] == name]
        return container

    def moved(self, text: str) -> str:
        """In one go, the longest first: one path is a part of another."""
        there = "|".join(map(re.escape, sorted(self.here, key=len, reverse=True)))
        return re.sub(there, lambda match: self.here[match[0]], text)

    def fetch(self) -> None:
        command, environment = self.process("fetch")
        subprocess.run(command, env=environment, check=True)

    def refresh(self) -> None:
        """What the sidecar does once a minute."""
        [script] = self.container("refresh")["args"]
        [line] = re.findall(r"tandem (fetch .*?) &", script)
        words = [word.strip('"').replace("$REGISTRY_URL", "$(REGISTRY_URL)") for word in line.split()]
        command, environment = self.process("refresh", words)
        subprocess.run(command, env=environment, check=True)


def _value(variable: Object, given: dict[str, str]) -> str:
    if "value" in variable:
        return REFERENCE.sub(lambda match: given[match[1]], variable["value"])
    match variable["valueFrom"]:
        case {"configMapKeyRef": {"name": name, "key": key}}:
            return str(CONFIGS[name][key])
        case {"secretKeyRef": {"key": key}}:
            return SECRETS[key]
        case {"resourceFieldRef": _}:
            return "1"
    raise AssertionError(variable)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cluster")
    made.registry(folder)
    (folder / "state").mkdir()
    (folder / "keys").mkdir()
    return folder


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    command = [TANDEM, "keys", "add", "--file", f"{folder}/keys/keys.json", "--tenant", "default"]
    made = subprocess.run([*command, "--scopes", "read,write,admin"], capture_output=True, text=True, check=True)
    return made.stdout.strip()


@pytest.fixture(scope="module")
def pods(folder: Path, key: str) -> Iterator[dict[str, tuple[Pod, Service]]]:
    ports = {"retrieval": free_port(), "ranking": free_port(), "gateway": free_port()}
    with RedisServer(folder) as redis, ExitStack() as stack:
        assert redis.command("CONFIG", "SET", "requirepass", SECRETS["redis-password"]) == b"+OK\r\n"
        cluster = {
            "retrieval:8001": f"127.0.0.1:{ports['retrieval']}",
            "ranking:8002": f"127.0.0.1:{ports['ranking']}",
            "redis:6379": f"127.0.0.1:{redis.port}",
            "/etc/tandem/keys": f"{folder}/keys",
            "/var/lib/tandem": f"{folder}/state",
            "/models/registry": f"{folder}/registry",
            "/models/cache": f"{folder}/cache",
        }
        found = {}
        for part, port in ports.items():
            pod = Pod(part, {**cluster, "/registry": f"{folder}/{part}"})
            if part != "gateway":
                pod.fetch()
            command, environment = pod.process(part)
            found[part] = pod, Service(part, folder, port, command, **environment)
        stack.enter_context(running(*(service for _, service in found.values())))
        yield found


def gateway(pods: dict[str, tuple[Pod, Service]], key: str) -> httpx.Client:
    return httpx.Client(base_url=pods["gateway"][1].url, headers={"X-Api-Key": key}, timeout=60)


def test_a_request_is_answered_by_all_of_them(pods: dict[str, tuple[Pod, Service]], key: str, folder: Path) -> None:
    release = Registry(folder / "registry").release("one")
    with gateway(pods, key) as http:
        answer = http.post("/recommend", json={"history": HISTORY, "limit": 5, "timeout_ms": 20000}).json()
        event = {"event_id": "1", "user_id": "u", "item_id": "i5"}
        assert http.post("/events", json=event).json()["accepted"] == 1
        assert http.get("/users/u/history").json()["item_ids"] == ["i5"]
    assert answer["degraded"] is False
    assert answer["model"]["retriever"] == release.retriever.name
    assert answer["model"]["ranker"] == release.rankers[0].name
    assert len(answer["items"]) == 5


def test_strangers_get_nowhere(pods: dict[str, tuple[Pod, Service]]) -> None:
    asked = {"history": HISTORY}
    for part, path in (("gateway", "/recommend"), ("retrieval", "/retrieve"), ("ranking", "/rank")):
        assert httpx.post(pods[part][1].url + path, json=asked).status_code == 401


def test_metrics_are_for_who_has_the_token(pods: dict[str, tuple[Pod, Service]]) -> None:
    bearer = {"Authorization": f"Bearer {SECRETS['metrics-token']}"}
    for _, service in pods.values():
        assert httpx.get(service.url + "/metrics").status_code == 401
        assert "tandem_http_requests_total" in httpx.get(service.url + "/metrics", headers=bearer).text


def test_what_is_published_is_served_after_the_sidecars_have_looked(
    pods: dict[str, tuple[Pod, Service]], key: str, folder: Path
) -> None:
    registry = Registry(folder / "registry")
    three = registry.release("three")
    places = [registry.folder / "artifacts" / part.name for part in three.parts]
    publish(registry, places[0], places[1], places[2:], "later")
    with gateway(pods, key) as http:
        wanted = {"release": "later", "as": "live"}
        assert http.post("/admin/models", json=wanted).status_code == 404
        for part in ("retrieval", "ranking"):
            pods[part][0].refresh()
        served = http.post("/admin/models", json=wanted)
        assert served.status_code == 200, served.text
        assert served.json()["live"]["release"] == "later"
        asked = {"history": HISTORY, "timeout_ms": 20000}
        assert http.post("/recommend", json=asked).json()["model"]["retriever"] == three.retriever.name
        assert http.post("/admin/models/rollback").status_code == 200
        assert http.post("/recommend", json=asked).json()["model"]["retriever"] != three.retriever.name


def test_they_end_in_order(pods: dict[str, tuple[Pod, Service]]) -> None:
    assert {part: service.stop() for part, (_, service) in pods.items()} == dict.fromkeys(pods, 0)
