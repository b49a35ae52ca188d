"""CLLM4Rec in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker.backbone import Backbone
from ranker.cllm4rec.documents import Documents
from ranker.cllm4rec.model import CLLM4Rec, Embeddings
from ranker.cllm4rec.recipes import CLLM4RecConfig
from ranker.cllm4rec.train import train
from shared.artifact import Manifest
from shared.data.prepared import Prepared
from tests.ranker import tiny

USERS, ITEMS = 7, 12
LAMBDA = 0.7


def documents(base: Backbone, **changes: int) -> Documents:
    limits = {"most_items": 100, "most_words": 20} | changes
    return Documents(base.tokenizer, base.model.config.vocab_size, USERS, ITEMS, **limits)


def model(base: Backbone) -> CLLM4Rec:
    """Collaborative and content embeddings differ."""
    generator = torch.Generator().manual_seed(2)
    hidden = base.model.config.hidden_size
    embeddings = Embeddings(USERS, 0.3 * torch.randn(USERS + ITEMS, hidden, generator=generator))
    embeddings.content_SD.data += 0.1 * torch.randn(USERS + ITEMS, hidden, generator=generator)
    return CLLM4Rec(base, embeddings, LAMBDA)


def tastes() -> Prepared:
    """Even users take even items, odd users odd ones, in any order."""
    rng = np.random.default_rng(0)
    sequences = [[2 * int(x) + 1 + user % 2 for x in rng.permutation(20)[:10]] for user in range(40)]
    return tiny.prepared(sequences, tiny.catalog(40))


def config(backbone: Path, **changes: Any) -> CLLM4RecConfig:
    base = CLLM4RecConfig(
        backbone=str(backbone),
        content_first=16,
        pretrain=64,
        tune=64,
        batch=8,
        validate_every=32,
        validation_users=20,
        warmup=1,
        learning_rate=3e-3,
        tune_rate=3e-3,
        lambda_c=0.1,
        seed=1,
    )
    return replace(base, **changes)


def trained(
    out: Path, backbone: Path, data: Prepared = tiny.DATA, alone: bool = False, resume: bool = False, **changes: Any
) -> Manifest:
    retriever = None if alone else tiny.Neighbours(len(data.catalog))
    settings = config(backbone, **changes)
    return train(data, settings, out, retriever=retriever, retriever_name="neighbours@1", resume=resume, device="cpu")
