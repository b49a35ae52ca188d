"""What training must learn, that it repeats to the bit, and that an interruption leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import retriever.train as training
from retriever import retrieve
from retriever.evaluate import ranks, retrieved
from retriever.lrurec import LRURec, LRURecConfig
from retriever.train import Average, loss_of, train
from shared import checkpoints
from shared.artifact import MANIFEST, Manifest
from shared.data.prepared import Prepared
from shared.data.split import cases
from shared.errors import BadInput
from shared.metrics import recall
from tests.retriever.tiny import CONFIG, catalog, cycle, noise, prepared

DATA = cycle(items=200)
SHORT = replace(CONFIG, learning_rate=2e-3, validate_every=3)
"""12 steps in epochs of 4, so that checkpoints fall inside an epoch and at its end; the last step is the best."""


def recall_at(folder: Path, data: Prepared, k: int) -> float:
    loaded = retrieve.load(folder, data.catalog)
    asked = list(cases(data, "test"))
    items_UK, _ = retrieved(loaded.retriever, asked, k, "window", CONFIG.window, what=None)
    return float(recall(ranks(items_UK, asked), k).mean())


def test_a_rule_is_learnt(tmp_path: Path) -> None:
    data = cycle(users=200)
    made = train(data, replace(CONFIG, epochs=15, validate_every=50), tmp_path / "out")
    assert recall_at(tmp_path / "out", data, 1) > 0.95
    assert made.metrics["valid_recall@10"] > 0.99


def test_noise_stays_at_chance(tmp_path: Path) -> None:
    """400 users, 10 of about 90 unseen items: the chance is 0.11, and 0.05 is more than three deviations."""
    data = noise(users=400, items=100)
    train(data, replace(CONFIG, epochs=4, validate_every=25), tmp_path / "out")
    assert recall_at(tmp_path / "out", data, 10) == pytest.approx(0.11, abs=0.05)


def test_the_manifest_says_what_was_made_and_from_what(tmp_path: Path) -> None:
    data = cycle()
    made = train(data, CONFIG, tmp_path / "out")
    assert (made.kind, made.method, made.seed) == ("retriever", "lrurec", CONFIG.seed)
    assert (made.data_digest, made.catalog_fingerprint) == (data.digest, data.catalog.fingerprint())
    assert made.config["model"]["items"] == len(data.catalog)
    assert [step for step, _ in made.metrics["curve"]] == [4, 8, 12]
    assert set(made.files) == {"lrurec.safetensors", "popularity.safetensors", "index.faiss"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_best_weights_are_kept_not_the_last(tmp_path: Path) -> None:
    """On noise more training is no better: with patience 1 the run stops one validation after its best."""
    made = train(noise(), replace(CONFIG, epochs=50, patience=1), tmp_path / "out")
    best, last = made.metrics["curve"][-2:]
    assert made.metrics["best_step"] == best[0] < last[0] == made.metrics["steps"] < 200
    assert made.metrics["valid_recall@10"] == best[1] >= last[1]


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(tmp_path: Path) -> None:
    one, same = (train(cycle(), CONFIG, tmp_path / name) for name in ("one", "same"))
    other = train(cycle(), replace(CONFIG, seed=2), tmp_path / "other")
    assert timeless(one) == timeless(same)
    assert one.files["lrurec.safetensors"] != other.files["lrurec.safetensors"]


class PowerCut(BaseException):
    pass


def manifest(folder: Path) -> Manifest:
    """With the checksum of every file, the curve and every metric."""
    return timeless(Manifest.model_validate_json((folder / MANIFEST).read_text()))


def timeless(manifest: Manifest) -> Manifest:
    return manifest.model_copy(update={"metrics": manifest.metrics | {"train_seconds": 0}})


def cut(monkeypatch: pytest.MonkeyPatch, out: Path, batches: int, resume: bool = False) -> None:
    """Trains, and dies when it asks for one batch more than `batches` (those that a resumed run skips included)."""
    real, left = training.train_batches, batches

    def few(*args: Any) -> Iterator[Tensor]:
        nonlocal left
        for batch in real(*args):
            if left == 0:
                raise PowerCut
            left -= 1
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(training, "train_batches", few)
        with pytest.raises(PowerCut):
            train(DATA, SHORT, out, resume)


@pytest.mark.parametrize(
    ("batches", "every_s"), [(3, 1e9), (4, 1e9), (5, 1e9), (11, 1e9), (2, 0.0), (5, 0.0), (11, 0.0)]
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int, every_s: float
) -> None:
    """Saved after validations alone, or at each step."""
    monkeypatch.setattr(checkpoints, "EVERY_S", every_s)
    made = train(DATA, SHORT, tmp_path / "whole")
    assert made.metrics["best_step"] == 12
    cut(monkeypatch, tmp_path / "cut", batches)
    assert not (tmp_path / "cut").exists()
    train(DATA, SHORT, tmp_path / "cut", resume=True)
    assert manifest(tmp_path / "cut") == manifest(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def test_a_run_may_be_interrupted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(DATA, SHORT, tmp_path / "whole")
    cut(monkeypatch, tmp_path / "cut", 4)
    cut(monkeypatch, tmp_path / "cut", 9, resume=True)
    train(DATA, SHORT, tmp_path / "cut", resume=True)
    assert manifest(tmp_path / "cut") == manifest(tmp_path / "whole")


def test_resuming_where_nothing_was_begun_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"out\.partial holds no checkpoint"):
        train(DATA, SHORT, tmp_path / "out", resume=True)
    cut(monkeypatch, tmp_path / "out", 2)
    with pytest.raises(BadInput, match=r"out\.partial holds no checkpoint"):
        train(DATA, SHORT, tmp_path / "out", resume=True)


def test_a_checkpoint_of_another_config_or_other_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, tmp_path / "out", 5)
    with pytest.raises(BadInput, match="another config or other data"):
        train(DATA, replace(SHORT, epochs=4), tmp_path / "out", resume=True)
    other = replace(DATA, manifest=DATA.manifest.model_copy(update={"data_digest": "e" * 64}))
    with pytest.raises(BadInput, match="another config or other data"):
        train(other, SHORT, tmp_path / "out", resume=True)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_histories_too_short_to_learn_from_are_refused_in_words(tmp_path: Path, length: int) -> None:
    """With 3 items one is left to train on; with 2 there is no validation item to stop by."""
    data = prepared([list(range(1, length + 1))] * 5, catalog(10))
    with pytest.raises(BadInput, match="--min-user"):
        train(data, CONFIG, tmp_path / "out")


def test_the_average_is_the_weighted_mean_of_all_steps() -> None:
    model = LRURec(LRURecConfig(items=5, width=4, state=4, blocks=1))
    average = Average(model, decay=0.6)
    expected, seen = model.bias_V.detach().double().clone(), []
    for step in range(1, 8):
        with torch.no_grad():
            model.bias_V.copy_(torch.randn(6, generator=torch.Generator().manual_seed(step)))
        seen.append(model.bias_V.detach().double().clone())
        average.follow(step)
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * seen[-1]
    torch.testing.assert_close(average.model.bias_V.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(model.bias_V.double(), seen[-1])


def test_without_decay_the_weights_themselves_are_kept() -> None:
    model = LRURec(LRURecConfig(items=5, width=4, state=4, blocks=1))
    assert Average(model, decay=0.0).model is model


def test_smoothing_is_cross_entropy_with_a_share_for_every_item() -> None:
    torch.manual_seed(3)
    model = LRURec(LRURecConfig(items=6, width=4, state=4, blocks=1)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    batch = torch.tensor([[0, 2, 5, 1], [3, 4, 6, 2]])
    scores = model.scores(model.encode(batch[:, :-1])).double()
    expected = []
    for position, target in zip(scores, [5, 1, 4, 6, 2], strict=True):
        log_p = torch.log_softmax(position[1:], dim=0)
        shares = torch.full((6,), 0.3 / 6, dtype=torch.float64)
        shares[target - 1] += 0.7
        expected.append(-(shares * log_p).sum())
    assert loss_of(model, batch, 0.3).item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-5)
