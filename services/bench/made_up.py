"""Random items and users: the hardest that an index can meet, since nothing lies near anything."""

from __future__ import annotations

import numpy as np
import torch

from retriever.lrurec import LRURec, LRURecConfig

D, USERS = 64, 64


def made_up(items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Items N x D, their biases N, and users."""
    rng = np.random.default_rng(0)
    items_ND = rng.standard_normal((items, D), dtype=np.float32)
    bias_N = rng.standard_normal(items, dtype=np.float32)
    return items_ND, bias_N, rng.standard_normal((USERS, D), dtype=np.float32)


def model_of(items_ND: np.ndarray, bias_N: np.ndarray) -> LRURec:
    """Untrained but for its items: what it answers means nothing, and takes as long."""
    model = LRURec(LRURecConfig(items=len(items_ND), width=D)).eval()
    with torch.no_grad():
        model.embedding.weight[1:] = torch.from_numpy(items_ND)
        model.bias_V[1:] = torch.from_numpy(bias_N)
    return model
