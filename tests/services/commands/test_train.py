"""`tandem train`: who is interrupted learns how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.commands import train
from services.commands.train import Blend, Ranker, lost_in_tuning, run
from shared.artifact import alone
from shared.errors import BadInput


def interrupted(monkeypatch: pytest.MonkeyPatch, out: Path, partial: bool) -> str:
    def training(args: Ranker) -> None:
        if partial:
            out.with_name(out.name + ".partial").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "_ranker", training)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(Ranker(data=Path("nowhere"), out=out))
    return str(stop.value)


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert interrupted(monkeypatch, tmp_path / "out", partial=False) == ""
    assert "--resume goes on" in interrupted(monkeypatch, tmp_path / "out", partial=True)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path) -> None:
    with alone(tmp_path / "out"), pytest.raises(BadInput, match="by another process"):
        run(Ranker(data=Path("nowhere"), out=tmp_path / "out"))


@pytest.mark.parametrize("weight", [-0.1, 1.1])
def test_a_weight_is_a_share(tmp_path: Path, weight: float) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(BadInput, match=f"--weight {weight}: 0 to 1"):
        run(Blend(data=nowhere, retriever=nowhere, ranker=nowhere, weight=weight))


def test_a_fine_tuning_that_loses_says_so() -> None:
    def told(**curves: list[float]) -> str:
        return lost_in_tuning({name: {"curve": [(8, valid, 1.0) for valid in curve]} for name, curve in curves.items()})

    assert "ended at 0.620, below the 0.720 that" in told(content=[-9.0], pretrain=[0.6, 0.72, 0.7], recllm=[0.5, 0.62])
    assert told(pretrain=[0.7], recllm=[0.6, 0.7]) == told(pretrain=[0.7]) == told(recllm=[0.1]) == ""
    assert told(pretrain=[], recllm=[0.1]) == told() == ""
