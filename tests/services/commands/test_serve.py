"""Where a service may listen: refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services import cli
from tests.services.keys import added

ALL = ("--data", "nowhere", "--retriever", "nowhere")
COMMANDS = {
    "all": (ALL, "TANDEM_API_KEYS_FILE"),
    "gateway": (("--data", "nowhere"), "TANDEM_API_KEYS_FILE"),
    "retrieval": (ALL, "TANDEM_INTERNAL_SECRET"),
    "ranking": (("--data", "nowhere", "--ranker", "nowhere"), "TANDEM_INTERNAL_SECRET"),
}
REFUSED, NO_ARTIFACT = 2, 3


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.http.logs.configure", lambda level: None)


def serve(service: str, host: str) -> int:
    return cli.main(["serve", service, *COMMANDS[service][0], "--host", host])


@pytest.mark.parametrize("service", COMMANDS)
def test_an_open_service_listens_to_its_own_machine_alone(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve(service, "0.0.0.0") == REFUSED
    told = capsys.readouterr().err
    assert COMMANDS[service][1] in told
    assert "TANDEM_ALLOW_OPEN" in told
    assert serve(service, "127.0.0.1") == NO_ARTIFACT


@pytest.mark.parametrize("service", COMMANDS)
@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_cannot_be_is_refused(service: str, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", service, *COMMANDS[service][0], "--port", port]) == REFUSED
    assert f"--port {port}" in capsys.readouterr().err


@pytest.mark.parametrize("service", COMMANDS)
def test_a_locked_service_listens_anywhere(service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added(tmp_path / "keys.json")
    locks = {"TANDEM_API_KEYS_FILE": str(tmp_path / "keys.json"), "TANDEM_INTERNAL_SECRET": "s" * 32}
    variable = COMMANDS[service][1]
    monkeypatch.setenv(variable, locks[variable])
    assert serve(service, "0.0.0.0") == NO_ARTIFACT


@pytest.mark.parametrize("service", COMMANDS)
def test_an_open_one_does_so_only_where_that_is_wanted(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_ALLOW_OPEN", "true")
    assert serve(service, "0.0.0.0") == NO_ARTIFACT


def test_the_gateways_own_secret_does_not_lock_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_INTERNAL_SECRET", "s" * 32)
    assert serve("gateway", "0.0.0.0") == REFUSED


@pytest.mark.parametrize("service", ["all", "retrieval", "ranking"])
def test_without_folders_or_a_registry_nothing_starts(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", service]) == REFUSED
    assert "TANDEM_REGISTRY" in capsys.readouterr().err


@pytest.mark.parametrize("service", COMMANDS)
def test_a_registry_without_a_current_release_starts_nothing(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", service, "--registry", str(tmp_path)]) == REFUSED
    assert "tandem release promote" in capsys.readouterr().err


@pytest.mark.parametrize("service", ["all", "retrieval", "ranking"])
def test_the_environment_names_the_registry_and_the_command_line_comes_first(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_REGISTRY", str(tmp_path / "a"))
    assert cli.main(["serve", service]) == REFUSED
    assert cli.main(["serve", service, "--registry", str(tmp_path / "b")]) == REFUSED
    told = capsys.readouterr().err.splitlines()
    assert [str(tmp_path / name) in line for name, line in zip("ab", told, strict=True)] == [True, True]


def test_a_variable_that_nothing_reads_is_named_with_the_one_that_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANDEM_MAX_QUEU", "3")
    monkeypatch.setenv("TANDEM_WEATHER", "fine")
    monkeypatch.setenv("TANDEM_CACHE", "/somewhere")
    with capture_logs() as logged:
        assert serve("gateway", "127.0.0.1") == NO_ARTIFACT
    told = [line["event"] for line in logged if line["log_level"] == "warning"]
    assert len(told) == 2
    assert "TANDEM_MAX_QUEU is read by nothing; did you mean TANDEM_MAX_QUEUE?" in told[0]
    assert "TANDEM_WEATHER is read by nothing. `tandem settings`" in told[1]
