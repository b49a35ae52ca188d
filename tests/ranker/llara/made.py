"""LLaRA in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ranker.backbone import Backbone
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.models import MODELS
from ranker.llara.model import LLaRA, sr2llm
from ranker.llara.prompt import Answer, HybridPrompts
from ranker.llara.recipes import LLaRAConfig
from ranker.llara.train import train
from shared.artifact import Manifest
from shared.data.prepared import Prepared
from tests.ranker import tiny

ITEMS = 30


def behaviour() -> Behaviour:
    """Of random weights, large enough to be heard; item 30 was never seen."""
    torch.manual_seed(1)
    model = MODELS["gru4rec"](Sizes(users=0, items=ITEMS, width=8, window=4))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.learnt(torch.zeros(0, dtype=torch.long), torch.arange(ITEMS))
    return model.eval().requires_grad_(False)


def prompts(base: Backbone, answer: Answer = "title", *titles: str, user: bool = False) -> HybridPrompts:
    catalog = tiny.of(*titles) if titles else tiny.catalog(ITEMS)
    vocabulary = base.model.config.vocab_size
    limits = {"max_history": 3, "max_title_tokens": 8}
    return HybridPrompts(base.tokenizer, catalog, vocabulary, answer=answer, user=user, **limits)


def model(base: Backbone, answer: Answer = "title", user: bool = False) -> LLaRA:
    recommender = behaviour()
    projector = sr2llm(recommender, base.model.config.hidden_size)
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return LLaRA(base, prompts(base, answer, user=user), recommender, projector)


def config(backbone: Path, **changes: Any) -> LLaRAConfig:
    base = LLaRAConfig(
        backbone=str(backbone),
        behaviour="gru4rec",
        width=8,
        history=4,
        title_tokens=8,
        lora_rank=4,
        prompts=48,
        batch=8,
        validate_every=16,
        validation_rows=10,
        warmup=1,
        hard=0.5,
        learning_rate=3e-3,
        seed=1,
    )
    return replace(base, **changes)


def trained(out: Path, backbone: Path, data: Prepared = tiny.DATA, resume: bool = False, **changes: Any) -> Manifest:
    retriever = tiny.Neighbours(len(data.catalog))
    settings = config(backbone, **changes)
    return train(data, settings, out, retriever=retriever, retriever_name="neighbours@1", resume=resume, device="cpu")
