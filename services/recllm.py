"""RecLLM as the first stage: its user vector searches its item table in FAISS, as LRURec's does.

The artifact is that of the ranker. Here two rooms meet that never import one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from ranker.cllm4rec.rank import COUNTS, RecLLMScorer
from ranker.opinion import BlendedRanker
from ranker.registry import load as load_ranker
from retriever.index import ItemIndex
from retriever.popularity import Popularity
from shared.artifact import Manifest, open_artifact
from shared.candidate import Candidate
from shared.catalog import Catalog
from shared.history import History


class RecLLMRetriever:
    def __init__(self, scorer: RecLLMScorer) -> None:
        self.scorer = scorer
        table_ID = scorer.item_table.float().cpu().numpy()
        self.index = ItemIndex.build(table_ID, np.zeros(len(table_ID), dtype=np.float32))

    def retrieve(
        self, histories: Sequence[History], k: int, exclude: Sequence[Sequence[int]] | None = None
    ) -> list[list[Candidate]]:
        return self.index.search(self.scorer.encode(histories), k, exclude)

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[list[Candidate]]:
        users_BD = self.scorer.encode(histories)
        answers = []
        for user_D, given in zip(users_BD, items, strict=True):
            scores_N = self.index.rows(given)[:, :-1] @ user_D
            order_N = np.argsort(-scores_N, kind="stable")
            answers.append([Candidate(int(given[n]), float(scores_N[n])) for n in order_N])
        return answers

    def vectors(self, items: Sequence[int]) -> np.ndarray:
        vectors_ND = self.index.rows(items)[:, :-1]
        lengths_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        unit_ND: np.ndarray = vectors_ND / np.maximum(lengths_N1, 1e-12)
        return unit_ND


def load(
    folder: Path, catalog: Catalog, backbone: str | None = None, device: str = "auto"
) -> tuple[Manifest, RecLLMRetriever, Popularity]:
    """Raises BadArtifact or one of its kinds; the model has reproduced its golden score."""
    open_artifact(folder, "ranker", methods=("cllm4rec",))
    loaded = load_ranker(folder, catalog, backbone, device)
    loaded.self_test()
    assert isinstance(loaded.ranker, BlendedRanker)
    assert isinstance(loaded.ranker.scorer, RecLLMScorer)
    return loaded.manifest, RecLLMRetriever(loaded.ranker.scorer), Popularity(load_file(folder / COUNTS)["counts"])
