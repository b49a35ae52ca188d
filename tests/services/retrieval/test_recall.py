"""An index that does not find what its model scores highest serves nobody."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from retriever.index import ItemIndex
from retriever.lrurec import LRURec
from retriever.retrieve import LRURecRetriever, load
from services.loading import first_stage, retrieval_service
from services.retrieval.recall import DEPTH, SAMPLE, require_recall, sample
from shared.artifact import MANIFEST, Manifest, seal
from shared.candidate import Candidate
from shared.errors import BadArtifact
from shared.history import History
from tests.retriever import tiny

ITEMS = 200
HISTORIES = [History((n,)) for n in range(1, 41)]


class Exactly:
    """Finds the best by the scores of `table`, of which item 0 is none; `lost` of every ten it does not find."""

    def __init__(self, table: np.ndarray, lost: int = 0) -> None:
        self.table, self.lost = table, lost

    def scores(self, histories: Sequence[History]) -> np.ndarray:
        return self.table[[history.items[-1] for history in histories]]

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        return [self._best(scores_V, k) for scores_V in self.scores(histories)]

    def _best(self, scores_V: np.ndarray, k: int) -> list[Candidate]:
        order = np.argsort(-scores_V[1:], kind="stable") + 1
        kept = [int(item) for place, item in enumerate(order) if place % 10 >= self.lost]
        return [Candidate(item, float(scores_V[item])) for item in kept[:k]]


@pytest.fixture
def table() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(len(HISTORIES) + 1, ITEMS + 1)).astype(np.float32)


def test_an_exact_index_passes(table: np.ndarray) -> None:
    exact = Exactly(table)
    require_recall(exact, exact.scores, HISTORIES, "it")


def test_an_index_that_loses_one_in_ten_is_refused_by_how_much_it_finds(table: np.ndarray) -> None:
    lossy = Exactly(table, lost=1)
    with pytest.raises(BadArtifact, match="it finds 90%"):
        require_recall(lossy, lossy.scores, HISTORIES, "it")


def test_items_that_score_alike_may_stand_for_each_other() -> None:
    table = np.zeros((len(HISTORIES) + 1, ITEMS + 1), dtype=np.float32)
    lossy = Exactly(table, lost=5)
    require_recall(lossy, lossy.scores, HISTORIES, "it")


def test_scores_that_are_no_numbers_are_found_by_nobody(table: np.ndarray) -> None:
    exact = Exactly(table)
    with pytest.raises(BadArtifact, match="finds 0%"):
        require_recall(exact, lambda histories: np.full((len(histories), ITEMS + 1), np.nan), HISTORIES, "it")


def test_a_small_catalogue_has_fewer_to_find(table: np.ndarray) -> None:
    exact = Exactly(table[:, : DEPTH // 2])
    require_recall(exact, exact.scores, HISTORIES, "it")


def test_the_sample_is_of_stored_users_or_made_up_and_the_same_each_time() -> None:
    stored = tiny.cycle(users=100)
    found = sample(stored, 40)
    assert len(found) == SAMPLE
    assert [history.items for history in found[:1]] == [tuple(stored.sequence(0))]
    assert sample(None, 40) == sample(None, 40)
    assert {len(sample(None, 40)), len(sample(tiny.cycle(users=3), 40))} == {SAMPLE, 3}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    tiny.trained(tmp_path / "lrurec")
    return tmp_path / "lrurec"


def test_a_trained_retriever_finds_what_its_model_scores(artifact: Path) -> None:
    retrieval_service(artifact, tiny.cycle().catalog, tiny.cycle()).close()


def test_an_index_of_other_weights_is_refused(artifact: Path) -> None:
    """With the best item of the one query that the loader asks, so that only a sample of histories tells."""
    catalog = tiny.cycle().catalog
    model = load(artifact, catalog).retriever.model
    _with_index_of(artifact, _shuffled(model))
    first_stage(artifact, catalog)
    with pytest.raises(BadArtifact, match="not of one training"):
        retrieval_service(artifact, catalog)


def _shuffled(model: LRURec) -> LRURec:
    """Every item but the best of the loader's query has another one's vector."""
    with torch.no_grad():
        best = int(model.scores(torch.ones(1, model.config.width))[0][1:].argmax()) + 1
        others = [item for item in range(1, model.config.items + 1) if item != best]
        rows = others[1:] + others[:1]
        model.embedding.weight[others] = model.embedding.weight[rows].clone()
        model.bias_V[others] = model.bias_V[rows].clone()
    return model


def _with_index_of(artifact: Path, model: LRURec) -> None:
    index = ItemIndex.build(model.embedding.weight.detach().numpy()[1:], model.bias_V.detach().numpy()[1:])
    index.save(artifact)
    manifest = Manifest.model_validate_json((artifact / MANIFEST).read_bytes())
    seal(artifact, manifest)
    assert LRURecRetriever(model, index, 10).retrieve(HISTORIES[:1], 5)
