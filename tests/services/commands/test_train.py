"""`tandem train`: who is interrupted learns how to go on."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.commands import train
from services.commands.train import Blend, Ranker, run
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
