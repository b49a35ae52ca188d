"""A whole training in miniature: it learns what can be learnt, repeats to the bit, and survives an interruption."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ranker.llamarec.train as training
from ranker import backbone
from ranker.fit import ADAPTER
from ranker.labels import LETTERS
from shared import checkpoints
from shared.artifact import MANIFEST, Manifest, open_artifact
from shared.errors import BadInput
from tests.ranker import tiny


def learnt(manifest: Manifest) -> tuple[object, ...]:
    """Everything that a run found, and nothing of how long it took."""
    found = {name: value for name, value in manifest.metrics.items() if name != "train_seconds"}
    return json.dumps(found), manifest.extra, manifest.files


def test_a_letter_is_bound_to_its_title(bpe_folder: Path, tmp_path: Path) -> None:
    """The copy task among 3 titles: chance is ln 3 = 1.10, and the running mean of the loss comes down to half."""
    eight_titles = tiny.prepared([list(range(1, 9))] * 4, tiny.of(*tiny.WORDS))
    made = tiny.trained(
        tmp_path / "out",
        bpe_folder,
        data=eight_titles,
        candidates=3,
        loss="labels",
        probe=0.0,
        lora_rank=16,
        lora_alpha=32,
        lora_dropout=0.0,
        negatives="uniform",
        binding_prompts=5120,
        prompts=32,
        batch=32,
        warmup=10,
    )
    (prompts, _, loss), *_ = made.metrics["curve"]
    assert prompts == 5120
    assert loss < 0.55 < math.log(3)


def test_the_manifest_says_what_was_made_and_from_what(artifact: Path, bpe_folder: Path) -> None:
    manifest = open_artifact(artifact, "ranker", ["llamarec"])
    assert manifest.config["backbone"] == str(bpe_folder)
    assert (manifest.data_digest, manifest.catalog_fingerprint) == (tiny.DATA.digest, tiny.DATA.catalog.fingerprint())
    assert manifest.extra["blended_with"] == "neighbours@1"
    assert len(set(manifest.extra["labels"])) == len(LETTERS)
    assert 0 <= manifest.extra["blend"] <= 1
    assert [prompts for prompts, *_ in manifest.metrics["curve"]] == [16, 32, 48, 64, 80]
    assert set(manifest.files) == {"adapter.safetensors"}
    assert [path.name for path in artifact.parent.iterdir()] == [artifact.name]


def test_the_best_adapter_is_kept(artifact: Path) -> None:
    metrics = open_artifact(artifact, "ranker").metrics
    best = max(ndcg for _, ndcg, _ in metrics["curve"])
    assert metrics["valid_ndcg@10"] == best
    assert next(prompts for prompts, ndcg, _ in metrics["curve"] if ndcg == best) == metrics["best_prompts"]


def test_lora_alone_learns_and_the_artifact_holds_nothing_else(artifact: Path) -> None:
    weights = load_file(artifact / "adapter.safetensors")
    assert len(weights) == 2 * 7 * 2
    assert all("lora_" in name for name in weights)
    assert any(tensor.any() for name, tensor in weights.items() if "lora_B" in name)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(
    artifact: Path, bpe_folder: Path, tmp_path: Path
) -> None:
    first = open_artifact(artifact, "ranker")
    assert learnt(tiny.trained(tmp_path / "same", bpe_folder)) == learnt(first)
    assert tiny.trained(tmp_path / "other", bpe_folder, seed=2).files != first.files


@pytest.mark.parametrize("kind", [{}, {"template": "asked", "alike": 0.5, "alike_prompts": 12, "probe": 0.0}], ids=str)
def test_a_step_in_several_batches_is_the_same_step(bpe_folder: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    whole = {"lora_dropout": 0.0, "probe": 0.0, "binding_prompts": 10} | kind
    for name, pace in (("one", {"batch": 8}), ("four", {"batch": 2, "accumulate": 4})):
        tiny.trained(tmp_path / name, bpe_folder, **whole, **pace)
    one, four = (load_file(tmp_path / name / ADAPTER) for name in ("one", "four"))
    for name, weight in one.items():
        torch.testing.assert_close(four[name], weight, atol=2e-4, rtol=2e-3)


class PowerCut(BaseException):
    pass


def cut(monkeypatch: pytest.MonkeyPatch, out: Path, folder: Path, steps: int, **options: Any) -> None:
    """Trains, and dies in the step after `steps`."""
    real, left = training._losses, steps

    def failing(*arguments: Any) -> tuple[Tensor, float]:
        nonlocal left
        if left == 0:
            raise PowerCut
        left -= 1
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_losses", failing)
        patch.setattr(checkpoints, "EVERY_S", 0.0)
        with pytest.raises(PowerCut):
            tiny.trained(out, folder, **options)


@pytest.mark.parametrize("steps", [2, 5, 8])
@pytest.mark.parametrize(
    "kind",
    [
        {"negatives": "mixed"},
        {"negatives": "retrieved", "candidates": 5},
        {"template": "asked", "alike": 0.5, "alike_prompts": 12, "probe": 0.0},
    ],
    ids=str,
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, kind: dict[str, Any]
) -> None:
    """Interrupted right after the copy task, between two validations and at one; with dropout. Among 5 retrieved
    candidates most prompts have no answer and are left out."""
    whole = tiny.trained(tmp_path / "whole", bpe_folder, **kind)
    cut(monkeypatch, tmp_path / "cut", bpe_folder, steps, **kind)
    assert not (tmp_path / "cut").exists()
    assert learnt(tiny.trained(tmp_path / "cut", bpe_folder, resume=True, **kind)) == learnt(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]


def test_a_run_may_be_interrupted_twice(
    artifact: Path, bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, tmp_path / "cut", bpe_folder, 3)
    cut(monkeypatch, tmp_path / "cut", bpe_folder, 5, resume=True)
    tiny.trained(tmp_path / "cut", bpe_folder, resume=True)
    manifests = [Manifest.model_validate_json((f / MANIFEST).read_bytes()) for f in (artifact, tmp_path / "cut")]
    assert learnt(manifests[0]) == learnt(manifests[1])


def test_resuming_where_nothing_was_begun_or_otherwise_is_refused(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match=r"out\.partial holds no checkpoint"):
        tiny.trained(tmp_path / "out", bpe_folder, resume=True)
    cut(monkeypatch, tmp_path / "out", bpe_folder, 5)
    with pytest.raises(BadInput, match="begun with another config"):
        tiny.trained(tmp_path / "out", bpe_folder, resume=True, learning_rate=1e-3)
    other = replace(tiny.DATA, manifest=tiny.DATA.manifest.model_copy(update={"data_digest": "e" * 64}))
    with pytest.raises(BadInput, match="begun with another data"):
        tiny.trained(tmp_path / "out", bpe_folder, resume=True, data=other)


def test_histories_too_short_to_ask_about_are_refused(bpe_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="after two others"):
        tiny.trained(tmp_path / "out", bpe_folder, data=tiny.prepared([[1, 2, 3, 4]] * 3, tiny.catalog(30)))


def test_training_stops_when_it_gets_no_better(bpe_folder: Path, tmp_path: Path) -> None:
    made = tiny.trained(
        tmp_path / "out", bpe_folder, binding_prompts=0, prompts=800, patience=2, learning_rate=1e-12, validate_every=8
    )
    assert made.metrics["prompts"] < 80
    assert len(made.metrics["curve"]) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_number_types_train(
    bpe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: dtype)
    made = tiny.trained(tmp_path / "out", bpe_folder, prompts=160, patience=100)
    losses = [loss for _, _, loss in made.metrics["curve"]]
    assert losses[-1] < losses[0] - 0.2
    assert {w.dtype for w in load_file(tmp_path / "out" / "adapter.safetensors").values()} == {dtype}


def test_every_last_prompt_is_validated_when_few_prompts_have_an_answer(bpe_folder: Path, tmp_path: Path) -> None:
    made = tiny.trained(
        tmp_path / "out", bpe_folder, negatives="retrieved", prompts=0, candidates=5, validate_every=90, patience=100
    )
    assert made.metrics["curve"][-1][0] == made.metrics["prompts"]
