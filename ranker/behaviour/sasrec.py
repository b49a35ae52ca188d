"""SASRec (Kang and McAuley, ICDM'18): causal self-attention over a user's items; the last state is the user."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ranker.behaviour.model import Behaviour, Sizes, item_table
from shared.catalog import PAD

BLOCKS, HEADS, DROPOUT = 2, 2, 0.2


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x_BLD: Tensor, mask_B1LL: Tensor) -> Tensor:
        query, key, value = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self._attended(x_BLD))
        mixed_BLD = F.scaled_dot_product_attention(query, key, value, mask_B1LL).transpose(1, 2).flatten(2)
        x_BLD = x_BLD + self.dropout(self.out(mixed_BLD))
        return x_BLD + self.dropout(self.down(F.relu(self.up(self.norm2(x_BLD)))))

    def _attended(self, x_BLD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed_BLD = self.norm(x_BLD)
        key_BLD, value_BLD = self.key_value(normed_BLD).chunk(2, dim=-1)
        return self.query(normed_BLD), key_BLD, value_BLD


class SASRec(Behaviour):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.items = item_table(sizes)
        self.places = nn.Embedding(sizes.window, sizes.width)
        nn.init.normal_(self.places.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(sizes.width) for _ in range(BLOCKS))
        self.norm = nn.LayerNorm(sizes.width)
        self.dropout = nn.Dropout(DROPOUT)

    def item_vectors(self, items_N: Tensor) -> Tensor:
        return self.items(items_N)

    def user_vectors(self, users_B: Tensor, histories_BL: Tensor, items_B: Tensor) -> Tensor:
        length = histories_BL.shape[1]
        real_BL = histories_BL != PAD
        # Places count from the end, so that padding changes nothing.
        places_L = torch.arange(self.sizes.window - length, self.sizes.window, device=histories_BL.device)
        x_BLD = self.dropout(self.items(histories_BL) * self.sizes.width**0.5 + self.places(places_L))
        causal_LL = torch.ones(length, length, dtype=torch.bool, device=x_BLD.device).tril()
        itself_LL = torch.eye(length, dtype=torch.bool, device=x_BLD.device)
        mask_B1LL = ((causal_LL & real_BL[:, None, :]) | itself_LL)[:, None]
        for block in self.blocks:
            x_BLD = block(x_BLD, mask_B1LL)
        return self.norm(x_BLD[:, -1])
