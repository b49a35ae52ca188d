"""SVD++ (Koren, KDD'08, equation 15): MF with a bias for each side, and a user who also is what he has.

    logit = mean + b_u + b_i + q_i . (p_u + |N|^-1/2 sum over j in N of y_j)        N: the history

The biases ride on two coordinates of their own, so that the logit stays the product of the two sides' vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table
from shared.catalog import PAD

BIASES = 2
"""Coordinates of `width`."""
STD = 0.01
SWIFT = 30.0
"""A bias moves so much faster than a factor. Adam's steps are equal, and in the time that the biases would take to
reach their place, the factors learn the training pairs by heart (docs/log.md)."""


class SVDpp(Behaviour):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.items = item_table(sizes, std=STD)
        self.users = _nought(sizes.users + 1, sizes.width)
        self.implicit = _nought(sizes.items + 1, sizes.width - BIASES)
        self.mean = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            self.items.weight[:, -1] = 0

    def knows_users(self, users_B: Tensor, histories_BL: Tensor) -> Tensor:
        """By their row or by their history."""
        return self.known_users_U[users_B] | super().knows_users(users_B, histories_BL)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        """N x D: q_i, 1, b_i."""
        row_ND = self.items(items_N)
        return torch.cat([row_ND[:, :-BIASES], torch.ones_like(row_ND[:, -1:]), SWIFT * row_ND[:, -1:]], dim=-1)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        """B x D: p_u and the history's sum, mean + b_u, 1. A user without a row is the history alone."""
        row_BD = self.users(users_B)
        many_B1 = (histories_BL != PAD).sum(-1, keepdim=True).clamp(min=1)
        has_BF = self.implicit(histories_BL).sum(1) * many_B1**-0.5
        bias_B1 = SWIFT * (row_BD[:, -1:] + self.mean)
        return torch.cat([row_BD[:, :-BIASES] + has_BF, bias_B1, torch.ones_like(bias_B1)], dim=-1)


def _nought(rows: int, width: int) -> nn.Embedding:
    """Rows that training never reaches say nothing, and PAD's never learns."""
    table = nn.Embedding(rows, width, padding_idx=PAD)
    nn.init.zeros_(table.weight)
    return table
