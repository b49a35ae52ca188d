"""RecLLM as the first stage: it keeps the retriever's contract, and is chosen by what the artifact says it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ranker import backbone
from services.loading import first_stage
from services.recllm import RecLLMRetriever, load
from shared.errors import BadArtifact
from shared.history import History
from shared.protocols import Retriever
from tests.contracts.retriever import RetrieverContract
from tests.ranker import tiny
from tests.ranker.cllm4rec import made

CATALOG = tiny.DATA.catalog


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recllm")
    tokenizer = tiny.bpe(tiny.corpus())
    tiny.save(folder / "backbone", tokenizer, tiny.llama(len(tokenizer)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        made.trained(folder / "out", folder / "backbone")
    return folder / "out"


@pytest.fixture
def retriever(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> RecLLMRetriever:
    monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
    return load(artifact, CATALOG, device="cpu")[1]


class TestRecLLMRetriever(RetrieverContract):
    items = tiny.ITEMS
    tolerance = 1e-3

    @pytest.fixture
    def retriever(self, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Retriever:
        monkeypatch.setattr(backbone, "best_dtype", lambda device: torch.float32)
        return load(artifact, CATALOG, device="cpu")[1]


def test_it_finds_what_the_ranker_scores_highest(retriever: RecLLMRetriever) -> None:
    history = History((3, 4, 5), "u1")
    [found] = retriever.retrieve([history], 10)
    [opinion] = retriever.scorer.score([history], [list(range(1, tiny.ITEMS + 1))])
    expected = np.argsort(-opinion.logits_C, kind="stable")[:10] + 1
    assert [candidate.item for candidate in found] == expected.tolist()
    assert [candidate.score for candidate in found] == pytest.approx(
        sorted(opinion.logits_C, reverse=True)[:10], abs=1e-3
    )


def test_an_artifact_of_a_ranker_is_opened_as_recllm(artifact: Path) -> None:
    stage = first_stage(artifact, CATALOG, device="cpu")
    assert stage.manifest.method == "cllm4rec"
    assert isinstance(stage.retriever, RecLLMRetriever)
    counts = np.bincount(np.concatenate([s[:-2] for s in tiny.DATA.sequences()]), minlength=tiny.ITEMS + 1)
    [popular] = stage.popularity.retrieve([History(())], 1)
    assert counts[popular[0].item] == counts.max()


def test_what_is_no_artifact_is_refused_in_the_retrievers_words(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="no retriever artifact"):
        first_stage(tmp_path, CATALOG)
