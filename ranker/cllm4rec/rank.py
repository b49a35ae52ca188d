"""RecLLM as it serves: one forward a user, its vector; one small product, the scores of any candidates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from ranker import weights
from ranker.backbone import Backbone
from ranker.cllm4rec.documents import NOBODY, Documents
from ranker.cllm4rec.model import CLLM4Rec, Embeddings
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.engines.soft import batched
from ranker.opinion import Opinion
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.errors import BadArtifact
from shared.history import History

EMBEDDINGS, USERS = "embeddings.safetensors", "users.json"
COUNTS = "popularity.safetensors"
"""Training events per item: what a retriever answers to a user without a history."""
NEWCOMER = "recllm: a user without an ID token; the prompt names none"


class RecLLMScorer:
    """users: from a user's id to its number. finetuned: RecLLM's prompt, else the collaborative LLM's."""

    def __init__(
        self,
        model: CLLM4Rec,
        documents: Documents,
        users: Mapping[str, int],
        max_candidates: int,
        finetuned: bool = True,
    ) -> None:
        self.model, self.documents, self.users = model, documents, users
        self.max_candidates, self.finetuned = max_candidates, finetuned

    def knows(self, history: History) -> bool:
        """Whether the user has an ID token."""
        return (history.user_id or "") in self.users

    def score(self, histories: Sequence[History], items: Sequence[Sequence[int]]) -> list[Opinion]:
        return self.score_encoded(self.encode(histories), histories, items)

    @torch.inference_mode()
    def encode(self, histories: Sequence[History]) -> np.ndarray:
        """User vectors B x D, float32: good for any candidates as long as the history stays, so worth caching."""
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
        vectors = torch.from_numpy(vectors_BD).to(self.model.base.device)
        logits_BI = self.model.item_logits(vectors).double().cpu().numpy()
        answers = []
        for logits_I, history, listed in zip(logits_BI, histories, items, strict=True):
            logits_C = logits_I[np.asarray(listed, dtype=int) - 1]
            answers.append(Opinion(logits_C, notes=() if self.knows(history) else (NEWCOMER,)))
        return answers

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


def restore(base: Backbone, catalog: Catalog, config: CLLM4RecConfig, manifest: Manifest, folder: Path) -> RecLLMScorer:
    """Raises BadArtifact where file and manifest are not of one training."""
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
    return scorer(model, base, users, len(catalog), config)


def scorer(model: CLLM4Rec, base: Backbone, users: Sequence[str], items: int, config: CLLM4RecConfig) -> RecLLMScorer:
    numbers = {user: number for number, user in enumerate(users, start=1)}
    return RecLLMScorer(model, written(base, len(users), items, config), numbers, config.candidates, config.finetune)


def written(base: Backbone, users: int, items: int, config: CLLM4RecConfig) -> Documents:
    vocabulary = base.model.get_input_embeddings().num_embeddings
    kwargs = {"most_items": config.most_items, "most_words": config.most_words}
    return Documents(base.tokenizer, vocabulary, users, items, **kwargs)
