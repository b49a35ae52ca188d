"""What every pod keeps to, and who may talk to whom: over the objects of every overlay."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from services.gateway.settings import GatewaySettings
from tests.deploy.manifests import BUILDS, KUBERNETES, Object, Workload, build, of_kind, selects, workloads

PODS = [(name, pod) for name in BUILDS for pod in workloads(build(name))]
CONTAINERS = [(name, pod, container) for name, pod in PODS for container in pod.containers]
SERVED = [(name, pod) for name, pod in PODS if pod.served]
DNS_CACHE_S = 30
"""How long a cluster's names may be remembered (CoreDNS as kubeadm sets it up)."""
REFERENCE = re.compile(r"\$\((\w+)\)")


def label(value: object) -> str:
    return str(value["name"] if isinstance(value, dict) else value)


every_pod = pytest.mark.parametrize(("name", "pod"), PODS, ids=label)
every_container = pytest.mark.parametrize(("name", "pod", "container"), CONTAINERS, ids=label)
every_service = pytest.mark.parametrize(("name", "pod"), SERVED, ids=label)


@every_pod
def test_nobody_is_root_or_talks_to_the_cluster(name: str, pod: Workload) -> None:
    context = pod.pod["securityContext"]
    assert context["runAsNonRoot"]
    assert context["runAsUser"] > 0
    assert context["runAsGroup"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod.pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod.pod)
    assert not [volume for volume in pod.pod.get("volumes", []) if "hostPath" in volume]


@every_container
def test_a_container_can_do_what_it_must_and_no_more(name: str, pod: Workload, container: Object) -> None:
    context = container["securityContext"]
    assert context["readOnlyRootFilesystem"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not {"runAsUser", "runAsNonRoot", "privileged"} & set(context)
    assert not [port for port in container.get("ports", []) if "hostPort" in port]


@every_container
def test_a_container_has_requests_and_limits(name: str, pod: Workload, container: Object) -> None:
    resources = container["resources"]
    assert {"cpu", "memory"} <= set(resources["requests"])
    assert {"cpu", "memory"} <= set(resources["limits"])
    for what in resources["requests"]:
        assert amount(resources["requests"][what]) <= amount(resources["limits"][what])


def amount(quantity: str | int) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)(\w*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]


@every_container
def test_an_image_has_a_version(name: str, pod: Workload, container: Object) -> None:
    _, _, tag = container["image"].partition(":")
    assert re.search(r"\d+\.\d+", tag), container["image"]
    assert "latest" not in tag


@every_service
def test_what_serves_is_probed(name: str, pod: Workload) -> None:
    for container in pod.pod["containers"]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        paths = {
            kind: container[f"{kind}Probe"].get("httpGet", {}).get("path")
            for kind in ("startup", "readiness", "liveness")
        }
        if pod.part != "redis":
            started = "/livez" if pod.part == "gateway" else "/readyz"
            assert paths == {"startup": started, "readiness": "/readyz", "liveness": "/livez"}


@every_service
def test_an_ending_pod_has_time_for_what_is_in_flight(name: str, pod: Workload) -> None:
    if pod.part == "redis":
        return
    [settings] = [one["data"] for one in of_kind(build(name), "ConfigMap") if "TANDEM_SHUTDOWN_GRACE_S" in one["data"]]
    sleep = pod.pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep > GatewaySettings().default_timeout_ms / 1000
    assert pod.pod["terminationGracePeriodSeconds"] > sleep + int(settings["TANDEM_SHUTDOWN_GRACE_S"])
    if pod.part != "gateway":  # found by name alone
        assert sleep > DNS_CACHE_S


@every_service
def test_replicas_are_spread_and_not_all_evicted_at_once(name: str, pod: Workload) -> None:
    if pod.part == "redis":  # one, whose node must be able to be drained
        return
    spread = {one["topologyKey"] for one in pod.pod["topologySpreadConstraints"]}
    assert spread == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    budgets = [
        one for one in of_kind(build(name), "PodDisruptionBudget") if selects(one["spec"]["selector"], pod.labels)
    ]
    assert [one["spec"]["maxUnavailable"] for one in budgets] == [1]


@every_container
def test_what_is_secret_comes_by_reference(name: str, pod: Workload, container: Object) -> None:
    seen: set[str] = set()
    for variable in container.get("env", []):
        value = str(variable.get("value", ""))
        if re.search("SECRET|TOKEN|PASSWORD|SALT|_KEY$|REDISCLI_AUTH", variable["name"]):
            assert "secretKeyRef" in variable["valueFrom"]
        assert re.sub(REFERENCE, "", value) == value or set(REFERENCE.findall(value)) <= seen, "used before it is set"
        assert not re.search(r"://[^/]*:[^$/][^/]*@", value)
        seen.add(variable["name"])


@pytest.mark.parametrize("name", BUILDS)
def test_no_secret_is_among_the_objects(name: str) -> None:
    assert of_kind(build(name), "Secret") == []
    for one in of_kind(build(name), "ConfigMap"):
        assert not [key for key in one["data"] if re.search("SECRET|TOKEN|PASSWORD|SALT", key)]
        assert not re.search(r"[0-9a-f]{32}", "".join(one["data"].values()))


