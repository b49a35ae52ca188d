"""`tandem data prepare`: its options reach the pipeline, its counts reach stdout."""

from __future__ import annotations

from pathlib import Path

import pytest
import tyro

from services.commands.data import Prepare, run
from shared.data.prepared import load
from shared.errors import BadInput
from tests.shared.data.files import EVENTS, ITEMS, csv, small_folder, write


def call(*arguments: object) -> None:
    run(tyro.cli(Prepare, args=[str(argument) for argument in arguments]))


def test_the_counts_before_and_after_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--min-user", 2, "--min-item", 0)
    call("--dataset", "table", "--source", small_folder(tmp_path), "--out", tmp_path / "out", *options)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "before filtering: 2 users / 3 items / 6 interactions"
    assert printed[1] == "after filtering:  2 users / 3 items / 6 interactions"
    assert load(tmp_path / "out").manifest.config["min_user"] == 2


def test_columns_and_the_file_of_items_are_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = write(tmp_path / "log.csv", csv("who,what,when", [*EVENTS, ("u1", "a", "never")]))
    items = write(tmp_path / "names.csv", csv("what,name", ITEMS))
    names = ("--user", "who", "--item", "what", "--time", "when", "--title", "name")
    files = ("--source", events, "--items", items, "--out", tmp_path / "out")
    call("--dataset", "table", *files, *names, "--min-user", 0, "--min-item", 0, "--on-error", "skip")
    assert "skipped:          1 rows" in capsys.readouterr().out
    assert load(tmp_path / "out").user_ids == ["u1", "u2"]


@pytest.mark.parametrize("dataset", ["ml-latest-small", "amazon", "table"])
def test_a_dataset_that_is_not_downloaded_needs_a_source(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(BadInput, match=f"{dataset} needs --source"):
        call("--dataset", dataset, "--out", tmp_path / "out")


@pytest.mark.parametrize("option", ["--min-user", "--min-item"])
def test_less_than_no_events_are_refused(tmp_path: Path, option: str) -> None:
    with pytest.raises(BadInput, match=f"{option} -1: 0 or more"):
        call("--dataset", "table", "--source", small_folder(tmp_path), "--out", tmp_path / "out", option, -1)


def test_a_dataset_that_is_downloaded_takes_none(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="takes no --source"):
        call("--dataset", "ml-100k", "--source", tmp_path, "--out", tmp_path / "out")


def test_movielens_terms_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput):
        call("--dataset", "ml-latest-small", "--source", tmp_path, "--out", tmp_path / "out")
    assert "GroupLens" in capsys.readouterr().err
