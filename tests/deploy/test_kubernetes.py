"""Each overlay builds, each object is what Kubernetes takes, and what they name of one another is there."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import tyro
import yaml
from kubernetes_validate import utils as validator

from services import cli
from services.commands.settings import ELSEWHERE, variables
from tests.deploy.manifests import (
    BUILDS,
    KUBERNETES,
    ROOT,
    Object,
    build,
    named,
    of_kind,
    secrets,
    selects,
    workloads,
)
from tests.redis_server import binary, free_port

OLDEST, NEWEST = "1.30", "1.37"
"""Kubernetes. Before 1.30 a preStop hook cannot sleep; NEWEST is what the schemas go to."""
CUSTOM = {"ServiceMonitor", "PrometheusRule"}
"""Kinds of the Prometheus operator, which have no schema among Kubernetes' own: what they hold is checked below, and by
promtool in test_rules.py."""
YOURS = {"source"}
"""Claims that whoever deploys makes."""
KINDS = {variable.name for variable in variables()} | set(ELSEWHERE)


@pytest.fixture(params=BUILDS)
def objects(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return build(request.param)


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_valid(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # It reads a megabyte of definitions for each object.
    monkeypatch.setattr(validator, "schema_contents", cache(validator.schema_contents))
    different = {json.dumps(one, sort_keys=True, default=str): one for name in BUILDS for one in build(name)}
    unknown = set()
    for one in different.values():
        try:
            kubernetes_validate.validate(one, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            unknown.add(one["kind"])
    assert unknown <= CUSTOM


def test_the_validator_would_object() -> None:
    broken = json.loads(json.dumps(named(build("cpu"), "Deployment", "gateway")))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, NEWEST, strict=True)


def test_nothing_lies_outside_the_namespace(objects: tuple[Object, ...]) -> None:
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {"tandem"}


def test_names_are_unique(objects: tuple[Object, ...]) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))


def test_every_selector_selects_something(objects: tuple[Object, ...]) -> None:
    pods = workloads(objects)
    for one in of_kind(objects, "Deployment", "StatefulSet"):
        assert selects(one["spec"]["selector"], one["spec"]["template"]["metadata"]["labels"])
    selectors = [one["spec"]["selector"] for one in of_kind(objects, "PodDisruptionBudget")]
    selectors += [{"matchLabels": one["spec"]["selector"]} for one in of_kind(objects, "Service")]
    selectors += [spread["labelSelector"] for pod in pods for spread in pod.pod.get("topologySpreadConstraints", [])]
    for selector in selectors:
        assert selector
        assert len([pod for pod in pods if selects(selector, pod.labels)]) == 1, selector


def test_every_port_of_a_service_is_a_port_of_its_pods(objects: tuple[Object, ...]) -> None:
    for service in of_kind(objects, "Service"):
        [pod] = [pod for pod in workloads(objects) if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
        ports = {port["name"]: port["containerPort"] for one in pod.containers for port in one.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]


def test_every_autoscaler_has_a_target_whose_replicas_it_alone_sets(objects: tuple[Object, ...]) -> None:
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        assert "replicas" not in named(objects, target["kind"], target["name"])["spec"]
        assert scaler["spec"]["minReplicas"] >= 2
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(objects, "HorizontalPodAutoscaler")}
    fixed = {pod.name for pod in workloads(objects) if pod.served and "replicas" in pod.spec}
    assert scaled | fixed == {pod.name for pod in workloads(objects) if pod.served}


def test_ranking_scales_by_a_metric_that_the_adapter_makes() -> None:
    [metric] = named(build("cpu"), "HorizontalPodAutoscaler", "ranking")["spec"]["metrics"]
    adapter = yaml.safe_load((ROOT / "deploy" / "prometheus" / "adapter.yml").read_text())
    assert metric["pods"]["metric"]["name"] in {rule["name"]["as"] for rule in adapter["rules"]["custom"]}


def test_what_is_mounted_and_referred_to_is_there(objects: tuple[Object, ...]) -> None:
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    claims = {one["metadata"]["name"] for one in of_kind(objects, "PersistentVolumeClaim")} | YOURS
    for pod in workloads(objects):
        volumes = {volume["name"]: volume for volume in pod.pod.get("volumes", [])}
        made = {one["metadata"]["name"] for one in pod.spec.get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configs
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets()
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        mounted = {mount["name"] for one in pod.containers for mount in one.get("volumeMounts", [])}
        assert mounted == set(volumes) | made, pod
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if config := source.get("configMapRef"):
                    assert config["name"] in configs
                else:
                    assert source["secretRef"]["optional"]
            for variable in container.get("env", []):
                source = variable.get("valueFrom", {})
                if key := source.get("configMapKeyRef"):
                    assert key["key"] in configs[key["name"]]
                if key := source.get("secretKeyRef"):
                    assert key["key"] in secrets()[key["name"]] | {"redis-url"}
                if field := source.get("resourceFieldRef"):
                    assert field["containerName"] == container["name"]


def test_every_setting_exists_and_is_read_by_who_gets_it(objects: tuple[Object, ...]) -> None:
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    seen = set()
    for pod in workloads(objects):
        for container in pod.containers:
            given = {name for name, _ in environment(container, configs)}
            ours = {name for name in given if name.startswith("TANDEM_")}
            seen |= ours
            if container["name"] in ("gateway", "retrieval", "ranking"):
                assert ours <= {one.name for one in variables([container["name"]])} | set(ELSEWHERE)
    assert len(seen) > 8
    for name, data in configs.items():
        assert {key for key in data if "TANDEM" in key.upper() and key not in KINDS} <= {"tandem.json"}, name
        if any(key.startswith("TANDEM_") for key in data):
            assert set(data) <= KINDS, name


def environment(container: Object, configs: dict[str, dict[str, str]]) -> Iterator[tuple[str, str | None]]:
    for source in container.get("envFrom", []):
        if ref := source.get("configMapRef"):
            yield from configs[ref["name"]].items()
    for variable in container.get("env", []):
        yield variable["name"], variable.get("value")


@pytest.mark.parametrize("part", ["gateway", "retrieval", "ranking"])
def test_a_service_takes_its_settings(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from services.commands.settings import SERVICES
    from services.http.settings import read

    objects = build("gpu")
    configs = {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")}
    for name, value in environment(container_of(objects, part), configs):
        monkeypatch.setenv(name, value or "s" * 40)
    settings = read(SERVICES[part])
    assert settings.internal_secret is not None
    assert settings.metrics_token is not None
    assert not settings.allow_open


def container_of(objects: tuple[Object, ...], part: str) -> Object:
    [pod] = [pod for pod in workloads(objects) if pod.served and pod.part == part]
    [container] = [one for one in pod.containers if one["name"] == part]
    return container


def test_every_command_is_one_that_tandem_has(objects: tuple[Object, ...]) -> None:
    checked = 0
    for pod in workloads(objects):
        for container in pod.containers:
            if container.get("command") == ["tandem"]:
                parse(container["args"])
                checked += 1
    assert checked == 5  # three services, two that fetch


def parse(words: list[str]) -> object:
    name = cli._command(words)
    assert name, words
    command = cli.COMMANDS[name]
    module = __import__(f"{cli.PACKAGE}.{command.module}", fromlist=[command.arguments])
    return tyro.cli(getattr(module, command.arguments), args=words[len(name.split()) :])


def test_a_gateway_reaches_every_replica_of_what_holds_releases(objects: tuple[Object, ...]) -> None:
    for part in ("retrieval", "ranking"):
        assert named(objects, "Service", part)["spec"]["clusterIP"] == "None"
    urls = dict(
        environment(
            container_of(objects, "gateway"),
            {one["metadata"]["name"]: one["data"] for one in of_kind(objects, "ConfigMap")},
        )
    )
    for part in ("retrieval", "ranking"):
        port = named(objects, "Service", part)["spec"]["ports"][0]["port"]
        assert urls[f"TANDEM_{part.upper()}_URL"] == f"http://{part}:{port}"


def test_the_monitor_finds_the_three_services_and_their_token() -> None:
    objects = build("cpu")
    monitor = named(objects, "ServiceMonitor", "tandem")["spec"]
    found = [one for one in of_kind(objects, "Service") if selects(monitor["selector"], one["metadata"]["labels"])]
    assert {one["metadata"]["name"] for one in found} == {"gateway", "retrieval", "ranking"}
    [endpoint] = monitor["endpoints"]
    assert {port["name"] for one in found for port in one["spec"]["ports"]} == {endpoint["port"]}
    token = endpoint["authorization"]["credentials"]
    assert token["key"] in secrets()[token["name"]]


def test_the_dashboard_is_the_one_file() -> None:
    dashboard = ROOT / "deploy" / "grafana" / "dashboards" / "tandem.json"
    config = named(build("cpu"), "ConfigMap", "grafana-tandem")
    assert config["data"] == {"tandem.json": dashboard.read_text()}
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_only_the_component_s_secret_is_not_made_for_you() -> None:
    def keys(name: str) -> set[str]:
        return {
            variable["valueFrom"]["secretKeyRef"]["key"]
            for pod in workloads(build(name))
            for one in pod.containers
            for variable in one.get("env", [])
            if "secretKeyRef" in variable.get("valueFrom", {})
        }

    assert keys("cpu") <= secrets()["tandem"]
    assert keys("cpu+external-redis") - secrets()["tandem"] == {"redis-url"}


def test_redis_starts_as_it_would_there(tmp_path: Path) -> None:
    objects = build("cpu")
    [pod] = [pod for pod in workloads(objects) if pod.name == "redis"]
    container = pod.containers[0]
    [config] = [one["data"]["redis.conf"] for one in of_kind(objects, "ConfigMap") if "redis.conf" in one["data"]]
    for folder in ("etc", "run", "data"):
        (tmp_path / folder).mkdir()
    port = free_port()
    (tmp_path / "etc" / "redis.conf").write_text(
        config.replace("dir /data", f"dir {tmp_path / 'data'}\nbind 127.0.0.1\nport {port}")
    )
    [script] = container["args"]
    script = script.replace("/etc/redis", str(tmp_path / "etc")).replace("/run/redis", str(tmp_path / "run"))
    script = script.replace("redis-server", binary())
    process = subprocess.Popen(
        [*container["command"], script],
        env={"REDISCLI_AUTH": "pass word", "PATH": "/bin:/usr/bin"},
        stdout=subprocess.DEVNULL,
    )
    try:
        assert _config(port) == {"appendonly": "yes", "maxmemory-policy": "noeviction", "maxmemory": str(1536 << 20)}
        assert "pass word" not in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0
    assert list((tmp_path / "data").rglob("*.aof"))


def _config(port: int) -> dict[str, str]:
    import redis

    until = time.monotonic() + 30
    with redis.Redis(port=port, password="pass word", decode_responses=True) as client:
        while True:
            try:
                return {name: client.config_get(name)[name] for name in ("appendonly", "maxmemory-policy", "maxmemory")}
            except redis.ConnectionError:
                assert time.monotonic() < until
                time.sleep(0.02)


def test_pinned_images_have_the_version_of_this_project() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for name in BUILDS:
        for pod in workloads(build(name)):
            tags = {one["image"].rpartition(":")[2] for one in pod.containers if "tandem/" in one["image"]}
            assert tags <= {version[1]}


def test_the_kustomizations_hold_every_file() -> None:
    """A manifest that nothing includes is one that nobody applies."""
    for folder in (KUBERNETES / "base", *(KUBERNETES / "components").iterdir(), *(KUBERNETES / "overlays").iterdir()):
        text = (folder / "kustomization.yaml").read_text()
        files = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
        assert [file for file in files if file != "kustomization.yaml" and file not in text] == []
