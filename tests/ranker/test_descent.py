"""A stage of training on a toy: it descends, keeps the best, stops, and goes on to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ranker.descent import Pace, Progress, descend
from shared import checkpoints
from shared.errors import BadInput

PACE = Pace(
    prompts=48, batch=4, learning_rate=0.1, warmup=2, schedule="cosine", least=0.1, validate_every=8, patience=9
)
TARGET_D = torch.tensor([1.0, -2.0, 3.0])


class Toy:
    def __init__(self, stop_after: int = 10_000) -> None:
        self.weights = {"w": nn.Parameter(torch.zeros(3))}
        self.stop_after = stop_after

    def loss(self, step: int) -> Tensor:
        if step == self.stop_after:
            raise KeyboardInterrupt
        noise_D = torch.randn(3, generator=torch.Generator().manual_seed(step))
        return ((self.weights["w"] - TARGET_D + 0.1 * noise_D + 0.01 * torch.randn(3)) ** 2).sum()

    def score(self) -> float:
        return -float((self.weights["w"].detach() - TARGET_D).abs().sum())

    def descend(self, folder: Path, pace: Pace = PACE, resume: bool = False) -> Progress:
        torch.manual_seed(0)
        return descend("toy", self.weights, pace, self.loss, self.score, folder, {"config": 1}, resume)


def test_it_descends_and_validates_at_every_interval(tmp_path: Path) -> None:
    run = Toy().descend(tmp_path / "run")
    assert [prompts for prompts, *_ in run.curve] == [8, 16, 24, 32, 40, 48]
    assert run.curve[-1][1] > run.curve[0][1]


def test_the_best_weights_stay_when_the_last_are_worse(tmp_path: Path) -> None:
    toy = Toy()
    scores = iter([1.0, 5.0, 2.0, 1.0, 1.0, 1.0])
    kept = []

    def score() -> float:
        kept.append(toy.weights["w"].detach().clone())
        return next(scores)

    toy.score = score  # type: ignore[method-assign]
    run = toy.descend(tmp_path / "run")
    assert torch.equal(toy.weights["w"], kept[1])
    assert (run.best, run.best_prompts) == (5.0, 16)


def test_it_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    toy = Toy()
    toy.score = lambda: 0.0  # type: ignore[method-assign]
    assert len(toy.descend(tmp_path / "run", replace(PACE, patience=2)).curve) == 3


@pytest.mark.parametrize("stop", [1, 2, 7, 11])
@pytest.mark.parametrize("every_s", [0.0, 1e9])
def test_an_interrupted_run_ends_as_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, every_s: float
) -> None:
    """Saved at each step, or after validations alone."""
    monkeypatch.setattr(checkpoints, "EVERY_S", every_s)
    whole, cut, resumed = Toy(), Toy(stop), Toy()
    expected = whole.descend(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        cut.descend(tmp_path / "cut")
    found = resumed.descend(tmp_path / "cut", resume=True)
    assert torch.equal(resumed.weights["w"], whole.weights["w"])
    assert found.curve == expected.curve


def test_a_finished_stage_only_restores_its_weights(tmp_path: Path) -> None:
    whole = Toy()
    whole.descend(tmp_path / "run")
    again = Toy(stop_after=0)
    again.descend(tmp_path / "run", resume=True)
    assert torch.equal(again.weights["w"], whole.weights["w"])


def test_another_identity_is_refused(tmp_path: Path) -> None:
    Toy().descend(tmp_path / "run")
    with pytest.raises(BadInput, match="another config"):
        descend("toy", Toy().weights, PACE, Toy().loss, Toy().score, tmp_path / "run", {"config": 2}, True)


def test_accumulated_batches_make_one_step_of_their_mean(tmp_path: Path) -> None:
    """Three batches of fixed losses, against one batch of their mean."""
    targets = torch.tensor([[1.0, 0.0, 2.0], [3.0, -1.0, 0.0], [0.0, 4.0, 1.0]])
    found = []
    for accumulate in (3, 1):
        toy = Toy()
        asked: list[int] = []

        def loss(at: int, toy: Toy = toy, asked: list[int] = asked, together: bool = accumulate == 1) -> Tensor:
            asked.append(at)
            each = ((toy.weights["w"] - targets) ** 2).sum(1)
            return each.mean() if together else each[at % 3]

        toy.loss = loss  # type: ignore[method-assign]
        pace = replace(PACE, batch=6 // accumulate, accumulate=accumulate)
        run = toy.descend(tmp_path / str(accumulate), pace)
        assert asked == list(range(8 * accumulate))
        assert run.curve[-1][0] == 48
        found.append(toy.weights["w"].detach())
    assert torch.allclose(found[0], found[1], atol=1e-6)
