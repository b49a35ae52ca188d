"""A small recommender beside the language model: vectors of users and items out of interactions alone.

Shapes:  B pairs  L positions, left padded, oldest first  D width  U users + 1 (row 0 is nobody)
         V catalogue size + 1 (row 0 is PAD)  N any number of items
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from shared.catalog import PAD

NOBODY = 0


@dataclass(frozen=True, kw_only=True)
class Sizes:
    users: int
    items: int
    width: int
    window: int
    """Items of history that the model sees."""
    edges: int = 0
    """Of LightGCN's graph."""
    state: int = 128
    blocks: int = 2
    """Of LRURec."""


class Behaviour(nn.Module):
    """Scores pairs; gives each side's vector. A row that training never saw has no vector: see `knows_*`."""

    by_history: ClassVar[bool] = True
    """The user's vector comes from the history, not from the user's own row."""
    by_item: ClassVar[bool] = False
    """The user's vector depends on the item in question."""

    known_users_U: Tensor
    known_items_V: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("known_users_U", torch.zeros(sizes.users + 1, dtype=torch.bool))
        self.register_buffer("known_items_V", torch.zeros(sizes.items + 1, dtype=torch.bool))

    def learnt(self, users_N: Tensor, items_N: Tensor) -> None:
        """Training saw these."""
        self.known_users_U[users_N] = True
        self.known_items_V[items_N] = True
        self.known_users_U[NOBODY] = self.known_items_V[PAD] = False

    def knows_items(self, items_N: Tensor) -> Tensor:
        return self.known_items_V[items_N]

    def knows_users(self, users_B: Tensor, histories_BL: Tensor) -> Tensor:
        return self.known_items_V[histories_BL].any(-1) if self.by_history else self.known_users_U[users_B]

    @torch.no_grad()
    def known_item_vectors(self) -> Tensor:
        return self.item_vectors(torch.nonzero(self.known_items_V)[:, 0])

    def item_vectors(self, items_N: Tensor) -> Tensor:
        raise NotImplementedError

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        """B x D. items_B: the items that the users are asked about, which matter where `by_item`."""
        raise NotImplementedError

    def item_biases(self, items_N: Tensor) -> Tensor:
        """N: what an item has for everybody, beside its vector."""
        return torch.zeros(len(items_N), device=items_N.device)

    def logits(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        """B: how much each user wants each item."""
        product_B = (self.user_vectors(users_B, histories_BL, items_B) * self.item_vectors(items_B)).sum(-1)
        return product_B + self.item_biases(items_B)


def item_table(sizes: Sizes, std: float = 0.02) -> nn.Embedding:
    table = nn.Embedding(sizes.items + 1, sizes.width, padding_idx=PAD)
    nn.init.normal_(table.weight, std=std)
    with torch.no_grad():
        table.weight[PAD].zero_()
    return table
