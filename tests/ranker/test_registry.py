"""From an artifact to a ranker that may serve, or a refusal that says why not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ranker import backbone
from ranker.blend import log_softmax
from ranker.fit import ADAPTER, add_lora, set_adapter_weights
from ranker.registry import load
from shared.artifact import MANIFEST, Manifest, seal
from shared.candidate import Candidate
from shared.catalog import Catalog
from shared.errors import (
    BadArtifact,
    BadInput,
    CatalogMismatch,
    ChecksumMismatch,
    GoldenMismatch,
    LabelMismatch,
    MissingFile,
)
from shared.history import History
from shared.protocols import Ranker
from tests.contracts.ranker import RankerContract
from tests.ranker import tiny

CATALOG = tiny.DATA.catalog


class TestLoadedRanker(RankerContract):
    items = tiny.ITEMS

    @pytest.fixture
    def ranker(self, artifact: Path) -> Ranker:
        return load(artifact, CATALOG, device="cpu").ranker


@pytest.fixture
def copy(artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifact, tmp_path / "copy"))


def reseal(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Whoever changed the manifest also wrote the matching checksums."""
    seal(folder, change(Manifest.model_validate_json((folder / MANIFEST).read_bytes())))


def other_extra(folder: Path, **extra: object) -> None:
    reseal(folder, lambda manifest: manifest.model_copy(update={"extra": manifest.extra | extra}))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_blend_of_what_it_says_unblended_is_what_it_answers(artifact: Path, weight: float) -> None:
    """The blend's equation, item by item; at 0 the order is the retriever's and the unblended one is not."""
    ranker = load(artifact, CATALOG, device="cpu").ranker
    ranker.weight = weight  # type: ignore[attr-defined]
    given = [Candidate(item, float(20 - place)) for place, item in enumerate(range(5, 13))]
    [ranking] = ranker.rank([History((1, 2, 3), "u1")], [given])
    retrieved = dict(zip([c.item for c in given], log_softmax(np.array([c.score for c in given])), strict=True))
    for candidate, own in zip(ranking.candidates, ranking.unblended, strict=True):
        assert candidate.score == pytest.approx((1 - weight) * retrieved[candidate.item] + weight * own)
    if weight == 0:
        assert [c.item for c in ranking.candidates] == [c.item for c in given]
        assert list(ranking.unblended) != sorted(ranking.unblended, reverse=True)


def test_what_was_trained_loads_tests_itself_and_ranks_with_its_fitted_weight(artifact: Path) -> None:
    loaded = load(artifact, CATALOG, device="cpu")
    loaded.self_test()
    assert loaded.ranker.weight == loaded.manifest.extra["blend"]  # type: ignore[attr-defined]
    assert loaded.ranker.max_candidates == loaded.manifest.config["candidates"]


def test_the_merged_model_gives_the_golden_logits_to_the_last_kept_digit(artifact: Path) -> None:
    loaded = load(artifact, CATALOG, device="cpu")
    golden = loaded.manifest.extra["golden"]
    scores = loaded.ranker.engine.label_logits([golden["prompt"]], loaded.manifest.extra["labels"])  # type: ignore[attr-defined]
    np.testing.assert_allclose(scores.logits_BK[0], golden["logits"], atol=1e-3)


def test_the_golden_logits_are_those_of_the_adapter_and_not_of_the_bare_backbone(
    artifact: Path, bpe_folder: Path
) -> None:
    manifest = load(artifact, CATALOG, device="cpu").manifest
    golden = manifest.extra["golden"]
    base = backbone.load(str(bpe_folder), device="cpu", dtype=torch.float32)
    wrapped = add_lora(base.model, rank=4, alpha=8, dropout=0.0, targets=tuple(manifest.config["lora_targets"]))
    ids = torch.tensor([golden["prompt"]])
    with torch.no_grad():
        bare_V = wrapped(ids).logits[0, -1]
        set_adapter_weights(wrapped, load_file(artifact / ADAPTER))
        adapted_V = wrapped(ids).logits[0, -1]
    np.testing.assert_allclose(adapted_V[manifest.extra["labels"]], golden["logits"], atol=1e-3)
    assert float((bare_V - adapted_V).abs().max()) > 0.1


