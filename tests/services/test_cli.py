"""`tandem`: finds commands, names near misses, and turns errors into exit codes without a traceback."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

from services import cli
from shared.errors import BadArtifact, BadInput, TandemError, Unavailable


@dataclass(frozen=True, kw_only=True)
class Once:
    """A command made for this test."""

    count: int = 3
    """How often."""


class Command(ModuleType):
    """Stands where `tandem demo` is looked for, and does what the test says."""

    Demo = Once

    def __init__(self) -> None:
        super().__init__("services.commands.demo")
        self.error: BaseException | None = None
        self.seen: list[Once] = []

    def run(self, args: Once) -> None:
        self.seen.append(args)
        if self.error:
            raise self.error


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    module = Command()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_command_gets_its_arguments(command: Command) -> None:
    assert cli.main(["demo", "--count", "5"]) == 0
    assert command.seen == [Once(count=5)]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("no such user"), 2),
        (BadArtifact("a byte differs"), 3),
        (Unavailable("down"), 4),
        (TandemError("else"), 1),
    ],
)
def test_an_error_is_a_message_and_an_exit_code(
    command: Command, error: TandemError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command.error = error
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == f"tandem demo: {error}\n"


@pytest.mark.parametrize("told", ["", "go on with --resume"])
def test_ctrl_c_is_130(command: Command, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    command.error = KeyboardInterrupt(told) if told else KeyboardInterrupt()
    assert cli.main(["demo"]) == 130
    assert capsys.readouterr().err == f"tandem demo: {told or 'interrupted'}\n"


def test_a_file_that_cannot_be_written_is_bad_input(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command.error = PermissionError(13, "Permission denied", "out/x")
    assert cli.main(["demo"]) == 2
    assert capsys.readouterr().err == "tandem demo: out/x: Permission denied\n"
    command.error = OSError("of no file")
    with pytest.raises(OSError, match="of no file"):
        cli.main(["demo"])


def test_help_of_a_command_shows_its_defaults(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "tandem demo" in out
    assert "default: 3" in out


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert all(f"tandem {name}" in out for name in cli.COMMANDS)


def test_a_group_lists_its_own_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "--help"]) == 0
    out = capsys.readouterr().out
    assert "tandem serve gateway" in out
    assert "tandem demo" not in out


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "rankin"]) == 2
    assert "Did you mean `tandem serve ranking`?" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def absent(name: str) -> ModuleType:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli.importlib, "import_module", absent)
    assert cli.main(["demo"]) == 1
    assert "'torch'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "extra"), [("matplotlib.pyplot", "plots"), ("implicit", "baselines"), ("faiss", "models")]
)
def test_so_is_one_that_is_missed_later(
    command: Command, name: str, extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.error = ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert cli.main(["demo"]) == 1
    assert f"'.[{extra}]'" in capsys.readouterr().err


def test_a_module_of_ours_that_is_missing_is_our_bug(command: Command) -> None:
    command.error = ModuleNotFoundError("No module named 'shared.gone'", name="shared.gone")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["demo"])
