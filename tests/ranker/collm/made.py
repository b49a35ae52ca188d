"""CoLLM in miniature."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ranker.backbone import Backbone
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.models import MODELS, Name
from ranker.collm.model import CoLLM, mapping
from ranker.collm.prompt import PairPrompts
from ranker.collm.recipes import CoLLMConfig
from ranker.collm.train import train
from ranker.fit import LINEAR_LAYERS
from shared.artifact import Manifest
from shared.catalog import Catalog
from shared.data.pairs import PairData, Pairs, left_padded
from tests.ranker import tiny

ITEMS, USERS, WINDOW = 30, 20, 6


def pairs(rows: int, seed: int) -> Pairs:
    """Even users like even items, odd users odd ones; the histories tell nothing."""
    rng = np.random.default_rng(seed)
    users_N, items_N = rng.integers(1, USERS + 1, rows), rng.integers(1, ITEMS + 1, rows)
    histories = [rng.permutation(ITEMS)[: rng.integers(1, 5)] + 1 for _ in range(rows)]
    labels_N = (users_N % 2 == items_N % 2).astype(np.float32)
    return Pairs(users_N, items_N, labels_N, left_padded(histories, WINDOW), rng.random(rows) < 0.7)


def pair_data() -> PairData:
    parts = {"train": pairs(1200, 0), "valid": pairs(200, 1), "test": pairs(300, 2)}
    users = tuple(f"u{n}" for n in range(1, USERS + 1))
    return PairData("even-odd", tiny.of(*["Heat"] * ITEMS), users, **parts, digest="e" * 64)


def behaviour(name: Name) -> Behaviour:
    """Of random weights, large enough to be heard; item 30 and user 20 were never seen."""
    torch.manual_seed(1)
    model = MODELS[name](Sizes(users=USERS, items=ITEMS, width=8, window=WINDOW))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.learnt(torch.arange(USERS), torch.arange(ITEMS))
    return model.eval()


def model(base: Backbone, name: Name, catalog: Catalog | None = None) -> CoLLM:
    made = behaviour(name)
    projector = mapping(made, base.model.config.hidden_size)
    for parameter in projector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    prompts = PairPrompts(base.tokenizer, catalog or tiny.catalog(ITEMS), max_history=4, max_title_tokens=8)
    return CoLLM(base, prompts, made, projector)


def config(backbone: Path, **changes: Any) -> CoLLMConfig:
    base = CoLLMConfig(
        backbone=str(backbone),
        width=8,
        window=WINDOW,
        history=4,
        title_tokens=8,
        lora_targets=LINEAR_LAYERS,
        text_prompts=32,
        mapping_prompts=48,
        batch=8,
        validate_every=16,
        validation_pairs=40,
        warmup=1,
        hard=0.5,
        seed=1,
    )
    return replace(base, **changes)


def trained(out: Path, backbone: Path, resume: bool = False, **changes: Any) -> Manifest:
    retriever = tiny.Neighbours(tiny.ITEMS)
    settings = config(backbone, **changes)
    return train(
        tiny.DATA, settings, out, retriever=retriever, retriever_name="neighbours@1", resume=resume, device="cpu"
    )
