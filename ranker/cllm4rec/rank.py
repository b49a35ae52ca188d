"""RecLLM as it serves: one forward a user, its vector; one small product, the scores of any candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cachetools import LRUCache

from ranker import weights
from ranker.backbone import Backbone
from ranker.cllm4rec.documents import NOBODY, Documents
from ranker.cllm4rec.model import CLLM4Rec, Embeddings
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.engines.protocol import Engine
from ranker.engines.soft import batched
from ranker.engines.told import spliced
from ranker.opinion import Opinion
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadArtifact
from shared.history import History
from shared.protocols import Reused, TellsReuse

EMBEDDINGS, USERS = "embeddings.safetensors", "users.json"
CONTENT = "content.safetensors"
"""The content embeddings of a run without fine-tuning, for one that goes on from it."""
COUNTS = "popularity.safetensors"
"""Training events per item: what a retriever answers to a user without a history."""
VECTORS = 4096
"""User vectors that are kept: 9 MB at the width of SmolLM2."""
NEWCOMER = "recllm: a user without an ID token; the prompt names none"


class RecLLMScorer:
    """users: from a user's id to its number. finetuned: RecLLM's prompt, else the collaborative LLM's. engine: for
    weights that no longer change, whose user vectors may be kept; without one it goes through the modules that training
    trains."""

    def __init__(
        self,
        model: CLLM4Rec,
        documents: Documents,
        users: Mapping[str, int],
        max_candidates: int,
        finetuned: bool = True,
        engine: Engine | None = None,
    ) -> None:
        self.model, self.documents, self.users, self.engine = model, documents, users, engine
        self.max_candidates, self.finetuned = max_candidates, finetuned
        self._vectors: LRUCache[tuple[int, tuple[int, ...]], np.ndarray] = LRUCache(maxsize=VECTORS)
        self.vectors_reused = 0

    def knows(self, history: History) -> bool:
        """Whether the user has an ID token."""
        return (history.user_id or "") in self.users

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        return self.score_encoded(self.encode(histories), histories, items)

    @torch.inference_mode()
    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """User vectors B x D, float32: good for any candidates as long as the history stays, so worth caching."""
        if self.engine is not None:
            return self._asked_of(self.engine, histories)
        prompts = [self._prompt(history) for history in histories]
        vectors_BD = np.zeros((len(prompts), self.item_table.shape[1]), dtype=np.float32)
        for rows in batched([len(prompt) for prompt in prompts]):
            vectors_BD[rows] = self.model.user_vectors([prompts[row] for row in rows]).cpu().numpy()
        return vectors_BD

    @torch.inference_mode()
    def score_encoded(
        self, vectors_BD: np.ndarray, histories: Sequence[History], items: Sequence[Sequence[int]]
    ) -> list[Opinion]:
        """Without any language model. The head knows items alone, so that all mass is on possible answers."""
        table_ID, answers = self.item_table, []
        for vector_D, history, listed in zip(torch.from_numpy(vectors_BD), histories, items, strict=True):
            rows_CD = table_ID[torch.as_tensor(listed, device=table_ID.device) - 1].float()
            logits_C = (rows_CD @ vector_D.to(table_ID.device)).double().cpu().numpy()
            answers.append(Opinion(logits_C, notes=() if self.knows(history) else (NEWCOMER,)))
        return answers

    def tokens(self, history: History, items: Sequence[int]) -> int:
        return len(self._prompt(history))

    def reused(self) -> Reused:
        told = self.engine.reused() if isinstance(self.engine, TellsReuse) else Reused()
        return replace(told, vectors=self.vectors_reused)

    def _asked_of(self, engine: Engine, histories: Sequence[History]) -> np.ndarray:
        """Each vector is computed once, as long as it is among the VECTORS asked for last."""
        keys = [(self.users.get(history.user_id or "", NOBODY), history.items) for history in histories]
        kept = {key: self._vectors[key] for key in keys if key in self._vectors}
        self.vectors_reused += sum(key in kept for key in keys)
        new = {key: history for key, history in zip(keys, histories, strict=True) if key not in kept}
        if new:
            base, table_SD = self.model.base, self.model.embeddings.collaborative_SD
            plain = [self._prompt(history) for history in new.values()]
            prompts = spliced(plain, self.model.vocabulary, lambda slots_S: table_SD[slots_S], base.device)
            kept.update(zip(new, engine.last_hidden(prompts), strict=True))
        self._vectors.update(kept)
        return np.stack([kept[key] for key in keys]) if keys else np.zeros((0, self.item_table.shape[1]), np.float32)

    @property
    def item_table(self) -> torch.Tensor:
        """I x D: with `encode`, all that an index of the catalogue needs; item i is row i - 1."""
        return self.model.embeddings.items_ID.detach()

    def _prompt(self, history: History) -> list[int]:
        user = self.users.get(history.user_id or "", NOBODY)
        items = list(dict.fromkeys(reversed(history.items)))[: self.documents.most_items][::-1]
        if self.finetuned:
            return self.documents.recommendation(user, items).prompt
        told = self.documents.interactions(user, items)
        return told.prompt + told.text


def restore(
    base: Backbone, catalog: Catalog, config: CLLM4RecConfig, manifest: Manifest, folder: Path, engine: Engine
) -> RecLLMScorer:
    """engine: runs `base`. Raises BadArtifact where file and manifest are not of one training."""
    users = json.loads((folder / USERS).read_text())
    table_SD = weights.load(folder / EMBEDDINGS)["collaborative"]
    hidden = base.model.config.hidden_size
    if table_SD.shape != (len(users) + len(catalog), hidden):
        raise BadArtifact(
            f"{folder / EMBEDDINGS} holds {tuple(table_SD.shape)} numbers, {len(users)} users and {len(catalog)} items "
            f"of a backbone {hidden} wide need another shape."
        )
    embeddings = Embeddings(len(users), table_SD.to(base.dtype)).to(base.device).requires_grad_(False)
    model = CLLM4Rec(base, embeddings, config.lambda_c)
    return scorer(model, base, users, len(catalog), config, engine)


def scorer(
    model: CLLM4Rec,
    base: Backbone,
    users: Sequence[str],
    items: int,
    config: CLLM4RecConfig,
    engine: Engine | None = None,
) -> RecLLMScorer:
    numbers = {user: number for number, user in enumerate(users, start=1)}
    documents = written(base, len(users), items, config)
    return RecLLMScorer(model, documents, numbers, config.candidates, config.finetune, engine)


def written(base: Backbone, users: int, items: int, config: CLLM4RecConfig) -> Documents:
    vocabulary = base.model.get_input_embeddings().num_embeddings
    kwargs = {"most_items": config.most_items, "most_words": config.most_words}
    return Documents(base.tokenizer, vocabulary, users, items, **kwargs)