def test_the_same_weights_may_stand_in_another_place(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(bpe_folder, tmp_path / "moved")
    load(artifact, CATALOG, backbone=str(moved), device="cpu").self_test()


def test_a_flipped_byte_is_refused_with_the_files_name(copy: Path) -> None:
    damaged = bytearray((copy / ADAPTER).read_bytes())
    damaged[-3] ^= 1
    (copy / ADAPTER).write_bytes(damaged)
    with pytest.raises(ChecksumMismatch, match=r"adapter\.safetensors"):
        load(copy, CATALOG, device="cpu")


def test_a_missing_file_is_refused_with_its_name(copy: Path) -> None:
    (copy / ADAPTER).unlink()
    with pytest.raises(MissingFile, match=r"adapter\.safetensors"):
        load(copy, CATALOG, device="cpu")


@pytest.mark.parametrize("other", [tiny.catalog(tiny.ITEMS + 1), Catalog(CATALOG.items[::-1])])
def test_another_catalogue_is_refused_with_both_fingerprints(artifact: Path, other: Catalog) -> None:
    with pytest.raises(CatalogMismatch, match=f"{CATALOG.fingerprint()[:12]}.*{other.fingerprint()[:12]}"):
        load(artifact, other, device="cpu")


def test_a_retriever_or_an_unknown_method_is_refused(copy: Path) -> None:
    reseal(copy, lambda manifest: manifest.model_copy(update={"method": "gpt5rec"}))
    with pytest.raises(BadArtifact, match=r"'gpt5rec'.*llamarec"):
        load(copy, CATALOG, device="cpu")
    reseal(copy, lambda manifest: manifest.model_copy(update={"kind": "retriever"}))
    with pytest.raises(BadArtifact, match="retriever artifact where a ranker is needed"):
        load(copy, CATALOG, device="cpu")


def test_a_backbone_of_other_weights_fails_the_self_test(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    """Same tokenizer, same shapes: only the golden score can tell."""
    tokenizer = backbone.load(str(bpe_folder), device="cpu").tokenizer
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer), seed=5))
    loaded = load(artifact, CATALOG, backbone=str(other), device="cpu")
    with pytest.raises(GoldenMismatch, match=r"does not reproduce its golden score"):
        loaded.self_test()


def test_an_adapter_of_other_weights_fails_the_self_test(copy: Path, bpe_folder: Path, tmp_path: Path) -> None:
    """Another training's adapter under this one's manifest, with the right checksum."""
    tiny.trained(tmp_path / "other", bpe_folder, seed=9, learning_rate=3e-2)
    shutil.copy(tmp_path / "other" / ADAPTER, copy / ADAPTER)
    reseal(copy, lambda manifest: manifest)
    with pytest.raises(GoldenMismatch):
        load(copy, CATALOG, device="cpu").self_test()


def test_golden_logits_that_are_no_numbers_fail_the_self_test(copy: Path) -> None:
    golden = load(copy, CATALOG, device="cpu").manifest.extra["golden"]
    other_extra(copy, golden=golden | {"logits": [float(-n) for n in range(20)]})
    with pytest.raises(GoldenMismatch):
        load(copy, CATALOG, device="cpu").self_test()


def test_a_backbone_with_another_tokenizer_is_refused_by_its_label_ids(artifact: Path, tmp_path: Path) -> None:
    tokenizer = tiny.bpe(["zig zag zoo " * 40, *tiny.corpus()])
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.raises(LabelMismatch, match=r"was trained with label ids"):
        load(artifact, CATALOG, backbone=str(other), device="cpu")


def test_a_backbone_of_another_shape_is_refused(artifact: Path, bpe_folder: Path, tmp_path: Path) -> None:
    tokenizer = backbone.load(str(bpe_folder), device="cpu").tokenizer
    other = tiny.save(tmp_path / "other", tokenizer, tiny.llama(len(tokenizer), hidden=32))
    with pytest.raises(BadArtifact, match="do not fit the backbone"):
        load(artifact, CATALOG, backbone=str(other), device="cpu")


def test_a_backbone_that_cannot_be_had_is_refused_by_its_name(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere.*cannot be loaded"):
        load(artifact, CATALOG, backbone=str(tmp_path / "nowhere"), device="cpu")


def test_a_config_of_another_version_is_refused(copy: Path) -> None:
    reseal(copy, lambda manifest: manifest.model_copy(update={"config": manifest.config | {"from_the_future": 1}}))
    with pytest.raises(BadArtifact, match=r"another version of Tandem.*from_the_future"):
        load(copy, CATALOG, device="cpu")
