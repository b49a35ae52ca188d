"""CoLLM and TALLRec as they serve: the Yes logits of a user's candidates, whose prompts begin alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker import weights
from ranker.backbone import Backbone
from ranker.behaviour import models
from ranker.collm.model import Asked, CoLLM, mapping
from ranker.collm.prompt import Features, PairPrompts
from ranker.collm.recipes import CoLLMConfig
from ranker.engines.protocol import Engine
from ranker.engines.told import spliced
from ranker.labels import require
from ranker.opinion import Opinion
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadArtifact
from shared.history import History
from shared.protocols import Reused, TellsReuse

USERS, MAPPING = "users.json", "mapping.safetensors"


class CoLLMScorer:
    """Training asks for the Yes logit alone (equation 6), against no other word. So the share of the vocabulary that
    Yes and No hold says nothing of how sure it is, and an opinion's mass stays 1.

    users: from a user's id to its number in the collaborative model. engine: for weights that no longer change;
    without one it scores through the modules that training trains."""

    def __init__(
        self, model: CoLLM, users: Mapping[str, int], max_candidates: int, engine: Engine | None = None
    ) -> None:
        self.model, self.users, self.engine = model, users, engine
        self.max_candidates = max_candidates

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        asked = [
            Asked(self.users.get(h.user_id or "", 0), h.items, listed)
            for h, listed in zip(histories, items, strict=True)
        ]
        return [Opinion(yes_C) for yes_C in self.yes(asked, hybrid=True)]

    @torch.inference_mode()
    def yes(self, asked: Sequence[Asked], hybrid: bool) -> list[np.ndarray]:
        """Per user the Yes logits of the items in question, float64."""
        if self.engine is not None:
            return self._asked_of(self.engine, asked, hybrid)
        return [yes_C.cpu().numpy().astype(np.float64) for yes_C, _ in self.model.logits(asked, hybrid)]

    def tokens(self, history: History, items: Sequence[int]) -> int:
        """As many as are read at most: an unknown user or item is asked about without its features."""
        prompts, features = self.model.prompts, Features(0, 0) if self.model.behaviour else None
        return len(prompts.prefix(history.items)) + sum(len(prompts.branch(item, features)) for item in items)

    def reused(self) -> Reused:
        return self.engine.reused() if isinstance(self.engine, TellsReuse) else Reused()

    def _asked_of(self, engine: Engine, asked: Sequence[Asked], hybrid: bool) -> list[np.ndarray]:
        base, (groups, fill) = self.model.base, self.model.groups(asked, hybrid)
        prompts = [group.prefix + branch for group in groups for branch in group.branches]
        keep = [len(group.prefix) for group in groups for _ in group.branches]
        vocabulary: int = base.model.get_input_embeddings().num_embeddings
        told = engine.label_logits(
            spliced(prompts, vocabulary, fill, base.device), self.model.prompts.answers, keep=keep
        )
        yes_N, ends = told.logits_BK[:, 0].astype(np.float64), np.cumsum([len(group.branches) for group in groups])[:-1]
        return np.split(yes_N, ends)


def restore(
    base: Backbone, catalog: Catalog, config: CoLLMConfig, manifest: Manifest, folder: Path, engine: Engine
) -> CoLLMScorer:
    """base: the backbone with the artifact's adapter, as `engine` runs it. Raises BadArtifact or LabelMismatch."""
    prompts = prompt_builder(base.tokenizer, catalog, config)
    require(manifest.extra["answers"], prompts.answers, f"the ranker in {folder}")
    if manifest.method == "tallrec":
        return CoLLMScorer(CoLLM(base, prompts, None, None), {}, config.candidates, engine)
    behaviour = models.load(config.behaviour, manifest.extra["sizes"], folder).to(base.device)
    projector = mapping(behaviour, base.model.config.hidden_size)
    try:
        projector.load_state_dict(weights.load(folder / MAPPING))
    except RuntimeError as error:
        raise BadArtifact(f"{folder / MAPPING} does not fit the backbone: {error}") from None
    users = numbered(json.loads((folder / USERS).read_text()))
    projector = projector.to(base.device).eval().requires_grad_(False)
    return CoLLMScorer(CoLLM(base, prompts, behaviour, projector), users, config.candidates, engine)


def prompt_builder(tokenizer: Any, catalog: Catalog, config: CoLLMConfig) -> PairPrompts:
    return PairPrompts(tokenizer, catalog, max_history=config.history, max_title_tokens=config.title_tokens)


def numbered(user_ids: Sequence[str]) -> dict[str, int]:
    return {user: number for number, user in enumerate(user_ids, start=1)}
