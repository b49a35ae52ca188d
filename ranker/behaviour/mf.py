"""Matrix factorisation (Koren et al., 2009): a vector per user, a vector per item, their product."""

from __future__ import annotations

from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table


class MF(Behaviour):
    by_history = False

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.users = nn.Embedding(sizes.users + 1, sizes.width)
        nn.init.normal_(self.users.weight, std=0.1)
        self.items = item_table(sizes, std=0.1)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        return self.users(users_B)
