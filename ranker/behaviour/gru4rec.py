"""GRU4Rec (Hidasi et al., ICLR'16): a recurrent network over a user's items; its last state is the user."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table
from shared.catalog import PAD


class GRU4Rec(Behaviour):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.items = item_table(sizes)
        self.gru = nn.GRU(sizes.width, sizes.width, batch_first=True)
        self.out = nn.Linear(sizes.width, sizes.width)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        length_B = (histories_BL != PAD).sum(1)
        places_L = torch.arange(histories_BL.shape[1], device=histories_BL.device)
        # To the left: a pad before the first item would move the state.
        from_left_BL = (places_L + histories_BL.shape[1] - length_B[:, None]) % histories_BL.shape[1]
        states_BLD, _ = self.gru(self.items(histories_BL.gather(1, from_left_BL)))
        last_BD = states_BLD[torch.arange(len(length_B), device=length_B.device), (length_B - 1).clamp(min=0)]
        return self.out(last_BD * (length_B > 0)[:, None])
