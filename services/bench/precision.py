"""Whether a ranker orders as well with rounded weights as in float32: NDCG@10 of the language model alone, over the
test users whose item is among the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker import backbone
from ranker.backbone import Backbone, Pool, Quantization
from ranker.blend import truth_ranks
from ranker.evaluate import CANDIDATES
from ranker.evaluate import questions as asked_of
from ranker.registry import heard, load
from ranker.sensitivity import kendall_tau
from services.evaluation import retrieve
from shared import metrics
from shared.data.prepared import Prepared

LOSS = 0.005
"""Of NDCG, at most, for a precision to be served."""


class Rounded(Pool):
    """Backbones in one precision, whatever the processor likes best."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        super().__init__(device)
        self.dtype = dtype

    def get(self, name: str, *, layers: int, quantization: Quantization) -> Backbone:
        return backbone.load(name, layers=layers, device=self.device, dtype=self.dtype, quantization=quantization)


@dataclass(frozen=True, slots=True)
class Gate:
    """ndcg: @10, in float32 and rounded. tau: Kendall's, of the two orders, mean over users. logit: the largest
    difference of one user's log probabilities."""

    users: int
    exact: float
    rounded: float
    tau: float
    logit: float

    @property
    def loss(self) -> float:
        """Of the float32 NDCG; below 0 where the rounded one is the better."""
        return 1 - self.rounded / self.exact if self.exact else 0.0

    @property
    def passes(self) -> bool:
        return self.loss <= LOSS


def gate(
    data: Prepared, retriever: Any, ranker: Path, dtype: torch.dtype, users: int = 0, device: str = "auto"
) -> Gate:
    """retriever: a LoadedRetriever. users: of the test users, at most; 0 for all. Raises BadArtifact."""
    stage = retrieve(data, retriever, "window", users)
    exact_UC, asked = _logits(data, stage, ranker, torch.float32, device)
    rounded_UC, _ = _logits(data, stage, ranker, dtype, device)
    found = asked.truth_U >= 0
    ndcg = [
        float(metrics.ndcg(truth_ranks(logits_UC, asked.truth_U)[found], 10).mean())
        for logits_UC in (exact_UC, rounded_UC)
    ]
    finite_UC = np.isfinite(exact_UC[found])
    apart = np.abs(_centred(exact_UC[found]) - _centred(rounded_UC[found]))[finite_UC]
    tau = kendall_tau(exact_UC[found], rounded_UC[found])
    return Gate(int(found.sum()), ndcg[0], ndcg[1], tau, float(apart.max(initial=0.0)))


def _logits(data: Prepared, stage: Any, folder: Path, dtype: torch.dtype, device: str) -> tuple[np.ndarray, Any]:
    loaded = load(folder, data.catalog, device=device, pool=Rounded(dtype, device))
    loaded.self_test()
    width = min(CANDIDATES, loaded.ranker.max_candidates)
    asked = asked_of(stage.cases, stage.items_UC[:, :width], stage.scores_UC[:, :width], data.user_ids)
    return heard(loaded.ranker, asked, str(dtype).removeprefix("torch."))[0], asked


def _centred(logits_UC: np.ndarray) -> np.ndarray:
    """Logits mean what they differ by."""
    with np.errstate(invalid="ignore"):
        seen_UC = np.where(np.isfinite(logits_UC), logits_UC, np.nan)
        return np.asarray(logits_UC - np.nanmean(seen_UC, axis=1, keepdims=True))