@every_container
def test_a_forward_pass_has_as_many_threads_as_there_are_cores(name: str, pod: Workload, container: Object) -> None:
    if container["name"] in ("retrieval", "ranking", "job"):
        [threads] = [one for one in container["env"] if one["name"] == "OMP_NUM_THREADS"]
        assert threads["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"
        assert amount(container["resources"]["limits"]["cpu"]) % 1 == 0


def test_a_gpu_is_asked_for_and_tolerated() -> None:
    found = {}
    for pod in workloads(build("gpu")):
        for one in pod.containers:
            if "nvidia.com/gpu" in one["resources"]["limits"]:
                found[pod.name] = one["resources"]
                assert pod.pod["tolerations"] == [
                    {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
                ]
                assert pod.pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
                assert (
                    one["resources"]["requests"]["nvidia.com/gpu"] == one["resources"]["limits"]["nvidia.com/gpu"] == 1
                )
    assert set(found) == {"ranking", "train"}


PORTS = {"gateway": 8000, "retrieval": 8001, "ranking": 8002, "redis": 6379}
INSIDE = {"gateway", "retrieval", "ranking", "redis", "jobs"}
ALLOWED = {
    ("gateway", "retrieval"),
    ("gateway", "ranking"),
    ("gateway", "redis"),
    ("retrieval", "redis"),
    ("ranking", "redis"),
    *((anybody, "gateway") for anybody in ("stranger", "monitoring")),
    *(("monitoring", part) for part in ("retrieval", "ranking")),
}
"""stranger: a pod of another namespace. monitoring: one of that namespace."""


@pytest.mark.parametrize("name", BUILDS)
def test_who_reaches_whom(name: str) -> None:
    pods = {pod.part: pod for pod in workloads(build(name))}
    found = {
        (a, b)
        for a, b in product([*pods, "stranger", "monitoring"], pods)
        if a != b and b in PORTS and reaches(build(name), pods, a, b, PORTS[b])
    }
    expected = {(a, b) for a, b in ALLOWED if b in pods and a in {*pods, "stranger", "monitoring"}}
    if name == "local":
        expected -= {("monitoring", "retrieval"), ("monitoring", "ranking")}
    assert found == expected


@pytest.mark.parametrize("name", BUILDS)
def test_the_world_is_reached_by_who_fetches_and_by_nobody_else(name: str) -> None:
    objects = build(name)
    pods = {pod.part: pod for pod in workloads(objects)}
    out = {a for a, pod in pods.items() if passes(objects, pod.labels, "Egress", None, None, {"port": 443})}
    assert out == ({"retrieval", "ranking"} if name.endswith("remote-registry") else {"jobs"})


@pytest.mark.parametrize("name", BUILDS)
def test_every_policy_is_about_some_pod(name: str) -> None:
    for policy in of_kind(build(name), "NetworkPolicy"):
        assert [pod for pod in workloads(build(name)) if selects(policy["spec"]["podSelector"], pod.labels)]
        peers = [
            peer["podSelector"]
            for direction, key in (("ingress", "from"), ("egress", "to"))
            for rule in policy["spec"].get(direction, [])
            for peer in rule.get(key, [])
            if "podSelector" in peer
        ]
        for peer in peers:
            assert [pod for pod in workloads(build(name)) if selects(peer, pod.labels)], policy["metadata"]["name"]


def reaches(objects: tuple[Object, ...], pods: Mapping[str, Workload], a: str, b: str, port: int) -> bool:
    """By the rules of NetworkPolicy: out of the one, if it is ours, and into the other."""
    named = {
        one["name"]: one["containerPort"] for container in pods[b].containers for one in container.get("ports", [])
    }
    [name] = [name for name, number in named.items() if number == port]
    where = {"port": port, "name": name}
    inside = pods[a].labels if a in pods else None
    out = a not in pods or passes(objects, pods[a].labels, "Egress", pods[b].labels, "tandem", where)
    namespace = "tandem" if a in pods else "monitoring" if a == "monitoring" else "elsewhere"
    return out and passes(objects, pods[b].labels, "Ingress", inside, namespace, where)


def passes(
    objects: tuple[Object, ...],
    labels: Mapping[str, str],
    direction: str,
    peer: Mapping[str, str] | None,
    namespace: str | None,
    where: Mapping[str, Any],
) -> bool:
    """peer: the other pod's labels, None for one that is not ours; namespace None: outside of the cluster."""
    policies = [
        one["spec"]
        for one in of_kind(objects, "NetworkPolicy")
        if selects(one["spec"]["podSelector"], labels) and direction in one["spec"]["policyTypes"]
    ]
    assert policies, f"nothing holds {labels} back"
    rules = [rule for policy in policies for rule in policy.get(direction.lower(), [])]
    key = "from" if direction == "Ingress" else "to"
    return any(_port(rule, where) and _peer(rule.get(key), peer, namespace) for rule in rules)


def _port(rule: Object, where: Mapping[str, Any]) -> bool:
    return "ports" not in rule or any(one["port"] in where.values() for one in rule["ports"])


def _peer(peers: list[Object] | None, labels: Mapping[str, str] | None, namespace: str | None) -> bool:
    if peers is None:
        return True
    for one in peers:
        if "namespaceSelector" in one:
            if namespace and selects(one["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
                return True
        elif "podSelector" in one and labels is not None and selects(one["podSelector"], labels):
            return True
    return False


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """job.sh in a folder of its own, with a `tandem` that writes down what it is asked and makes what it is named."""
    script = (KUBERNETES / "base" / "config" / "job.sh").read_text()
    for folder in ("/work", "/models"):
        script = script.replace(folder, f"{tmp_path}{folder}")
    (tmp_path / "job.sh").write_text(script)
    (tmp_path / "work").mkdir()
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "tandem"
    fake.write_text(FAKE.replace("HERE", str(tmp_path)))
    fake.chmod(0o755)
    return tmp_path


FAKE = """#!/bin/sh
echo "$@" >> HERE/said
case "$*" in
  *--resume*) if [ ! -f HERE/checkpoint ]; then exit 2; fi;;
esac
if [ -f HERE/dies ] && [ "$2" = "$(cat HERE/dies)" ]; then rm HERE/dies; exit 137; fi
if [ "$1 $2" = "release publish" ]; then mkdir -p HERE/models/registry && echo r > HERE/models/registry/current; fi
while [ $# -gt 0 ]; do
  if [ "$1" = --out ]; then mkdir -p "$2" && echo {} > "$2/manifest.json"; fi
  shift
done
"""


def said(job: Path, *arguments: str) -> tuple[int, list[str]]:
    """The exit status, and the commands without their folders."""
    (job / "said").unlink(missing_ok=True)
    environment = {"PATH": f"{job / 'bin'}:/bin:/usr/bin", "JOB_NAME": f"{arguments[0]}-1"}
    environment |= {"METHOD": "llamarec", "RECIPE": "full"}
    done = subprocess.run(["sh", str(job / "job.sh"), *arguments], env=environment, capture_output=True, text=True)
    lines = (job / "said").read_text().splitlines()
    return done.returncode, [line.replace(str(job), "") for line in lines]


RUN = "/work/train-1"


def test_a_training_job_publishes_both_stages(job: Path) -> None:
    status, lines = said(job, "train", "--dataset=ml-100k")
    made = f"--retriever {RUN}/retriever --data {RUN}/data --out {RUN}/ranker"
    ranker = f"train ranker --method llamarec --recipe full {made}"
    assert status == 0
    assert lines == [
        f"data prepare --dataset=ml-100k --out {RUN}/data",
        f"train retriever --data {RUN}/data --out {RUN}/retriever --resume",
        f"train retriever --data {RUN}/data --out {RUN}/retriever",
        f"{ranker} --resume",
        ranker,
        f"release publish --registry /models/registry --data {RUN}/data --retriever {RUN}/retriever "
        f"--ranker {RUN}/ranker --promote",
    ]
    assert [one.name for one in (job / "work").iterdir()] == ["ranker"]


def test_a_job_that_is_cut_off_goes_on_from_its_checkpoint(job: Path) -> None:
    (job / "dies").write_text("ranker")
    (job / "checkpoint").touch()
    assert said(job, "train", "--dataset=ml-100k")[0] == 137
    status, lines = said(job, "train", "--dataset=ml-100k")
    assert status == 0
    assert [" ".join(line.split()[:2]) for line in lines] == ["train ranker", "release publish"]
    assert lines[0].endswith("--resume")


def test_a_reindexing_job_keeps_the_language_model_and_promotes_nothing(job: Path) -> None:
    said(job, "train", "--dataset=ml-100k")
    status, lines = said(job, "reindex", "--dataset=ml-100k")
    assert status == 0
    assert [" ".join(line.split()[:2]) for line in lines] == [
        "data prepare",
        "train retriever",
        "train retriever",
        "train blend",
        "release publish",
    ]
    assert lines[-1].endswith("--no-promote")
    assert (job / "work" / "ranker" / "manifest.json").exists()


def test_there_is_nothing_to_reindex_before_the_first_training(job: Path) -> None:
    status, lines = said(job, "reindex", "--dataset=ml-100k")
    assert status != 0
    assert not [line for line in lines if line.startswith(("train blend", "release"))]


def test_a_release_is_promoted_by_a_job_too(job: Path) -> None:
    from tests.deploy.test_kubernetes import parse

    status, lines = said(job, "promote", "3f9c02d1a7be")
    assert status == 0
    assert lines == ["release promote --registry /models/registry 3f9c02d1a7be"]
    parse(lines[0].split())


def test_every_line_of_a_job_is_a_command_that_tandem_has(job: Path) -> None:
    from tests.deploy.test_kubernetes import parse

    for pod in workloads(build("cpu")):
        if pod.part == "jobs":
            _, lines = said(job, *pod.pod["containers"][0]["args"])
            for line in lines:
                parse(line.split())
