"""What is timed is what is said, and the report tells recall, memory and ratios for each size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.bench import plots
from services.bench.encode import HISTORIES
from services.bench.retrieve import Settings, run
from services.bench.timing import CALLS, timed
from services.cli import main


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    turns: list[tuple[str, int]] = []
    found = timed({way: lambda turn, way=way: turns.append((way, turn)) for way in ("one", "other")}, 0.0)
    assert [turn for _, turn in turns] == [0, 0, 1, 1, 2, 2]
    assert all({turns[at][0], turns[at + 1][0]} == {"one", "other"} for at in (0, 2, 4))
    assert set(found) == {"one", "other"}
    assert all(0 <= figures["p50"] <= figures["p99"] for figures in found.values())


def test_nothing_is_called_for_ever() -> None:
    calls: list[int] = []
    timed({"quick": calls.append}, 60.0)
    assert len(calls) == CALLS


def test_a_small_run_has_every_figure_and_can_be_drawn(tmp_path: Path) -> None:
    heard: list[str] = []
    report = json.loads(json.dumps(run(Settings(sizes=(1_000, 2_000), seconds=0.1, others=1_000), heard.append)))
    assert [row["items"] for row in report["sizes"]] == [1_000, 2_000]
    for row in report["sizes"]:
        assert (row["kind"], row["recall"], row["recall_with_exclusions"], row["bytes_per_item"]) == ("flat", 1, 1, 260)
        assert row["over_raw"] == pytest.approx(row["ms"]["ours"]["p50"] / row["ms"]["raw"]["p50"], abs=1e-3)
        assert {"raw, selector", "ours, 32 at once", "service", "service, 32 at once"} < set(row["ms"])
    assert [row["kind"] for row in report["others"]] == ["flat", "scan", "HNSW", "IVF"]
    assert [row["items"] for row in report["encode"]] == list(HISTORIES)
    assert "one more item, of Redis" in report["encode"][-1]["ms"]
    plots.retrieve(report, tmp_path / "folder" / "retrieve.png")
    assert (tmp_path / "folder" / "retrieve.png").stat().st_size > 10_000


def test_sizes_that_mean_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "retrieve", "--items", "10"]) == 2
    assert "at least 1000 items" in capsys.readouterr().err
