"""The Dockerfiles: linted, read by Docker's own parser, and held to what an image must not have."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import dockerfile
import pytest
import tyro
from packaging.requirements import Requirement

from services.cli import COMMANDS
from tests.deploy import compose

DOCKER = compose.ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
SERVICES = {"gateway": 8000, "retrieval": 8001, "ranking": 8002, "ranking-cuda": 8002}
FOR_BUILDING = {"python3-pip", "python3-venv", "python3-dev", "gcc", "libc6-dev", "build-essential", "git", "curl"}
TRITON_COMPILES = {"python3-dev", "gcc", "libc6-dev"}
Step = dockerfile.Command


def stages(file: Path) -> list[list[Step]]:
    found: list[list[Step]] = []
    for step in dockerfile.parse_file(str(file)):
        if step.cmd.upper() == "FROM":
            found.append([])
        found[-1].append(step)
    return found


def named(steps: Sequence[Step], instruction: str) -> list[Step]:
    return [step for step in steps if step.cmd.upper() == instruction]


def installed(steps: Sequence[Step]) -> set[str]:
    """Debian packages of a stage."""
    runs = " && ".join(step.value[0] for step in named(steps, "RUN"))
    lists = re.findall(r"apt-get install -y --no-install-recommends ([^&]*)", runs)
    return {word for words in lists for word in words.split()}


every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def test_there_is_one_for_each_image() -> None:
    assert {file.stem for file in FILES} == {*SERVICES, "train"}


def test_hadolint_is_content() -> None:
    done = subprocess.run([compose.binary("hadolint"), *map(str, FILES)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@every_file
def test_bases_have_a_version(file: Path) -> None:
    for steps in stages(file):
        assert re.fullmatch(r"[a-z/]+:\d+\.\d+[\w.-]*", steps[0].value[0])


@every_file
def test_the_last_stage_runs_as_nobody_in_particular(file: Path) -> None:
    users = [step.value[0] for step in named(stages(file)[-1], "USER")]
    assert users == ["10001:10001"]


@every_file
def test_the_last_stage_has_nothing_to_build_with(file: Path) -> None:
    packages = installed(stages(file)[-1])
    assert "python3" in packages
    allowed = TRITON_COMPILES if file.stem == "ranking-cuda" else set()
    assert packages & FOR_BUILDING == allowed


@every_file
def test_pip_keeps_its_downloads_out_of_the_image_and_reads_a_secret_configuration(file: Path) -> None:
    for steps in stages(file):
        for step in named(steps, "RUN"):
            if "pip --python" in step.value[0]:
                assert step.flags == (
                    "--mount=type=cache,target=/root/.cache/pip",
                    "--mount=type=secret,id=pip,target=/etc/pip.conf",
                )


@every_file
def test_no_secret_and_no_index_is_written_into_it(file: Path) -> None:
    arguments = {step.value[0] for steps in stages(file) for step in named(steps, "ARG")}
    assert arguments <= {"PIP_EXTRA_INDEX_URL"}
    assert "://" not in re.sub(r"http://127\.0\.0\.1", "", file.read_text())


@every_file
def test_what_it_copies_is_here_and_reaches_the_build(file: Path) -> None:
    let_in = set(re.findall(r"^!(\S+)$", (compose.ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for steps in stages(file):
        for step in named(steps, "COPY"):
            if not any(flag.startswith("--from=") for flag in step.flags):
                assert set(step.value[:-1]) <= let_in
                assert all((compose.ROOT / source).exists() for source in step.value[:-1])


@every_file
def test_its_command_is_one_of_ours(file: Path) -> None:
    last = stages(file)[-1]
    assert [step.value for step in named(last, "ENTRYPOINT")] == [("tandem",)]
    (command,) = named(last, "CMD")
    name = next(name for name in (" ".join(command.value[:2]), command.value[0]) if name in COMMANDS)
    arguments = getattr(importlib.import_module(f"services.commands.{COMMANDS[name].module}"), COMMANDS[name].arguments)
    parsed = tyro.cli(arguments, args=command.value[len(name.split()) :])
    assert parsed.registry == Path("/models")


@pytest.mark.parametrize(("name", "port"), SERVICES.items())
def test_it_asks_itself_whether_it_is_ready(name: str, port: int) -> None:
    last = stages(DOCKER / f"{name}.Dockerfile")[-1]
    (check,) = named(last, "HEALTHCHECK")
    assert f"http://127.0.0.1:{port}/readyz" in check.value[-1]
    assert [step.value for step in named(last, "EXPOSE")] == [(str(port),)]
    assert named(last, "CMD")[0].value[:4] == ("serve", name.removesuffix("-cuda"), "--host", "0.0.0.0")


def test_the_gateway_has_no_model_library() -> None:
    runs = [step.value[0] for step in named(stages(DOCKER / "gateway.Dockerfile")[0], "RUN")]
    assert not any("torch" in run or ".[" in run for run in runs)


def pinned() -> dict[str, str]:
    lines = (DOCKER / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def packages(what: str) -> str:
    command = [sys.executable, str(DOCKER / "packages.py"), what]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_everything_that_an_image_installs_has_its_version() -> None:
    """docker/packages.py pins makes the file anew."""
    wanted = {line.partition("==")[0] for line in packages("pins").splitlines() if not line.startswith("#")}
    assert wanted <= set(pinned())


def test_the_versions_are_those_that_pyproject_allows() -> None:
    project = tomllib.loads((compose.ROOT / "pyproject.toml").read_text())["project"]
    texts = [
        *project["dependencies"],
        *(one for e in ("retrieval", "ranking") for one in project["optional-dependencies"][e]),
    ]
    for requirement in map(Requirement, texts):
        assert requirement.specifier.contains(pinned()[requirement.name.lower()]), requirement


def test_the_retrieval_image_is_smaller_than_the_ranking_image_and_the_gateways_by_far() -> None:
    megabytes = {line.split()[0]: float(line.split()[1]) for line in packages("sizes").splitlines()}
    assert 3 * megabytes["gateway"] < megabytes["retrieval"] < megabytes["ranking"] < megabytes["train"]
