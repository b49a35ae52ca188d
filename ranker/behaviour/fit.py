"""Training a small recommender: on labelled pairs (CoLLM's collaborative models) or on next items (LLaRA's).

Early stopping on validation; the best weights stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ranker.behaviour.lightgcn import LightGCN
from ranker.behaviour.model import Behaviour, Sizes
from ranker.behaviour.models import MODELS
from shared import metrics
from shared.data.pairs import Nexts, Pairs
from shared.progress import progress


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    epochs: int = 100
    patience: int = 5
    """Epochs without a better validation score."""
    seed: int = 42


def fit_pairs(
    name: str, sizes: Sizes, train: Pairs, valid: Pairs, config: FitConfig, device: torch.device
) -> tuple[Behaviour, float]:
    """By binary cross-entropy, selected on AUC, which comes back with the model in eval mode."""
    torch.manual_seed(config.seed)
    users_N, items_N, histories_NL = tensors(train, device)
    labels_N = torch.from_numpy(train.labels_N).to(device)
    liked_N = labels_N > 0
    model = _build(name, sizes, torch.stack([users_N[liked_N], items_N[liked_N]])).to(device)
    model.learnt(users_N, items_N)

    def loss(rows_B: Tensor) -> Tensor:
        logits_B = model.logits(users_N[rows_B], histories_NL[rows_B], items_N[rows_B])
        return F.binary_cross_entropy_with_logits(logits_B, labels_N[rows_B])

    return model, _fit(f"fit {name}", model, len(train), loss, lambda: pair_auc(model, valid), config)


def fit_nexts(
    name: str, sizes: Sizes, train: Nexts, valid: Nexts, config: FitConfig, device: torch.device
) -> tuple[Behaviour, float]:
    """By cross-entropy over the whole catalogue, selected on the mean reciprocal rank."""
    torch.manual_seed(config.seed)
    histories_NL = torch.from_numpy(train.histories_NL).long().to(device)
    nexts_N = torch.from_numpy(train.nexts_N).to(device)
    model = MODELS[name](sizes).to(device)
    model.learnt(torch.zeros(0, dtype=torch.long), torch.cat([histories_NL.flatten(), nexts_N]))

    def loss(rows_B: Tensor) -> Tensor:
        return F.cross_entropy(next_scores(model, histories_NL[rows_B])[:, 1:], nexts_N[rows_B] - 1)

    return model, _fit(f"fit {name}", model, len(train), loss, lambda: next_mrr(model, valid), config)


@dataclass(frozen=True, slots=True)
class Selected:
    """score: on validation. weight_decay: that of the best run."""

    model: Behaviour
    score: float
    weight_decay: float


def select(fit: Callable[[FitConfig], tuple[Behaviour, float]], config: FitConfig, decays: Sequence[float]) -> Selected:
    """The best on validation of one run per weight decay."""
    runs = (Selected(*fit(replace(config, weight_decay=decay)), decay) for decay in decays)
    return max(runs, key=lambda run: run.score)


def tensors(pairs: Pairs, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Users, items, histories."""
    arrays = (pairs.users_N, pairs.items_N, pairs.histories_NL)
    users_N, items_N, histories_NL = (torch.from_numpy(a).long().to(device) for a in arrays)
    return users_N, items_N, histories_NL


def next_scores(model: Behaviour, histories_BL: Tensor) -> Tensor:
    """B x V; PAD's column means nothing. For models whose user is the history."""
    nobody_B = torch.zeros(len(histories_BL), dtype=torch.long, device=histories_BL.device)
    every_V = torch.arange(model.sizes.items + 1, device=histories_BL.device)
    users_BD = model.user_vectors(nobody_B, histories_BL, nobody_B)
    return users_BD @ model.item_vectors(every_V).T + model.item_biases(every_V)


@torch.no_grad()
def pair_logits(model: Behaviour, pairs: Pairs) -> np.ndarray:
    device = model.known_items_V.device
    rows = zip(*(t.split(4096) for t in tensors(pairs, device)), strict=True)
    return torch.cat([model.logits(users, histories, items) for users, items, histories in rows]).cpu().numpy()


def pair_auc(model: Behaviour, pairs: Pairs) -> float:
    return metrics.auc(pairs.labels_N, pair_logits(model, pairs))


@torch.no_grad()
def next_mrr(model: Behaviour, nexts: Nexts) -> float:
    """Mean reciprocal rank of the next items in the whole catalogue but the history; a repeated item stays."""
    histories_NL = torch.from_numpy(nexts.histories_NL).long().to(model.known_items_V.device)
    nexts_N = torch.from_numpy(nexts.nexts_N).to(histories_NL.device)
    total = 0.0
    for histories_BL, next_B in zip(histories_NL.split(1024), nexts_N.split(1024), strict=True):
        scores_BV = next_scores(model, histories_BL)
        truth_B1 = scores_BV.gather(1, next_B[:, None])
        scores_BV = scores_BV.scatter(1, histories_BL, float("-inf"))
        scores_BV[:, 0] = float("-inf")
        # What is no number is above the truth, as a truth that is none is below everything.
        total += float((1 / (1 + (~(scores_BV <= truth_B1)).sum(1))).sum())
    return total / max(1, len(nexts))


def _build(name: str, sizes: Sizes, edges_2E: Tensor) -> Behaviour:
    if name != "lightgcn":
        return MODELS[name](sizes)
    kwargs = {f: getattr(sizes, f) for f in ("users", "items", "width", "window")}
    return LightGCN(Sizes(**kwargs, edges=edges_2E.shape[1]), edges_2E.cpu())


def _fit(
    what: str,
    model: Behaviour,
    rows: int,
    loss: Callable[[Tensor], Tensor],
    validate: Callable[[], float],
    config: FitConfig,
) -> float:
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best, stale, kept = float("-inf"), 0, {n: t.clone() for n, t in model.state_dict().items()}
    device = model.known_items_V.device
    with progress(what, config.epochs, "epochs") as advance:
        for epoch in range(config.epochs):
            model.train()
            order = np.random.default_rng((config.seed, epoch)).permutation(rows)
            for rows_B in torch.from_numpy(order).to(device).split(config.batch):
                optimizer.zero_grad()
                loss(rows_B).backward()
                optimizer.step()
            score = validate_in_eval(model, validate)
            stale += 1
            if score > best:
                best, stale, kept = score, 0, {n: t.clone() for n, t in model.state_dict().items()}
            advance(1, f"validation {score:.4f}  best {best:.4f}")
            if stale >= config.patience:
                break
    model.load_state_dict(kept)
    model.eval().requires_grad_(False)
    return best


def validate_in_eval(model: Behaviour, validate: Callable[[], float]) -> float:
    model.eval()
    return validate()
