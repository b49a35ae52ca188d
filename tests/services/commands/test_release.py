"""`tandem release` and `tandem fetch`, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from services import cli
from shared.registry import Registry
from tests.services.releases import files


@pytest.fixture
def registry(tmp_path: Path) -> str:
    return str(tmp_path / "registry")


def publish(registry: str, folder: Path, name: str, *more: str, content: bytes = b"weights") -> int:
    data, retriever, rankers = files.folders(folder / name, content)
    words = ["--data", str(data), "--retriever", str(retriever), "--ranker", str(rankers[0]), "--id", name, *more]
    return cli.main(["release", "publish", "--registry", registry, *words])


def test_a_registry_that_is_not_there_is_no_empty_one(registry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "list", "--registry", registry]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_from_folders_to_a_copy_elsewhere(registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(registry, tmp_path, "monday", "--promote") == 0
    assert publish(registry, tmp_path, "tuesday", content=b"others") == 0
    assert capsys.readouterr().out == "monday\ntuesday\n"
    assert cli.main(["release", "list", "--registry", registry]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["release", "created", "catalogue", "retriever", "rankers"]
    assert [row[:9] for row in rows] == ["> monday ", "  tuesday"]
    assert all("cccccccccccc" in row and "lrurec@" in row and "llamarec@" in row for row in rows)

    copy = str(tmp_path / "copy")
    assert cli.main(["fetch", "--registry", registry, "--out", copy, "--newest", "2"]) == 0
    assert capsys.readouterr().out == "monday\ntuesday\n"
    assert (Registry(Path(copy)).current(), Registry(Path(copy)).ids()) == ("monday", ["monday", "tuesday"])

    assert cli.main(["release", "promote", "--registry", registry, "tuesday"]) == 0
    assert capsys.readouterr().out == "current: tuesday, before it monday\n"
    assert cli.main(["fetch", "--registry", registry, "--out", copy, "--no-promote"]) == 0
    assert Registry(Path(copy)).current() == "monday"
    assert cli.main(["fetch", "--registry", registry, "--out", copy]) == 0
    assert Registry(Path(copy)).current() == "tuesday"


def test_what_is_unknown_ends_with_a_reason(registry: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["release", "promote", "--registry", registry, "monday"]) == 2
    assert cli.main(["fetch", "--registry", registry, "--out", registry + "-copy"]) == 2
    assert cli.main(["fetch", "--registry", registry, "--out", registry + "-copy", "--newest", "-1"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in told] == ["tandem release promote", "tandem fetch", "tandem fetch"]
    assert not Path(registry + "-copy").exists()


def test_a_release_of_which_something_is_missing_is_listed_and_not_promoted(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(registry, tmp_path, "monday")
    kept = Registry(Path(registry))
    (kept.place(kept.release("monday").data) / "manifest.json").unlink()
    assert cli.main(["release", "list", "--registry", registry]) == 0
    assert "missing" in capsys.readouterr().out
    assert cli.main(["release", "promote", "--registry", registry, "monday"]) == 3
    assert "lacks artifacts/data@" in capsys.readouterr().err
