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
from ranker.engines.protocol import Engine, TellsLikelihoods
from ranker.engines.told import spliced
from ranker.labels import require
from ranker.llara.model import LLaRA, sr2llm
from ranker.llara.prompt import HybridPrompts
from ranker.llara.recipes import LLaRAConfig
from ranker.opinion import Opinion, known
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadArtifact, BadInput
from shared.history import History
from shared.protocols import Reused, TellsReuse

PROJECTOR = "projector.safetensors"


class LLaRAScorer:
    """hybrid: with behavioural tokens; without for an artifact that never learnt them. engine: for weights that no
    longer change; without one it scores through the modules that training trains."""

    def __init__(self, model: LLaRA, max_candidates: int, hybrid: bool = True, engine: Engine | None = None) -> None:
        """Raises BadInput for an engine that cannot tell titles from one another."""
        if model.prompts.answer == "title" and engine is not None and not isinstance(engine, TellsLikelihoods):
            raise BadInput(
                f"LLaRA with answer=title needs titles' likelihoods, which {type(engine).__name__} does not tell. "
                "Serve it with the local engine, or train with --set answer=letter."
            )
        self.model, self.max_candidates, self.hybrid, self.engine = model, max_candidates, hybrid, engine

    @torch.inference_mode()
    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        if self.engine is not None:
            return self._asked_of(self.engine, histories, items)
        told = self.model.opinions([h.items for h in histories], items, self.hybrid)
        return [Opinion(log_C.cpu().numpy().astype(np.float64), min(1.0, mass)) for log_C, mass in told]

    def tokens(self, history: History, items: Sequence[int]) -> int:
        prompts = self.model.prompts
        answers = 0 if prompts.answer == "letter" else sum(len(prompts.titles[item]) for item in items)
        return len(self.model.prompt(history.items, items, self.hybrid)) + answers

    def reused(self) -> Reused:
        return self.engine.reused() if isinstance(self.engine, TellsReuse) else Reused()

    def _asked_of(self, engine: Engine, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        told, base = self.model.prompts, self.model.base
        asked, fill = zip(histories, items, strict=True), self.model.filling([h.items for h in histories])
        plain = [self.model.prompt(h.items, listed, self.hybrid, n) for n, (h, listed) in enumerate(asked)]
        keep = [len(self.model.prompt(h.items, [], self.hybrid)) - told.end_size for h in histories]
        prompts = spliced(plain, told.vocabulary, fill, base.device)
        if told.answer == "letter":
            scores = engine.label_logits(prompts, told.labels, keep=keep)
            rows = zip(items, scores.logits_BK.astype(np.float64), scores.mass_B, strict=True)
            return [_of_letters(logits_K, len(listed), known(mass)) for listed, logits_K, mass in rows]
        assert isinstance(engine, TellsLikelihoods)
        answers = [[told.right(listed, place) for place in range(len(listed))] for listed in items]
        found = [log_C.astype(np.float64) for log_C in engine.log_likelihoods(prompts, answers, keep=keep)]
        return [Opinion(log_C, min(1.0, float(np.exp(log_C).sum()))) for log_C in found]


def _of_letters(logits_K: np.ndarray, shown: int, mass: float) -> Opinion:
    """mass: of all letters; that of those that stood in the prompt is the opinion's."""
    p_K = np.exp(logits_K - logits_K.max())
    return Opinion(logits_K[:shown], mass * float(p_K[:shown].sum() / p_K.sum()))


def restore(
    base: Backbone, catalog: Catalog, config: LLaRAConfig, manifest: Manifest, folder: Path, engine: Engine
) -> LLaRAScorer:
    """base: the backbone with the artifact's adapter, as `engine` runs it. Raises BadArtifact or LabelMismatch."""
    prompts = prompt_builder(base, catalog, config)
    require(manifest.extra["answer_tokens"], answer_tokens(prompts), f"the ranker in {folder}")
    behaviour = models.load(config.behaviour, manifest.extra["sizes"], folder).to(base.device)
    projector = sr2llm(behaviour, base.model.config.hidden_size)
    try:
        projector.load_state_dict(weights.load(folder / PROJECTOR))
    except RuntimeError as error:
        raise BadArtifact(f"{folder / PROJECTOR} does not fit the backbone: {error}") from None
    projector = projector.to(base.device).eval().requires_grad_(False)
    return scorer(LLaRA(base, prompts, behaviour, projector), config, engine)


def scorer(model: LLaRA, config: LLaRAConfig, engine: Engine | None = None) -> LLaRAScorer:
    return LLaRAScorer(model, config.candidates, hybrid=config.curriculum != "text", engine=engine)


def prompt_builder(base: Backbone, catalog: Catalog, config: LLaRAConfig) -> HybridPrompts:
    kwargs: dict[str, Any] = {"max_history": config.history, "max_title_tokens": config.title_tokens}
    kwargs["user"] = config.user
    vocabulary = base.model.get_input_embeddings().num_embeddings
    return HybridPrompts(base.tokenizer, catalog, vocabulary, answer=config.answer, **kwargs)


def answer_tokens(prompts: HybridPrompts) -> list[int]:
    """By which another tokenizer is told: the letters, or the first title and its end."""
    return prompts.labels or [*prompts.titles[1], prompts.end]
