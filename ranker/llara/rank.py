"""LLaRA as it serves: one forward a user; titles' likelihoods over the shared prefix, or letters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker import weights
from ranker.backbone import Backbone
from ranker.behaviour import models
from ranker.labels import require
from ranker.llara.model import LLaRA, sr2llm
from ranker.llara.prompt import HybridPrompts
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import Opinion
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadArtifact
from shared.history import History

PROJECTOR = "projector.safetensors"


class LLaRAScorer:
    """hybrid: with behavioural tokens; without for an artifact that never learnt them."""

    def __init__(self, model: LLaRA, max_candidates: int, hybrid: bool = True) -> None:
        self.model, self.max_candidates, self.hybrid = model, max_candidates, hybrid

    @torch.inference_mode()
    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        told = self.model.opinions([h.items for h in histories], items, self.hybrid)
        return [Opinion(log_C.cpu().numpy().astype(np.float64), min(1.0, mass)) for log_C, mass in told]


def restore(base: Backbone, catalog: Catalog, config: LLaRAConfig, manifest: Manifest, folder: Path) -> LLaRAScorer:
    """base: the backbone with the artifact's adapter. Raises BadArtifact or LabelMismatch."""
    prompts = prompt_builder(base, catalog, config)
    require(manifest.extra["answer_tokens"], answer_tokens(prompts), f"the ranker in {folder}")
    behaviour = models.load(config.behaviour, manifest.extra["sizes"], folder).to(base.device)
    projector = sr2llm(behaviour, base.model.config.hidden_size)
    try:
        projector.load_state_dict(weights.load(folder / PROJECTOR))
    except RuntimeError as error:
        raise BadArtifact(f"{folder / PROJECTOR} does not fit the backbone: {error}") from None
    projector = projector.to(base.device).eval().requires_grad_(False)
    return scorer(LLaRA(base, prompts, behaviour, projector), config)


def scorer(model: LLaRA, config: LLaRAConfig) -> LLaRAScorer:
    return LLaRAScorer(model, config.candidates, hybrid=config.curriculum != "text")


def prompt_builder(base: Backbone, catalog: Catalog, config: LLaRAConfig) -> HybridPrompts:
    kwargs: dict[str, Any] = {"max_history": config.history, "max_title_tokens": config.title_tokens}
    vocabulary = base.model.get_input_embeddings().num_embeddings
    return HybridPrompts(base.tokenizer, catalog, vocabulary, answer=config.answer, **kwargs)


def answer_tokens(prompts: HybridPrompts) -> list[int]:
    """By which another tokenizer is told: the letters, or the first title and its end."""
    return prompts.labels or [*prompts.titles[1], prompts.end]
