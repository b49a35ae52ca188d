"""The trained retriever as it serves, and every folder that it must refuse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retriever.index import FILE, ItemIndex
from retriever.lrurec import LRURec, LRURecConfig
from retriever.retrieve import LRURecRetriever, build_index, load
from shared.artifact import MANIFEST, Manifest, open_artifact, seal
from shared.catalog import PAD, Catalog, Item
from shared.errors import BadArtifact, CatalogMismatch, ChecksumMismatch, MissingFile
from shared.history import History
from shared.protocols import Retriever
from tests.contracts.retriever import RetrieverContract
from tests.retriever.tiny import CONFIG, catalog, cycle, noise, trained

ITEMS = catalog(40)
FILES = ["lrurec.safetensors", "popularity.safetensors", "index.faiss"]


class TestFreshRetriever(RetrieverContract):
    items = 30

    @pytest.fixture
    def retriever(self) -> Retriever:
        torch.manual_seed(0)
        model = LRURec(LRURecConfig(items=self.items, width=16, state=8))
        return LRURecRetriever(model, build_index(model), window=10)


class TestLoadedRetriever(RetrieverContract):
    items = 40

    @pytest.fixture
    def retriever(self, folder: Path) -> Retriever:
        return load(folder, ITEMS).retriever


class TestLoadedPopularity(RetrieverContract):
    items = 40

    @pytest.fixture
    def retriever(self, folder: Path) -> Retriever:
        return load(folder, ITEMS).popularity


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def reseal(folder: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> None:
    """Whoever changed a file also wrote the matching checksum."""
    seal(folder, change(Manifest.model_validate_json((folder / MANIFEST).read_bytes())))


def test_what_was_trained_serves_the_same_numbers_after_loading(folder: Path) -> None:
    loaded, again = load(folder, ITEMS), load(folder, ITEMS)
    histories = [History((3, 4, 5)), History((40,))]
    found = loaded.retriever.retrieve(histories, 5)
    assert found == again.retriever.retrieve(histories, 5)
    hidden_BD = torch.from_numpy(loaded.retriever.encode([h.items for h in histories]))
    scores_BV = loaded.retriever.model.scores(hidden_BD).detach().numpy()
    for row, candidates in enumerate(found):
        best = np.argsort(-scores_BV[row, 1:])[:5] + 1
        assert [c.item for c in candidates] == best.tolist()
        np.testing.assert_allclose([c.score for c in candidates], scores_BV[row, best], atol=1e-5)


def test_only_the_last_window_of_a_history_counts(folder: Path) -> None:
    retriever = load(folder, ITEMS).retriever
    recent = tuple(range(5, 5 + CONFIG.window))
    one, other = (retriever.retrieve([History((*past, *recent))], 5) for past in ((), (30, 31, 32)))
    assert one == other


def test_more_users_than_one_encoding_batch_keep_their_order(folder: Path) -> None:
    retriever = load(folder, ITEMS).retriever
    sequences = [(n % 40 + 1,) for n in range(600)]
    hidden_BD = retriever.encode(sequences)
    assert hidden_BD.shape == (600, CONFIG.width)
    np.testing.assert_allclose(hidden_BD[560], retriever.encode([sequences[560]])[0], atol=1e-5)


def test_dropout_is_off_when_serving(folder: Path) -> None:
    model = load(folder, ITEMS).retriever.model
    assert not any(module.training for module in model.modules())


def test_the_popularity_beside_it_counts_training_events(folder: Path) -> None:
    data = cycle()
    counts = np.bincount(np.concatenate([s[:-2] for s in data.sequences()]), minlength=41)
    [best] = load(folder, ITEMS).popularity.retrieve([History(())], 40)
    assert [c.score for c in best] == pytest.approx(sorted(counts[1:] / counts.sum(), reverse=True))


def test_the_padding_item_never_comes_back_however_its_row_looks() -> None:
    torch.manual_seed(0)
    model = LRURec(LRURecConfig(items=10, width=8, state=4))
    with torch.no_grad():
        model.embedding.weight[PAD] = 100.0
        model.bias_V[PAD] = 1e6
    [found] = LRURecRetriever(model, build_index(model), window=5).retrieve([History((1, 2))], 20)
    assert sorted(c.item for c in found) == list(range(1, 11))


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_byte_is_refused_with_the_files_name(copy: Path, name: str) -> None:
    damaged = bytearray((copy / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (copy / name).write_bytes(damaged)
    with pytest.raises(ChecksumMismatch, match=name):
        load(copy, ITEMS)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_with_its_name(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(MissingFile, match=name):
        load(copy, ITEMS)


def test_a_folder_without_a_manifest_or_with_a_broken_one_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match=r"holds no manifest\.json"):
        load(tmp_path / "nowhere", ITEMS)
    (copy / MANIFEST).write_text("{")
    with pytest.raises(BadArtifact, match=r"manifest\.json cannot be read"):
        load(copy, ITEMS)


@pytest.mark.parametrize(
    "other", [catalog(41), catalog(40, "Other title"), Catalog(ITEMS.items[::-1]), Catalog((Item("x", "X"),))]
)
def test_another_catalogue_is_refused_with_both_fingerprints(folder: Path, other: Catalog) -> None:
    with pytest.raises(CatalogMismatch, match=f"{ITEMS.fingerprint()[:12]}.*{other.fingerprint()[:12]}"):
        load(folder, other)


def test_an_artifact_of_another_kind_or_method_is_refused(copy: Path) -> None:
    reseal(copy, lambda manifest: manifest.model_copy(update={"method": "sasrec"}))
    with pytest.raises(BadArtifact, match=r"'sasrec'.*lrurec"):
        load(copy, ITEMS)
    reseal(copy, lambda manifest: manifest.model_copy(update={"kind": "ranker"}))
    with pytest.raises(BadArtifact, match="ranker artifact where a retriever is needed"):
        load(copy, ITEMS)


def test_an_index_of_other_weights_is_refused_though_its_checksum_is_right(copy: Path, tmp_path: Path) -> None:
    trained(tmp_path / "other", noise(), replace(CONFIG, seed=9))
    shutil.copy(tmp_path / "other" / FILE, copy / FILE)
    reseal(copy)
    with pytest.raises(BadArtifact, match="not of one training"):
        load(copy, ITEMS)


def test_an_index_whose_rows_stand_in_another_order_is_refused(copy: Path) -> None:
    model = load(copy, ITEMS).retriever.model
    items_ND = model.embedding.weight.detach().numpy()[1:]
    bias_N = model.bias_V.detach().numpy()[1:]
    ItemIndex.build(items_ND[::-1], bias_N[::-1]).save(copy)
    reseal(copy)
    with pytest.raises(BadArtifact, match="not of one training"):
        load(copy, ITEMS)


def test_an_index_of_another_size_is_refused(copy: Path) -> None:
    ItemIndex.build(np.ones((39, CONFIG.width)), np.ones(39)).save(copy)
    reseal(copy)
    with pytest.raises(BadArtifact, match=r"holds 39 items, the catalogue 40"):
        load(copy, ITEMS)


def test_weights_of_another_shape_are_refused(copy: Path) -> None:
    def wider(manifest: Manifest) -> Manifest:
        config = {"model": manifest.config["model"] | {"width": 32}, "train": manifest.config["train"]}
        return manifest.model_copy(update={"config": config})

    reseal(copy, wider)
    with pytest.raises(BadArtifact, match=r"lrurec\.safetensors does not fit the manifest's config"):
        load(copy, ITEMS)


def test_the_artifact_opens_without_the_model(folder: Path) -> None:
    assert open_artifact(folder, "retriever").method == "lrurec"
