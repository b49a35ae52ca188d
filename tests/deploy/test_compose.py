"""docker-compose.yml, read by docker-compose itself, which holds it to the compose specification."""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import compose

PROFILES = ("cpu", "gpu")
OURS = {"train", "retrieval", "ranking", "ranking-gpu", "gateway"}
BY_COMPOSE_ALONE = {"COMPOSE_PROFILES"}


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compose.environment(tmp_path_factory.mktemp("compose"))


@pytest.fixture(scope="module")
def services(env_file: Path) -> dict[str, Any]:
    """Of both profiles."""
    found: dict[str, Any] = compose.config(env_file, *PROFILES)["services"]
    return found


@pytest.mark.parametrize("profile", PROFILES)
def test_each_profile_has_one_ranking_service(env_file: Path, profile: str) -> None:
    names = set(compose.config(_of(env_file, profile))["services"])
    assert names == {"redis", "train", "retrieval", "gateway", "prometheus", "grafana"} | {
        "ranking" if profile == "cpu" else "ranking-gpu"
    }


def _of(env_file: Path, profile: str) -> Path:
    other = env_file.with_name(f"{profile}.env")
    other.write_text(env_file.read_text().replace("COMPOSE_PROFILES=cpu", f"COMPOSE_PROFILES={profile}"))
    return other


def test_the_specification_is_held(env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(compose.FILE.read_text().replace("read_only: true", "read_onyl: true"))
    monkeypatch.setattr(compose, "FILE", broken)
    with pytest.raises(subprocess.CalledProcessError) as refused:
        compose.config(env_file)
    assert b"read_onyl" in refused.value.stderr


def test_without_secrets_it_says_how_to_make_them() -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        compose.config(compose.EXAMPLE)
    assert b"docker/env.sh" in refused.value.stderr


def test_each_variable_is_in_the_example_and_each_of_the_example_is_used() -> None:
    assert compose.variables() == compose.documented() - BY_COMPOSE_ALONE


def test_the_example_holds_no_secret_and_env_sh_makes_each_of_its_own(env_file: Path) -> None:
    empty = set(re.findall(r"^(\w+)=$", compose.EXAMPLE.read_text(), re.MULTILINE))
    secrets = {name for name in compose.documented() if re.search("SECRET|TOKEN$|PASSWORD|SALT", name)}
    made = dict(re.findall(r"^(\w+)=([0-9a-f]{64})$", env_file.read_text(), re.MULTILINE))
    assert empty == secrets == set(made)
    assert len(set(made.values())) == len(made)
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600


def test_env_sh_leaves_a_file_alone_that_is_there(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MINE=1\n")
    assert compose.environment(tmp_path).read_text() == "MINE=1\n"


def test_nothing_runs_with_more_rights_than_it_needs(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "cap_add" not in service, name
        assert not service.get("privileged"), name


def test_everything_is_bounded_and_has_a_version(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert {"cpus", "memory"} <= set(service["deploy"]["resources"]["limits"]), name
        assert re.search(r":v?\d+\.\d+\.\d+(-\w+)?$", service["image"]), service["image"]


def test_only_the_gateway_and_the_pages_are_published_and_on_the_loopback(services: dict[str, Any]) -> None:
    published = {name: [port["host_ip"] for port in one["ports"]] for name, one in services.items() if one.get("ports")}
    assert published == {name: ["127.0.0.1"] for name in ("gateway", "prometheus", "grafana")}


def test_the_inner_services_reach_only_one_another(env_file: Path, services: dict[str, Any]) -> None:
    assert compose.config(env_file)["networks"]["inner"]["internal"]
    for name in ("redis", "retrieval", "ranking", "ranking-gpu"):
        assert set(services[name]["networks"]) == {"inner"}


def test_redis_is_full_before_it_is_killed(services: dict[str, Any]) -> None:
    """It needs as much again while its file is rewritten, and evicts nothing: an evicted key is a lost history."""
    redis = services["redis"]
    words = shlex.split(redis["command"][-1].split("<<")[0])
    given = dict(pairwise(words))
    assert (given["--maxmemory-policy"], given["--save"], given["--appendonly"]) == ("noeviction", "", "yes")
    limit = int(redis["deploy"]["resources"]["limits"]["memory"])
    assert 2 * int(given["--maxmemory"].removesuffix("mb")) << 20 <= limit


def test_who_serves_waits_until_what_it_needs_is_healthy(services: dict[str, Any]) -> None:
    def needs(name: str) -> dict[str, str]:
        return {other: how["condition"] for other, how in services[name]["depends_on"].items()}

    made = {"train": "service_completed_successfully"}
    for name in ("ranking", "ranking-gpu"):
        assert needs(name) == made
    assert needs("retrieval") == made | {"redis": "service_healthy"}
    assert needs("gateway") == dict.fromkeys(("redis", "retrieval", "ranking", "ranking-gpu"), "service_healthy")
    for name in ("redis", "prometheus", "grafana"):
        assert services[name]["healthcheck"]["test"], name


def test_what_is_mounted_from_here_is_here(env_file: Path) -> None:
    whole = compose.config(env_file, *PROFILES)
    mounted = [mount["source"] for one in whole["services"].values() for mount in one.get("volumes", ())]
    mounted += [one["file"] for one in whole["configs"].values()]
    here = [Path(source) for source in mounted if source.startswith("/")]
    assert len(here) == 4
    assert [path for path in here if not path.exists()] == []
    for name in OURS:
        assert (compose.ROOT / whole["services"][name]["build"]["dockerfile"]).is_file()


def test_requests_in_flight_finish_before_a_service_is_killed(services: dict[str, Any]) -> None:
    for name in OURS - {"train"}:
        grace_s = int(services[name]["environment"]["TANDEM_SHUTDOWN_GRACE_S"])
        assert float(services[name]["stop_grace_period"].removesuffix("s")) > grace_s


def test_a_models_folder_is_written_by_train_alone(services: dict[str, Any]) -> None:
    for name in OURS:
        mounts = [mount for mount in services[name]["volumes"] if mount["target"] == "/models"]
        assert [bool(mount.get("read_only")) for mount in mounts] == [name != "train"]
