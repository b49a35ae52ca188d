"""DIN (Zhou et al., KDD'18): the history weighed by each item's nearness to the one asked about."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table
from shared.catalog import PAD


class DIN(Behaviour):
    by_item = True

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.items = item_table(sizes, std=0.01)
        self.activation = nn.Sequential(nn.Linear(4 * sizes.width, 80), nn.PReLU(), nn.Linear(80, 1))
        self.head = nn.Sequential(
            nn.Linear(3 * sizes.width, 80), nn.PReLU(), nn.Linear(80, 40), nn.PReLU(), nn.Linear(40, 1)
        )

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        """Weights are not normalised, so that the intensity of an interest stays (section 4.3)."""
        history_BLD, target_B1D = self.items(histories_BL), self.items(items_B)[:, None]
        target_BLD = target_B1D.expand_as(history_BLD)
        both = (history_BLD, target_BLD, history_BLD - target_BLD, history_BLD * target_BLD)
        weight_BL1 = self.activation(torch.cat(both, dim=-1))
        return (weight_BL1 * (histories_BL != PAD)[..., None] * history_BLD).sum(1)

    def logits(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        user_BD, item_BD = self.user_vectors(users_B, histories_BL, items_B), self.items(items_B)
        return self.head(torch.cat([user_BD, item_BD, user_BD * item_BD], dim=-1))[:, 0]
